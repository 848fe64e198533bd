"""Writing objects, in a format that follows from the path."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError
from micro_sam.exports.content import LabelledImage
from micro_sam.exports.registry import check_export
from micro_sam.exports.settings import ExportSettings
from micro_sam.io.resolution import Resolution
from micro_sam.progress import Progress, drain


def export_labels(
    path: str | os.PathLike,
    labels: np.ndarray,
    *,
    resolution: Resolution | None = None,
    image: Any | None = None,
    classes: Mapping[int, str] | None = None,
    lineages: Sequence[Mapping[int, Sequence[int]]] = (),
    is_timeseries: bool = False,
    name: str | None = None,
    settings: ExportSettings | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> Path:
    """Export labels in the format that the suffix of the path names; see `micro_sam.exports.FORMATS`.

    Args:
        path: ``.tif``, ``.ome.tif``, ``.zarr``: labels; ``.zip``: ImageJ ROIs; ``.geojson``: QuPath; ``.json``: COCO; ``.csv``,
            ``.parquet``: measurements; ``.geff`` or a folder without suffix: tracks.
        labels: Integer labels YX, ZYX or TYX.
        resolution: The size of a pixel.
        image: The image that they belong to, of their shape or with channels last, for intensities.
        classes: Label -> name of its class.
        lineages: For tracks, label -> labels of the daughters, one dict per family.
        is_timeseries: The first of three axes is time.
        name: What the image is called; the name of the file by default.
        settings: Further choices.
        overwrite: Replace what is there.
        verbose: Show a progress bar.

    Returns:
        The path.

    Raises:
        ParameterError: They are not labels, the image does not fit, or tracks are wanted of something else.
        OutputError: It cannot be written, or is there already.
        MissingDependencyError: A package is needed that is not installed.
    """
    content = LabelledImage(
        np.asarray(labels),
        is_timeseries,
        resolution or Resolution({}),
        image,
        classes or {},
        lineages,
        name or Path(path).name.split(".")[0],
    )
    return drain(iter_export(path, content, settings, overwrite), verbose)


def iter_export(
    path: str | os.PathLike, content: LabelledImage, settings: ExportSettings | None = None, overwrite: bool = False
) -> Generator[Progress, None, Path]:
    """`export_labels` as a generator; the file appears when it is complete."""
    path = Path(path)
    found = check_export(path, overwrite)
    if found.is_tracks and not content.is_timeseries:
        raise ParameterError(f"{found.title} needs a time series (TYX), but the labels are {content.axes}.")
    yield Progress(0, 1, f"Export {found.title}")
    yield from found.load().iter_write(path, content, settings or ExportSettings())
    yield Progress(1, 1, f"Export {found.title}")
    return path
