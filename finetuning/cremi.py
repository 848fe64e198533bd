"""Train the specialist for neurons in electron microscopy.

    python finetuning/cremi.py --data DATA [--download] [--check] [-m vit_l]

Data: CREMI samples A, B and C: sections of a fly brain; the last 25 sections of each are held out.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="cremi", data_sets=("cremi",), patches=1000, min_size=50)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
