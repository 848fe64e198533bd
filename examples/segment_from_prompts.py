"""Segment single objects from a point and from a box, and keep the embeddings for the next time.

python examples/segment_from_prompts.py [output folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage.data

from micro_sam.io import write_overlay
from micro_sam.prompt_based_segmentation import segment_from_box, segment_from_points
from micro_sam.util import get_sam_model, precompute_image_embeddings, set_precomputed


def main(folder: Path = Path("demo_output")) -> None:
    """Segment the cell in scikit-image's picture of one."""
    image = skimage.data.cell()
    folder.mkdir(exist_ok=True)

    predictor = get_sam_model("vit_t_builtin")
    embeddings = precompute_image_embeddings(predictor, image, save_path=folder / "cell.zarr")
    set_precomputed(predictor, embeddings)

    points_yx = np.array([[375, 430], [100, 100]])
    inside = np.array([1, 0])  # the second point lies outside the object
    from_points = segment_from_points(predictor, points_yx, inside)
    from_box = segment_from_box(predictor, np.array([305, 360, 445, 498]))  # min_y, min_x, max_y, max_x

    for name, mask in (("points", from_points), ("box", from_box)):
        mask = mask.squeeze()
        write_overlay(folder / f"cell_from_{name}.png", image, mask.astype(np.uint8))
        print(f"from {name}: {int(mask.sum())} pixels")
    print(f"Results are in {folder}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo_output"))
