"""Train the specialist for cells in many modalities.

    python finetuning/neurips_cellseg.py --data DATA [--download] [--check] [-m vit_l]

Data: The NeurIPS 2022 challenge on cell segmentation: brightfield, phase contrast, fluorescence and DIC.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="neurips_cellseg", data_sets=("neurips_cellseg",))

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
