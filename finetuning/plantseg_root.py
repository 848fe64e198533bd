"""Train the specialist for cells of plant roots.

    python finetuning/plantseg_root.py --data DATA [--download] [--check] [-m vit_l]

Data: PlantSeg: light sheet volumes of Arabidopsis roots, of which planes are taken.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="plantseg_root", data_sets=("plantseg_root",), patches=1000)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
