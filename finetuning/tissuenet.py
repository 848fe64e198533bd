"""Train the specialist for cells in tissue.

    python finetuning/tissuenet.py --data DATA [--download] [--check] [-m vit_l]

Data: TissueNet: two fluorescence channels (nuclei and membranes), whole cells.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="tissuenet", data_sets=("tissuenet",), patch_shape=(256, 256), min_size=15)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
