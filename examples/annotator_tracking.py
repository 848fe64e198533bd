"""Correct tracks in a napari window: Shift+E takes up the track under the mouse, Shift+S tracks it anew, C keeps it.

    python examples/annotator_tracking.py [time series] [tracks]

Without arguments a time series is made whose tracks are known; one family is left out, to be tracked by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.io import load_image_data, read_tracks
from micro_sam.sam_annotator import annotator_tracking
from micro_sam.sample_data import synthetic_timeseries

if TYPE_CHECKING:
    import napari

Tracks = tuple[np.ndarray, list[dict[int, list[int]]]]


def main(folder: Path = Path("demo_output"), *paths: str, **options: Any) -> napari.Viewer | None:
    """Open the annotator; further options are those of `annotator_tracking`."""
    folder.mkdir(exist_ok=True)
    if paths:
        images, tracks = load_image_data(paths[0]), read_tracks(paths[1]) if len(paths) > 1 else None
    else:
        images, tracks = known_tracks()
    return annotator_tracking(
        images,
        embedding_path=folder / "annotator_tracking.zarr",
        model_type="vit_t_builtin",
        tracking_result=tracks,
        **options,
    )


def known_tracks() -> tuple[np.ndarray, Tracks]:
    """A time series, and the tracks of all families but the first."""
    images, labels, lineages = synthetic_timeseries((4, 192, 192), seed=5, diameter=30)
    left_out = list(lineages[0])
    return images, (np.where(np.isin(labels, left_out), 0, labels), lineages[1:])


if __name__ == "__main__":
    main(Path("demo_output"), *sys.argv[1:3])
