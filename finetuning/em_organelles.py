"""Train the generalist for organelles in electron microscopy, as `vit_b_em_organelles` was.

    python finetuning/em_organelles.py --data DATA [--download] [--check] [-m vit_l]

Data: MitoEM and MitoLab (mitochondria) and Platynereis (nuclei), the planes of volumes, equally many patches of each.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="em_organelles", data_sets=("mitoem", "mitolab", "platynereis_nuclei"), min_size=50)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
