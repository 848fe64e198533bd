"""Train the specialist for cells in phase contrast.

    python finetuning/livecell.py --data DATA [--download] [--check] [-m vit_l]

Data: LIVECell: 3188 training images of eight cell lines.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(name="livecell", data_sets=("livecell",))

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
