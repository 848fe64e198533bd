"""Train the specialist for endoplasmic reticulum in electron microscopy.

    python finetuning/asem_er.py --data DATA [--download] [--check] [-m vit_l]

Data: ASEM: FIB-SEM volumes of cells; connected parts of the reticulum are objects, one cell is held out.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="asem_er", data_sets=("asem_er",), patches=1000, min_size=50)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
