"""Segment every object in an image, with the model that is part of micro_sam, and try other parameters.

python examples/automatic_segmentation.py [image] [output folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage.data

from micro_sam.automatic_segmentation import get_predictor_and_segmenter
from micro_sam.io import load_image_data, write_labels, write_overlay


def main(folder: Path = Path("demo_output"), image_path: str | None = None) -> None:
    """Segment the image three times, doing the slow part once."""
    image = skimage.data.immunohistochemistry() if image_path is None else load_image_data(image_path)
    folder.mkdir(exist_ok=True)

    _, segmenter = get_predictor_and_segmenter("vit_t_builtin")
    segmenter.initialize(image, verbose=True)
    for threshold in (0.4, 0.5, 0.6):
        labels = segmenter.generate(center_distance_threshold=threshold, min_size=20)
        write_labels(folder / f"labels_{threshold}.tif", labels)
        write_overlay(folder / f"overlay_{threshold}.png", image, labels)
        print(f"centre distance threshold {threshold}: {len(set(labels.ravel()) - {0})} objects")
    print(f"Results are in {folder}.")


if __name__ == "__main__":
    main(
        Path(sys.argv[2] if len(sys.argv) > 2 else "demo_output"),
        sys.argv[1] if len(sys.argv) > 1 else None,
    )
