"""Write and read tracking results, in a format that follows from the path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from micro_sam.errors import OutputError
from micro_sam.io.labels import TIF_SUFFIXES, ZARR_SUFFIXES, check_labels_path, write_labels
from micro_sam.io.paths import stem
from micro_sam.io.resolution import Resolution
from micro_sam.io.track_tables import Lineages, table_from_lineages
from micro_sam.io.tracks_ctc import check_ctc_folder, write_ctc
from micro_sam.io.tracks_geff import check_geff_path, write_geff

GEFF_SUFFIX = ".geff"
TRACK_FORMATS = ("geff", "ctc")


def track_paths(output: str | os.PathLike, formats: tuple[str, ...] = ("geff",)) -> dict[str, Path]:
    """What is written for an output path, by kind: "labels", "geff" and "ctc".

    ``tracked.tif`` or ``tracked.zarr`` are labels, with ``tracked.geff`` or the folder ``tracked_ctc`` beside them;
    ``tracked.geff`` alone is the graph, and any other name a Cell Tracking Challenge folder, which holds everything.

    Args:
        output: The output path.
        formats: What to write beside labels: "geff", "ctc", both or nothing.

    Raises:
        OutputError: An unknown suffix.
    """
    path = Path(output)
    suffix = path.suffix.lower()
    if suffix == GEFF_SUFFIX:
        return {"geff": path}
    if suffix in TIF_SUFFIXES + ZARR_SUFFIXES:
        beside = {"geff": path.with_name(f"{stem(path)}{GEFF_SUFFIX}"), "ctc": path.with_name(f"{stem(path)}_ctc")}
        return {"labels": path} | {name: beside[name] for name in formats}
    if suffix and not path.is_dir():
        raise OutputError(
            f"Tracks are written as .tif, .zarr, .geff or a folder without suffix, got '{path}'; choose one."
        )
    return {"ctc": path}


def check_track_paths(paths: dict[str, Path]) -> None:
    """Raise an `OutputError` if one of the `track_paths` cannot be written; nothing is written yet."""
    checks = {"labels": check_labels_path, "geff": check_geff_path, "ctc": check_ctc_folder}
    for kind, path in paths.items():
        checks[kind](path)


def write_tracks(
    output: str | os.PathLike,
    labels: Any,
    lineages: Lineages,
    resolution: Resolution | None = None,
    formats: tuple[str, ...] = ("geff",),
) -> dict[str, Path]:
    """Write a tracking result.

    Args:
        output: See `track_paths`.
        labels: Tracked labels, TYX.
        lineages: The lineages, label -> labels of the daughters.
        resolution: The pixel size.
        formats: What to write beside labels: "geff", "ctc", both or nothing.

    Returns:
        What was written, by kind.

    Raises:
        TrackError: Labels and lineages do not fit each other.
        OutputError: It cannot be written.
    """
    paths = track_paths(output, formats)
    check_track_paths(paths)
    table_from_lineages(labels, lineages)  # before anything is written
    if "labels" in paths:
        write_labels(paths["labels"], labels, resolution, is_timeseries=True)
    if "geff" in paths:
        write_geff(paths["geff"], labels, lineages, resolution, paths.get("labels"))
    if "ctc" in paths:
        write_ctc(paths["ctc"], labels, lineages)
    return paths
