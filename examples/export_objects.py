"""Segment an image and take the objects to other programs: Fiji, QuPath, COCO, a table of measurements.

python examples/export_objects.py [image] [output folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.exports import export_labels
from micro_sam.io import load_image_data, open_image
from micro_sam.sample_data import synthetic_data


def main(folder: Path = Path("demo_output"), image_path: str | None = None) -> list[Path]:
    """Segment, write, and say what was written."""
    folder.mkdir(exist_ok=True)
    if image_path is None:
        image, resolution = synthetic_data((256, 256), seed=1, diameter=40)[0], None
    else:
        image, resolution = load_image_data(image_path), open_image(image_path).resolution
    predictor, segmenter = get_predictor_and_segmenter("vit_t_builtin")
    labels = automatic_instance_segmentation(predictor, segmenter, image, verbose=False)

    names = {
        "cells_rois.zip": "ImageJ and Fiji: drag it into the window",
        "cells.geojson": "QuPath: drag it into the image",
        "cells.json": "COCO, for training other networks",
        "cells.csv": "a table of sizes, places, shapes and intensities",
        "cells.ome.tif": "labels with the size of a pixel",
    }
    print(f"{labels.max()} objects")
    for name, what in names.items():
        export_labels(folder / name, labels, image=image, resolution=resolution, overwrite=True)
        print(f"  {folder / name}: {what}")
    return [folder / name for name in names]


if __name__ == "__main__":
    main(
        Path(sys.argv[2] if len(sys.argv) > 2 else "demo_output"),
        sys.argv[1] if len(sys.argv) > 1 else None,
    )
