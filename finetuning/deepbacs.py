"""Train the specialist for bacteria.

    python finetuning/deepbacs.py --data DATA [--download] [--check] [-m vit_l]

Data: DeepBacs, the mixed collection: brightfield and fluorescence of several species.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="deepbacs", data_sets=("deepbacs",), patches=1000, min_size=15)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
