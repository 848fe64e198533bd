"""Train the generalist for light microscopy, as `vit_b_lm` was.

    python finetuning/light_microscopy.py --data DATA [--download] [--check] [-m vit_l]

Data: LIVECell (phase contrast), TissueNet (tissue), NeurIPS CellSeg (many modalities), DeepBacs (bacteria), PlantSeg roots
(light sheet, the planes of volumes) and DSB 2018 (nuclei), equally many patches of each.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

RECIPE = Recipe(
    name="light_microscopy",
    data_sets=("livecell", "tissuenet", "neurips_cellseg", "deepbacs", "plantseg_root", "dsb"),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
