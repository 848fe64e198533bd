"""What propagation starts from: masks of objects in some slices, and where the objects may go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError, PromptError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.multi_dimensional_segmentation.fronts import Reach

Annotations = Mapping[int, Mapping[int, np.ndarray]]


def annotations_of(segmentation: Any, slices: Sequence[int] | None = None) -> dict[int, dict[int, np.ndarray]]:
    """The annotations in a label volume.

    Args:
        segmentation: Labels (ZYX), 0 is background; any array that is indexed by slice.
        slices: The annotated slices; by default all that are not empty.

    Returns:
        For each label its bool masks (YX) by slice.

    Raises:
        PromptError: A slice lies outside.
    """
    depth = len(segmentation)
    found: dict[int, dict[int, np.ndarray]] = {}
    for z in range(depth) if slices is None else slices:
        if not 0 <= int(z) < depth:
            raise PromptError(f"Slice {z} is annotated, but the volume has the slices 0 to {depth - 1}.")
        plane = np.asarray(segmentation[int(z)])
        for label in np.unique(plane[plane != 0]):
            found.setdefault(int(label), {})[int(z)] = plane == label
    return found


def reach_of(
    depth: int,
    z_limits: tuple[int | None, int | None],
    below: bool,
    above: bool,
    stops: Mapping[int, Sequence[int]],
    annotations: Annotations,
) -> Reach:
    """Check limits and stops.

    Raises:
        ParameterError: They lie outside, or an object is stopped where it is annotated.
    """
    first, last = (default if limit is None else int(limit) for limit, default in zip(z_limits, (0, depth - 1)))
    if not 0 <= first <= last < depth:
        raise ParameterError(f"z_limits must be two slices from 0 to {depth - 1} in ascending order, got {z_limits}.")
    for label, slices in stops.items():
        both = sorted(set(map(int, slices)) & set(annotations.get(label, ())))
        if both:
            raise ParameterError(f"Object {label} is annotated in slice {both[0]} and also stopped there; remove one.")
    return Reach(first, last, below, above, {label: [int(z) for z in slices] for label, slices in stops.items()})


def checked(annotations: Annotations, depth: int, plane: tuple[int, int]) -> dict[int, dict[int, Instance]]:
    """The annotations as windows.

    Raises:
        PromptError: There is none, or one is empty, of another shape or outside.
    """
    if not annotations:
        raise PromptError("There is no annotated object to propagate.")
    checked: dict[int, dict[int, Instance]] = {}
    for label, by_slice in annotations.items():
        if int(label) < 1 or not by_slice:
            raise PromptError(f"Each object needs an id of at least 1 and an annotated slice, got object {label}.")
        for z, mask in by_slice.items():
            checked.setdefault(int(label), {})[int(z)] = _checked_mask(mask, int(label), int(z), depth, plane)
    return checked


def _checked_mask(mask: np.ndarray, label: int, z: int, depth: int, plane: tuple[int, int]) -> Instance:
    if not 0 <= z < depth:
        raise PromptError(f"Object {label} is annotated in slice {z}, but the volume has the slices 0 to {depth - 1}.")
    mask = np.asarray(mask)
    if mask.shape != tuple(plane):
        raise PromptError(f"The mask of object {label} in slice {z} must have the shape {plane}, got {mask.shape}.")
    shape = make_instance(mask != 0)
    if shape is None:
        raise PromptError(f"The mask of object {label} in slice {z} is empty; draw it, or leave the slice out.")
    return shape
