"""Remove small islands of a mask and fill its small holes, or keep the one part that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import bioimage_cpp as bic
import numpy as np

from micro_sam.instance_segmentation.instances import Instance, make_instance


def clean_regions(instance: Instance, min_area: int, shape: Sequence[int]) -> Instance:
    """Fill holes, then remove islands, that are smaller than ``min_area`` pixels (diagonals connect).

    If all islands are smaller, the largest one stays.

    Args:
        instance: The mask; it is returned as it is if nothing changes.
        min_area: In pixels.
        shape: Height and width of the image: the background around the mask is a hole only at the image's edge.
    """
    filled = _fill_holes(instance, min_area, shape)
    return _with_mask(instance, _remove_islands(filled, min_area))


def part_at_prompt(instance: Instance) -> Instance:
    """The connected part (by edges) of a mask in which its prompt lies; the largest where there is no such part.

    One prompt asks for one object: specks elsewhere would be painted over others, or be taken for their duplicates.
    """
    parts = bic.segmentation.label(np.ascontiguousarray(instance.mask), connectivity=1)
    if parts.max() <= 1:
        return instance
    wanted = 0
    if instance.point_xy is not None:
        x, y = (int(p) - o for p, o in zip(instance.point_xy, instance.origin[::-1]))
        if 0 <= y < parts.shape[0] and 0 <= x < parts.shape[1]:
            wanted = parts[y, x]
    return _with_mask(instance, parts == (wanted or 1 + np.argmax(np.bincount(parts.ravel())[1:])))


def _with_mask(instance: Instance, mask: np.ndarray) -> Instance:
    """The instance with another mask of the same window, or itself where that is no other."""
    if np.array_equal(mask, instance.mask):
        return instance
    made = make_instance(mask, instance.origin)
    return replace(instance, mask=made.mask, origin=made.origin, area=made.area)


def _fill_holes(instance: Instance, min_area: int, shape: Sequence[int]) -> np.ndarray:
    labels = bic.segmentation.label(np.ascontiguousarray(~instance.mask))
    sizes = np.bincount(labels.ravel())
    small = sizes < min_area
    small[0] = False
    for axis in (0, 1):
        lines = np.moveaxis(labels, axis, 0)
        start, stop = instance.window[axis].start, instance.window[axis].stop
        if start > 0:
            small[lines[0]] = False
        if stop < shape[axis]:
            small[lines[-1]] = False
    return instance.mask | small[labels]


def _remove_islands(mask: np.ndarray, min_area: int) -> np.ndarray:
    labels = bic.segmentation.label(np.ascontiguousarray(mask))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= min_area
    keep[0] = False
    if not keep.any():
        keep[np.argmax(sizes)] = True
    return keep[labels]
