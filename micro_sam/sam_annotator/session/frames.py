"""Which tracks are in which frame, and where: kept up to date frame by frame, so that edits of long series stay quick."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from micro_sam.multi_dimensional_segmentation.tracking_objects import measure_objects


def ids_of(plane: np.ndarray) -> frozenset[int]:
    """The labels in a plane, without background."""
    return frozenset(np.unique(plane).tolist()) - {0}


class FrameTable:
    """The tracks of every frame of a label stack that changes in place.

    Args:
        labels: Tracked labels (TYX).
    """

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels
        self._ids: list[frozenset[int] | None] = [None] * len(labels)
        self._rows: list[np.ndarray | None] = [None] * len(labels)

    def forget(self, frames: Iterable[int]) -> None:
        """These frames changed."""
        for frame in frames:
            self._ids[frame] = self._rows[frame] = None

    def ids(self, frame: int) -> frozenset[int]:
        """The tracks in a frame."""
        if self._ids[frame] is None:
            self._ids[frame] = ids_of(self._labels[frame])
        return self._ids[frame]

    def spans(self) -> dict[int, tuple[int, int]]:
        """First and last frame of each track."""
        found: dict[int, tuple[int, int]] = {}
        for frame in range(len(self._labels)):
            for track in self.ids(frame):
                found[track] = (found.get(track, (frame,))[0], frame)
        return found

    def frames_of(self, track: int) -> list[int]:
        """The frames in which a track is."""
        return [frame for frame in range(len(self._labels)) if track in self.ids(frame)]

    def points(self) -> np.ndarray:
        """One row per track and frame, sorted by these: track, frame, y, x of the centroid; float (n, 4)."""
        for frame, rows in enumerate(self._rows):
            if rows is None:
                objects = measure_objects(self._labels[frame])
                self._rows[frame] = np.column_stack([objects.ids, np.full(len(objects), frame), objects.centres])
        rows = np.concatenate([np.zeros((0, 4)), *(r.reshape(-1, 4) for r in self._rows)])
        return rows[np.lexsort((rows[:, 1], rows[:, 0]))]
