"""Classify objects in a napari window: paint over some objects of each class, and all others are classified.

    python examples/object_classifier.py [image] [labels]

Without arguments an image is made whose nuclei are bright or dim.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify_objects import bright_and_dim

from micro_sam.io import load_image_data
from micro_sam.sam_annotator.object_classifier import object_classifier

if TYPE_CHECKING:
    import napari


def main(folder: Path = Path("demo_output"), *paths: str, **options: Any) -> napari.Viewer | None:
    """Open the window; further options are those of `object_classifier`."""
    folder.mkdir(exist_ok=True)
    image, labels = (load_image_data(path) for path in paths) if paths else bright_and_dim(seed=1)[:2]
    return object_classifier(
        image, labels, embedding_path=folder / "object_classifier.zarr", model_type="vit_t_builtin", **options
    )


if __name__ == "__main__":
    main(Path("demo_output"), *sys.argv[1:3])
