"""Annotate an image in a napari window: click an object, see it, press C to keep it, click the next.

    python examples/annotator_2d.py [image]

Without an image one of synthetic nuclei is made, of which two thirds are committed already: correct them, add the others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.io import load_image_data
from micro_sam.sam_annotator import annotator_2d
from micro_sam.sample_data import synthetic_data

if TYPE_CHECKING:
    import napari


def main(folder: Path = Path("demo_output"), image_path: str | None = None, **options: Any) -> napari.Viewer | None:
    """Open the annotator; further options are those of `annotator_2d`."""
    folder.mkdir(exist_ok=True)
    if image_path is not None:
        image, begin_with = load_image_data(image_path), None
    else:
        image, truth = synthetic_data((256, 256), seed=1, diameter=40)
        begin_with = np.where(truth % 3 > 0, truth, 0)  # labels of an earlier day, or of another program
    return annotator_2d(
        image,
        embedding_path=folder / "annotator_2d.zarr",  # computed once, there at once the next time
        segmentation_result=begin_with,
        model_type="vit_t_builtin",
        commit_path=folder / "annotator_2d.tif",  # saved after every commit
        **options,
    )


if __name__ == "__main__":
    main(image_path=sys.argv[1] if len(sys.argv) > 1 else None)
