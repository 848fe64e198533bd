"""What the linking of frames needs to know of the objects in a frame: place, size and shape."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from micro_sam.errors import ImageError
from micro_sam.progress import Progress

ENOUGH_PAIRS = 5
"""From so many pairs on, something can be said of their motion."""


@dataclass(frozen=True)
class FrameObjects:
    """The objects of one frame, in ascending order of their labels.

    Attributes:
        ids: Labels in the frame, int64 (n,).
        areas: Numbers of pixels, float (n,).
        centres: Centroids in pixels, (n, ndim), in axis order (y, x) or (z, y, x).
        moments: Covariance matrices of the pixel coordinates, (n, ndim, ndim), in square pixels.
        at_border: Whether they touch the border of the frame, bool (n,).
    """

    ids: np.ndarray
    areas: np.ndarray
    centres: np.ndarray
    moments: np.ndarray
    at_border: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def radii(self) -> np.ndarray:
        """Radii of discs (balls in 3d) of the same size, in pixels, (n,)."""
        if self.centres.shape[1] == 2:
            return np.sqrt(self.areas / np.pi)
        return np.cbrt(self.areas * 0.75 / np.pi)


def measure_objects(labels: np.ndarray) -> FrameObjects:
    """Measure all objects of a label image.

    Args:
        labels: Integer labels (YX or ZYX), 0 is background.
    """
    places = np.nonzero(labels)
    ids, index = np.unique(labels[places], return_inverse=True)
    areas = np.bincount(index, minlength=len(ids)).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, minlength=len(ids)) / areas

    ndim = labels.ndim
    centres = np.stack([mean(axis) for axis in places], axis=1) if len(ids) else np.zeros((0, ndim))
    offsets = [axis - centres[index, k] for k, axis in enumerate(places)]
    moments = np.empty((len(ids), ndim, ndim))
    for i in range(ndim):
        for j in range(i, ndim):
            moments[:, i, j] = moments[:, j, i] = mean(offsets[i] * offsets[j])
    # A pixel is not a point but a unit square, which has a variance of its own.
    moments += np.eye(ndim) / 12
    on_border = np.any([(axis == 0) | (axis == n - 1) for axis, n in zip(places, labels.shape, strict=True)], axis=0)
    at_border = np.bincount(index[on_border], minlength=len(ids)) > 0
    return FrameObjects(ids.astype(np.int64), areas, centres, moments, at_border)


@dataclass(frozen=True)
class ObjectSeries:
    """The objects of a time series.

    Attributes:
        frames: The objects of every frame.
        drift: How far the view has moved since the first frame, in pixels, (n_frames, ndim): what all objects share.
        overlaps: For every frame but the last, how many pixels an object shares with one of the next frame after
            the drift is taken back: indices in both frames and numbers of pixels, int64 (n, 3).
    """

    frames: list[FrameObjects]
    drift: np.ndarray
    overlaps: list[np.ndarray]


def iter_measure_series(segmentation: Any) -> Generator[Progress, None, ObjectSeries]:
    """Measure a label stack (TYX or TZYX; array or lazy array), of which two frames at a time are in memory."""
    n_frames, *plane_shape = segmentation.shape
    frames: list[FrameObjects] = []
    overlaps: list[np.ndarray] = []
    drift = np.zeros((n_frames, len(plane_shape)))
    last = None
    for frame in range(n_frames):
        yield Progress(frame, n_frames, "Measure objects")
        plane = np.asarray(segmentation[frame])
        if np.issubdtype(plane.dtype, np.signedinteger) and plane.min() < 0:
            raise ImageError(f"Labels must not be negative, but frame {frame} has {plane.min()}; use 0 for background.")
        frames.append(measure_objects(plane))
        if last is not None:
            step = common_motion(frames[-2].centres, frames[-1].centres)
            drift[frame] = drift[frame - 1] + step
            overlaps.append(_overlaps(last, plane, frames[-2], frames[-1], np.round(step).astype(int)))
        last = plane
    yield Progress(n_frames, n_frames, "Measure objects")
    return ObjectSeries(frames, drift, overlaps)


def common_motion(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The median displacement of points that are each other's nearest, (ndim,); 0 if they are too few to tell."""
    pairs = mutual_neighbours(before, now)
    if len(pairs) < ENOUGH_PAIRS:
        return np.zeros(before.shape[1])
    return np.median(now[pairs[:, 1]] - before[pairs[:, 0]], axis=0)


def mutual_neighbours(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Pairs of indices (n, 2) of points that are each other's nearest."""
    if not len(before) or not len(now):
        return np.zeros((0, 2), dtype=int)
    forth = cKDTree(now).query(before)[1]
    back = cKDTree(before).query(now)[1]
    index = np.flatnonzero(back[forth] == np.arange(len(before)))
    return np.stack([index, forth[index]], axis=1)


def _overlaps(
    before: np.ndarray, now: np.ndarray, first: FrameObjects, second: FrameObjects, step: np.ndarray
) -> np.ndarray:
    """The shared pixels of the objects of two planes, the second of which has moved by a step."""
    windows = [(slice(max(0, -k), n - max(0, k)), slice(max(0, k), n - max(0, -k))) for k, n in zip(step, now.shape)]
    before, now = before[tuple(a for a, _ in windows)], now[tuple(b for _, b in windows)]
    both = (before > 0) & (now > 0)
    i, j = np.searchsorted(first.ids, before[both]), np.searchsorted(second.ids, now[both])
    pairs, counts = np.unique(i * len(second) + j, return_counts=True)
    return np.stack([*np.divmod(pairs, max(1, len(second))), counts], axis=1)


def matrix_roots(matrices: np.ndarray) -> np.ndarray:
    """Square roots of symmetric positive matrices, (n, d, d)."""
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * np.sqrt(np.clip(values, 0, None))[:, None]) @ np.swapaxes(vectors, 1, 2)


def shape_coordinates(centres: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Coordinates in which objects that look alike and lie close to each other are close.

    Their Euclidean distance is that between two normal distributions with the objects' centres and moments in the
    2-Wasserstein metric (exactly so where the long axes are parallel or one object is round): how far the
    pixels of one object have to move, on average, to make the other.

    Args:
        centres: (n, d).
        moments: (n, d, d).

    Returns:
        (n, d + d (d + 1) / 2), in the unit of the centres.
    """
    roots = matrix_roots(moments)
    rows, columns = np.triu_indices(roots.shape[1])
    weights = np.where(rows == columns, 1.0, np.sqrt(2.0))
    return np.concatenate([centres, roots[:, rows, columns] * weights], axis=1)
