"""Tracks as a Cell Tracking Challenge folder or as a GEFF graph with its labels beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from micro_sam.errors import ParameterError
from micro_sam.exports.content import ImportedLabels, LabelledImage
from micro_sam.exports.fitting import fitted
from micro_sam.exports.settings import ExportSettings
from micro_sam.io.paths import stem
from micro_sam.io.tracks import GEFF_SUFFIX, check_track_paths, track_paths, write_tracks
from micro_sam.io.tracks_reading import read_tracks
from micro_sam.progress import Progress


def files_of(path: Path) -> dict[str, Path]:
    """What is written for a path: a graph needs its labels beside it to be opened again."""
    if path.suffix.lower() == GEFF_SUFFIX:
        return track_paths(path.with_name(f"{stem(path)}.tif"))
    return track_paths(path)


def check(path: Path) -> None:
    """Raise an `OutputError` if tracks cannot be written to a path."""
    check_track_paths(files_of(path))


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Iterator[Progress]:
    """Write tracks; without lineages every label is a family of its own."""
    if not content.is_timeseries:
        raise ParameterError(
            f"Tracks belong to a time series (TYX), but the labels are {content.axes}; choose another format."
        )
    yield Progress(0, 1, "Write tracks")
    target = files_of(path).get("labels", path)
    write_tracks(target, content.labels, content.lineages, content.resolution)


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read tracks with their lineages.

    Returns:
        The `ImportedLabels`.
    """
    yield Progress(0, 1, "Read tracks")
    labels, lineages = read_tracks(path, key)
    return ImportedLabels(fitted(labels, shape, scale, path), lineages=lineages, is_timeseries=True)
