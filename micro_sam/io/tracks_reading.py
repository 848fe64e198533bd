"""Read tracking results, whatever they were written as."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from micro_sam.errors import InputError, MissingInputError, TrackError
from micro_sam.io.images import load_image_data
from micro_sam.io.labels import TIF_SUFFIXES, ZARR_SUFFIXES
from micro_sam.io.paths import stem
from micro_sam.io.track_tables import check_table, families_of, frames_of_tracks, lineages_from_table
from micro_sam.io.tracks import GEFF_SUFFIX
from micro_sam.io.tracks_ctc import _read_table, read_ctc
from micro_sam.io.tracks_geff import TrackGraph, read_geff

_TABLES = ("res_track.txt", "man_track.txt")
Tracked = tuple[np.ndarray, list[dict[int, list[int]]]]


def read_tracks(path: str | os.PathLike, key: str | None = None) -> Tracked:
    """Read tracked labels and their lineages; the counterpart of `write_tracks`.

    Args:
        path: A Cell Tracking Challenge folder (or the table in it), a ``.geff`` that names its labels or has them beside it,
            or a label stack. Beside a label stack ``cells.tif`` a graph ``cells.geff`` or a table ``cells.txt``,
            ``res_track.txt`` or ``man_track.txt`` is used; without, every track is a family of its own.
        key: The data set inside the file of the labels.

    Returns:
        Labels TYX, and one dict per family, label -> labels of the daughters.

    Raises:
        MissingInputError: There is no such file.
        InputError: It cannot be read, or labels and lineages do not fit each other.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There are no tracks '{path}'; check the path.")
    if path.suffix.lower() == ".txt" and not list(path.parent.glob("mas*[0-9].tif*")):
        return _with_table(_labels_beside(path), path, key)
    if path.suffix.lower() == ".txt":
        return read_ctc(path.parent)
    if path.is_dir() and any((path / table).is_file() for table in _TABLES):
        return read_ctc(path)
    if path.suffix.lower() == GEFF_SUFFIX:
        graph = read_geff(path)
        labels = graph.labels_path if graph.labels_path and graph.labels_path.exists() else _labels_beside(path)
        return _with_graph(labels, path, graph, key)
    return _from_labels(path, key)


def _from_labels(path: Path, key: str | None) -> Tracked:
    graph = path.with_name(f"{stem(path)}{GEFF_SUFFIX}")
    if graph.exists():
        return _with_graph(path, graph, read_geff(graph), key)
    for table in (path.with_name(f"{stem(path)}.txt"), *(path.with_name(name) for name in _TABLES)):
        if table.is_file():
            return _with_table(path, table, key)
    labels = _load(path, key)
    return labels, families_of({track: [] for track in frames_of_tracks(labels)})


def _labels_beside(path: Path) -> Path:
    for suffix in (*TIF_SUFFIXES, *ZARR_SUFFIXES):
        labels = path.with_suffix(suffix)
        if labels.exists():
            return labels
    raise MissingInputError(
        f"'{path}' has no labels beside it; expected for example '{path.with_suffix('.tif').name}'."
    )


def _load(path: Path, key: str | None) -> np.ndarray:
    labels = load_image_data(str(path), key)
    if labels.ndim not in (3, 4) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"Tracked labels are integers TYX, '{path}' holds {labels.dtype} of shape {tuple(labels.shape)}."
        )
    return labels


def _with_table(path: Path, table: Path, key: str | None) -> Tracked:
    """Labels with a table; tracks may have gaps here, unlike in a folder of the challenge."""
    labels = _load(path, key)
    try:
        rows = check_table(_read_table(table), len(labels))
    except TrackError as error:
        raise InputError(f"The table '{table}' cannot be used: {error}") from error
    known = dict.fromkeys(rows[:, 0].tolist())
    for track, frames in frames_of_tracks(labels).items():
        if track not in known:
            raise InputError(f"Frame {frames[0]} of '{path}' holds label {track}, which is not in '{table}'.")
    return labels, lineages_from_table(rows)


def _with_graph(path: Path, graph_path: Path, graph: TrackGraph, key: str | None) -> Tracked:
    """Labels with a graph; they get the graph's track numbers, where those are not the labels already."""
    labels = _load(path, key)
    rows = np.round(graph.points).astype(int)
    inside = (rows[:, 1:] >= 0).all(axis=1) & (rows[:, 1:] < labels.shape).all(axis=1)
    if not inside.all() or rows.shape[1] != labels.ndim + 1:
        raise InputError(
            f"The graph '{graph_path}' has objects outside the labels '{path}'; they do not belong together."
        )
    tracks = {track: set(frames) for track, frames in frames_of_tracks(labels).items()}
    if {(track, frame) for track, frame in rows[:, :2].tolist()} == {
        (t, f) for t, some in tracks.items() for f in some
    }:
        return labels, graph.lineages
    return _renamed(labels, rows, path, graph_path), graph.lineages


def _renamed(labels: np.ndarray, rows: np.ndarray, path: Path, graph_path: Path) -> np.ndarray:
    """Labels with the number of the track whose point lies in them; those without a point are left out."""
    renamed = np.zeros(labels.shape, np.uint32)
    for track, frame, *place in rows.tolist():
        label = labels[(frame, *place)]
        if label == 0:
            raise InputError(
                f"In frame {frame} track {track} of '{graph_path}' lies on no object of '{path}'; they do not fit."
            )
        renamed[frame][labels[frame] == label] = track
    return renamed
