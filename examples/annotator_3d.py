"""Annotate a volume in a napari window: click an object in a slice, press Shift+S to follow it, C to keep it.

    python examples/annotator_3d.py [volume]

Without a volume one of synthetic nuclei is made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_sam.io import load_image_data
from micro_sam.sam_annotator import annotator_3d
from micro_sam.sample_data import synthetic_data

if TYPE_CHECKING:
    import napari


def main(folder: Path = Path("demo_output"), volume_path: str | None = None, **options: Any) -> napari.Viewer | None:
    """Open the annotator; further options are those of `annotator_3d`."""
    folder.mkdir(exist_ok=True)
    if volume_path is not None:
        volume = load_image_data(volume_path, lazy_loading=True)
    else:
        volume, _ = synthetic_data((6, 192, 192), seed=2, diameter=40, density=0.4)
    return annotator_3d(
        volume,
        embedding_path=folder / "annotator_3d.zarr",
        model_type="vit_t_builtin",
        commit_path=folder / "annotator_3d.tif",
        projection="box",  # what the mask of a slice becomes in the next
        **options,
    )


if __name__ == "__main__":
    main(volume_path=sys.argv[1] if len(sys.argv) > 1 else None)
