"""Annotate the images of a folder one after another in a napari window: N saves and goes to the next.

    python examples/image_series.py [input folder] [output folder]

Without arguments three images are made. Close the window whenever you like: the same command goes on where you stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio

from micro_sam.sam_annotator import image_folder_annotator
from micro_sam.sample_data import synthetic_data

if TYPE_CHECKING:
    import napari


def main(images: Path | None = None, labels: Path | None = None, **options: Any) -> napari.Viewer | None:
    """Open the annotator; further options are those of `image_series_annotator`."""
    if images is None:
        images = make_images(Path("demo_output", "series"))
    return image_folder_annotator(images, labels or images.parent / "labels", model_type="vit_t_builtin", **options)


def make_images(folder: Path) -> Path:
    """Three images of nuclei in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(3):
        iio.imwrite(folder / f"nuclei_{i}.png", synthetic_data((256, 256), seed=i, diameter=44)[0])
    return folder


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
