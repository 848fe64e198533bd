"""Tracks as tables and as lineages, conversions between the two, and whether they fit the labels.

A table has one row per track: label, first frame, last frame, label of the mother or 0 (``L B E P`` of the Cell Tracking
Challenge). Lineages are a list with one dict per family: label -> labels of the daughters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from micro_sam.errors import TrackError

Lineages = Sequence[Mapping[int, Sequence[int]]]


def frames_of_tracks(labels: Any) -> dict[int, list[int]]:
    """The frames in which each label is there, in order, for a label stack (TYX or TZYX; array or lazy array)."""
    frames: dict[int, list[int]] = {}
    for frame in range(labels.shape[0]):
        ids = np.unique(np.asarray(labels[frame]))
        for label in ids[ids != 0].tolist():
            frames.setdefault(label, []).append(frame)
    return dict(sorted(frames.items()))


def mothers_of(lineages: Lineages) -> dict[int, int]:
    """Label -> label of the mother.

    Raises:
        TrackError: A track has two mothers or is its own.
    """
    mothers: dict[int, int] = {}
    for family in lineages:
        for mother, daughters in family.items():
            for daughter in daughters:
                if mothers.get(daughter, mother) != mother or daughter == mother:
                    other = "itself" if daughter == mother else f"{mothers[daughter]} and {mother}"
                    raise TrackError(f"A track comes from one other track, but track {daughter} comes from {other}.")
                mothers[int(daughter)] = int(mother)
    return mothers


def table_from_lineages(labels: Any, lineages: Lineages) -> np.ndarray:
    """The table of tracked labels; tracks that no lineage names have no mother.

    Args:
        labels: Tracked labels, TYX or TZYX.
        lineages: The lineages.

    Returns:
        int64, (n, 4), sorted by label.

    Raises:
        TrackError: A lineage names a track that is not in the labels, or a daughter that begins before its mother ends.
    """
    return table_from_frames(frames_of_tracks(labels), lineages, labels.shape[0])


def table_from_frames(frames: Mapping[int, Sequence[int]], lineages: Lineages, n_frames: int) -> np.ndarray:
    """`table_from_lineages` for labels of which only `frames_of_tracks` is known."""
    mothers = mothers_of(lineages)
    named = {int(label) for family in lineages for label in family} | set(mothers)
    absent = sorted(named - set(frames))
    if absent:
        raise TrackError(
            f"The lineages name track {absent[0]}, which is not in the labels; remove it from the lineages."
        )
    rows = [(label, seen[0], seen[-1], mothers.get(label, 0)) for label, seen in frames.items()]
    return check_table(np.array(rows, dtype=np.int64).reshape(-1, 4), n_frames)


def lineages_from_table(table: np.ndarray) -> list[dict[int, list[int]]]:
    """The lineages of a table, see `check_table`: one dict per track without mother, with all its descendants."""
    children: dict[int, list[int]] = {label: [] for label in table[:, 0].tolist()}
    for label, _, _, mother in table.tolist():
        if mother:
            children[mother].append(label)
    return families_of(children)


def families_of(children: Mapping[int, Sequence[int]]) -> list[dict[int, list[int]]]:
    """Sort tracks into families.

    Args:
        children: For every track the labels of its daughters.

    Returns:
        One dict per track without mother, in ascending order, with itself and all its descendants.
    """
    daughters = {child for some in children.values() for child in some}
    families = []
    for root in sorted(set(children) - daughters):
        members = [root]
        for label in members:
            members += sorted(children[label])
        families.append({label: sorted(children[label]) for label in members})
    return families


def check_table(table: Any, n_frames: int | None = None) -> np.ndarray:
    """Check that a table makes sense.

    Args:
        table: (n, 4): label, first frame, last frame, mother.
        n_frames: The number of frames, if known.

    Returns:
        The table, int64, sorted by label.

    Raises:
        TrackError: Which track is wrong, and why.
    """
    table = np.asarray(table)
    if table.ndim != 2 or table.shape[1] != 4 or not np.issubdtype(table.dtype, np.integer):
        raise TrackError(
            f"A table of tracks has four whole numbers per track (L B E P), got {table.dtype} {table.shape}."
        )
    table = table[np.argsort(table[:, 0], kind="stable")].astype(np.int64)
    last_of = {label: last for label, _, last, _ in table.tolist()}
    for row, (label, first, last, mother) in enumerate(table.tolist()):
        if label < 1:
            raise TrackError(f"Labels of tracks are positive, got {label}.")
        if row and table[row - 1, 0] == label:
            raise TrackError(f"Track {label} is in the table twice; name every track once.")
        if first < 0 or last < first:
            raise TrackError(f"Track {label} begins in frame {first} and ends in frame {last}; time must run forwards.")
        if n_frames is not None and last >= n_frames:
            raise TrackError(f"Track {label} ends in frame {last}, but there are {n_frames} frames (from 0).")
        if mother and mother not in last_of:
            raise TrackError(f"Track {label} comes from track {mother}, which is not in the table.")
        if mother and last_of[mother] >= first:
            raise TrackError(
                f"Track {label} begins in frame {first}, but its mother {mother} is there until frame {last_of[mother]}; "
                "a daughter begins after its mother ends."
            )
    return table


def check_table_fits(table: np.ndarray, labels: Any) -> None:
    """Check that the labels hold the tracks of a table, in every frame from the first to the last, and no others.

    Args:
        table: From `check_table`.
        labels: Tracked labels, TYX or TZYX.

    Raises:
        TrackError: The first track that does not fit.
    """
    frames = frames_of_tracks(labels)
    unknown = sorted(set(frames) - set(table[:, 0].tolist()))
    if unknown:
        raise TrackError(
            f"Frame {frames[unknown[0]][0]} holds label {unknown[0]}, which is not in the table of tracks."
        )
    for label, first, last, _ in table.tolist():
        seen = set(frames.get(label, ()))
        missing = sorted(set(range(first, last + 1)) - seen)
        if missing:
            raise TrackError(
                f"Track {label} lasts from frame {first} to {last}, but frame {missing[0]} does not hold it."
            )
        outside = sorted(seen - set(range(first, last + 1)))
        if outside:
            raise TrackError(f"Track {label} lasts from frame {first} to {last}, but it is also in frame {outside[0]}.")
