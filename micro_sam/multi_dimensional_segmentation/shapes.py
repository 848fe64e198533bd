"""Masks of single objects in a plane, held as small windows: overlap, parts, shifting, and shapes in between.

All functions take and return `Instance` with tight windows; where nothing is left they return None.
"""

from __future__ import annotations

from collections.abc import Sequence

import bioimage_cpp as bic
import numpy as np

from micro_sam.instance_segmentation.instances import Instance, make_instance

_MAX_PARTS = 8
_SPECK = 0.02  # parts smaller than this share of the largest part are noise
_BRANCH = 0.05  # and parts smaller than this are not followed on their own


def overlap(a: Instance, b: Instance) -> int:
    """How many pixels two masks share."""
    windows = _shared_windows(a, b)
    return 0 if windows is None else int(np.count_nonzero(a.mask[windows[0]] & b.mask[windows[1]]))


def iou(a: Instance | None, b: Instance | None) -> float:
    """Intersection over union, 0 if one is missing."""
    if a is None or b is None:
        return 0.0
    shared = overlap(a, b)
    return shared / (a.area + b.area - shared)


def _shared_windows(a: Instance, b: Instance) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The window both masks cover, in the coordinates of each."""
    starts = [max(p, q) for p, q in zip(a.origin, b.origin)]
    stops = [min(p.stop, q.stop) for p, q in zip(a.window, b.window)]
    if any(stop <= start for start, stop in zip(starts, stops)):
        return None
    return tuple(
        tuple(slice(start - o, stop - o) for start, stop, o in zip(starts, stops, shape.origin)) for shape in (a, b)
    )


def without(a: Instance, b: Instance) -> Instance | None:
    """The part of a mask that another one does not cover."""
    windows, mask = _shared_windows(a, b), a.mask.copy()
    if windows is not None:
        mask[windows[0]] &= ~b.mask[windows[1]]
    return remade(a, mask)


def center(shape: Instance) -> np.ndarray:
    """The centre of mass (y, x)."""
    rows, columns = shape.mask.sum(axis=1), shape.mask.sum(axis=0)
    inside = [np.average(np.arange(len(line)), weights=line) for line in (rows, columns)]
    return np.array(shape.origin) + inside


def cut(shape: Instance | None, keep: np.ndarray) -> Instance | None:
    """The part of a mask that lies in another bool array of its window's shape."""
    return None if shape is None else remade(shape, shape.mask & keep)


def remade(shape: Instance, mask: np.ndarray) -> Instance | None:
    """The same object with another mask in its window."""
    return make_instance(mask, shape.origin, score=shape.score, stability=shape.stability)


def parts(shape: Instance) -> list[Instance]:
    """The connected parts of a mask that are worth following, the largest first; at most eight."""
    labels = bic.segmentation.label(np.ascontiguousarray(shape.mask))
    sizes = np.bincount(labels.ravel())[1:]
    if len(sizes) == 1:
        return [shape]
    order = [k for k in np.argsort(-sizes, kind="stable") if sizes[k] >= _BRANCH * sizes.max()][:_MAX_PARTS]
    return [remade(shape, labels == k + 1) for k in order]


def without_specks(shape: Instance | None) -> Instance | None:
    """A mask without parts that are tiny beside its largest one."""
    if shape is None:
        return None
    labels = bic.segmentation.label(np.ascontiguousarray(shape.mask))
    sizes = np.bincount(labels.ravel())
    if len(sizes) == 2:
        return shape
    keep = sizes >= _SPECK * sizes[1:].max()
    keep[0] = False
    return shape if keep[1:].all() else remade(shape, keep[labels])


def merged(shapes: Sequence[Instance]) -> Instance | None:
    """The union of masks; its score is their mean, weighted by area."""
    if len(shapes) < 2:
        return shapes[0] if shapes else None
    y0, x0, y1, x1 = _hull(shapes)
    mask = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    for shape in shapes:
        mask[_in_window(shape, (y0, x0))] |= shape.mask
    areas = [shape.area for shape in shapes]
    score = float(np.average([shape.score for shape in shapes], weights=areas))
    return make_instance(mask, (y0, x0), score=score)


def _hull(shapes: Sequence[Instance]) -> tuple[int, int, int, int]:
    boxes = np.array([[s.start for s in shape.window] + [s.stop for s in shape.window] for shape in shapes])
    return *boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()


def _in_window(shape: Instance, origin: Sequence[int]) -> tuple[slice, slice]:
    return tuple(slice(s.start - o, s.stop - o) for s, o in zip(shape.window, origin))


def shifted(shape: Instance, shift_yx: Sequence[float], plane: Sequence[int]) -> Instance | None:
    """A mask moved by whole pixels; what leaves the plane is cut off."""
    origin = [o + round(float(d)) for o, d in zip(shape.origin, shift_yx)]
    begin = [max(0, -o) for o in origin]
    end = [min(n, size - o) for n, size, o in zip(shape.mask.shape, plane, origin)]
    if any(e <= b for b, e in zip(begin, end)):
        return None
    window = tuple(slice(b, e) for b, e in zip(begin, end))
    corner = tuple(o + b for o, b in zip(origin, begin))
    return make_instance(shape.mask[window], corner, score=shape.score, stability=shape.stability)


def between(a: Instance, b: Instance, weight: float, plane: Sequence[int]) -> Instance | None:
    """The shape on the way from one mask (weight 0) to another (weight 1).

    The centres are brought onto the straight line between them, and there the signed distances to the outlines are
    averaged (Raya and Udupa, "Shape-based interpolation of multidimensional objects", 1990).
    """
    way = center(b) - center(a)
    moved = [(a, way * weight), (b, way * (weight - 1))]
    moved = [
        Instance(shape.mask, tuple(o + round(float(d)) for o, d in zip(shape.origin, shift)), area=shape.area)
        for shape, shift in moved
    ]
    y0, x0, y1, x1 = _hull(moved)
    distances = []
    for shape in moved:
        mask = np.zeros((y1 - y0 + 2, x1 - x0 + 2), dtype=bool)
        mask[_in_window(shape, (y0 - 1, x0 - 1))] = shape.mask
        distances.append(_signed_distance(mask))
    mask = (1 - weight) * distances[0] + weight * distances[1] > 0
    score = (1 - weight) * a.score + weight * b.score
    whole = make_instance(mask, (y0 - 1, x0 - 1), score=score)
    return None if whole is None else shifted(whole, (0, 0), plane)


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline, positive inside."""
    transform = bic.distance.distance_transform
    return transform(mask) - transform(~mask)
