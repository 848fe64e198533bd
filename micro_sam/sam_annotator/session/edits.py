"""Changes of labels: commit, merge, split, delete, fill. Pure functions from labels to a new block of labels.

Each returns a window of the array and its new content, so that the caller can record exactly what changed. Labels have
two or three axes (YX or ZYX); strokes are drawn in a plane and hold for all slices of an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import ndimage

from micro_sam.errors import PromptError
from micro_sam.labels import object_windows
from micro_sam.sam_annotator.session.diff import Window, bounding_window, grown, united

PreserveMode = Literal["objects", "pixels", "none"]
PRESERVE_MODES = ("objects", "pixels", "none")
Edit = tuple[Window, np.ndarray]


@dataclass(frozen=True)
class Commit:
    """What a commit does.

    Attributes:
        window: Where.
        block: The labels there afterwards.
        ids: The new objects: id in what was committed -> id it got.
        refused: Ids of objects that were left out because they lie on committed ones.
    """

    window: Window
    block: np.ndarray
    ids: dict[int, int]
    refused: tuple[int, ...]


def commit(
    committed: np.ndarray,
    objects: np.ndarray,
    window: Window,
    preserve: PreserveMode = "objects",
    threshold: float = 0.75,
    first_id: int = 1,
) -> Commit:
    """Add objects to committed ones.

    Args:
        committed: All committed labels.
        objects: The labels of the new objects inside ``window``.
        window: Where they lie.
        preserve: "none": new objects are written over old ones. "pixels": only where there is no old one. "objects": so,
            too, and a new object of which more than ``threshold`` is covered by old ones is left out.
        threshold: That fraction.
        first_id: The id of the first new object.
    """
    block = np.array(committed[window])
    ids, refused = {}, []
    for label, inner in object_windows(objects).items():
        mask = objects[inner] == label
        old = block[inner]
        taken = mask & (old != 0)
        if preserve == "objects" and np.count_nonzero(taken) > threshold * np.count_nonzero(mask):
            refused.append(label)
            continue
        free = mask if preserve == "none" else mask & ~taken
        if not free.any():
            refused.append(label)
            continue
        ids[label] = first_id + len(ids)
        old[free] = ids[label]
    return Commit(window, block, ids, tuple(refused))


def write_back(labels: np.ndarray, label: int, mask: np.ndarray, window: Window) -> Edit:
    """Give an object that was taken out a new mask; pixels of other objects stay as they are.

    Args:
        labels: The labels without the object.
        label: Its id.
        mask: Where it is now, inside ``window``.
        window: Where the mask lies.
    """
    block = np.array(labels[window])
    block[mask & (block == 0)] = label
    return window, block


def window_of(labels: np.ndarray, label: int) -> Window:
    """The block that holds an object.

    Raises:
        PromptError: There is no such object.
    """
    window = bounding_window(labels == label)
    if window is None:
        raise PromptError(f"There is no object {label} any more; click another one.")
    return window


def delete(labels: np.ndarray, label: int) -> Edit:
    """Remove an object."""
    window = window_of(labels, label)
    block = np.array(labels[window])
    block[block == label] = 0
    return window, block


def merge(labels: np.ndarray, ids: Sequence[int]) -> Edit:
    """Make several objects one, with the id of the first.

    Raises:
        PromptError: They are fewer than two.
    """
    ids = list(dict.fromkeys(int(label) for label in ids if label != 0))
    if len(ids) < 2:
        raise PromptError("Merging needs at least two objects: draw the stroke from one object into the other.")
    window = united([window_of(labels, label) for label in ids])
    block = np.array(labels[window])
    block[np.isin(block, ids[1:])] = ids[0]
    return window, block


def along(labels: np.ndarray, stroke_yx: np.ndarray, i: int | None = None) -> list[int]:
    """The objects that a stroke in a plane touches, in the order in which it meets them."""
    plane = labels if i is None else labels[i]
    pixels = stroke_pixels(stroke_yx)
    inside = ((pixels >= 0) & (pixels < plane.shape)).all(axis=1)
    met = plane[tuple(pixels[inside].T)]
    return [int(label) for label in dict.fromkeys(met.tolist()) if label != 0]


def split(labels: np.ndarray, label: int, stroke_yx: np.ndarray, first_id: int) -> tuple[Edit, list[int]]:
    """Cut an object along a stroke; the largest part keeps its id.

    The stroke is prolonged at both ends, so that it need not be drawn all the way across.

    Args:
        labels: The labels.
        label: The object.
        stroke_yx: The stroke (n, 2) in (y, x) of the plane.
        first_id: The id of the first further part.

    Returns:
        The edit, and the ids of the further parts.

    Raises:
        PromptError: The stroke does not cut the object in two.
    """
    window = window_of(labels, label)
    block = np.array(labels[window])
    mask = block == label
    origin = np.array([s.start for s in window[-2:]])
    stroke = prolonged(np.asarray(stroke_yx, float) - origin, float(np.hypot(*mask.shape[-2:])))
    parts, n_parts = _cut(mask, stroke)
    if n_parts < 2:
        raise PromptError("The stroke does not cut the object in two: draw it across the whole object.")
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)[1:]
    order = np.argsort(-sizes, kind="stable") + 1
    for number, part in enumerate(order[1:]):
        block[parts == part] = first_id + number
    return (window, block), [first_id + number for number in range(n_parts - 1)]


def _cut(mask: np.ndarray, stroke_yx: np.ndarray) -> tuple[np.ndarray, int]:
    """The parts of a mask on the sides of a stroke; the stroke's own pixels go to the nearest part."""
    line = np.zeros(mask.shape[-2:], dtype=bool)
    pixels = stroke_pixels(stroke_yx)
    inside = ((pixels >= 0) & (pixels < line.shape)).all(axis=1)
    line[tuple(pixels[inside].T)] = True
    line = ndimage.binary_dilation(line, ndimage.generate_binary_structure(2, 1))
    before = ndimage.label(mask)[1]
    parts, n_parts = ndimage.label(mask & ~line)
    if n_parts <= before:
        return parts, 1
    nearest = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    return np.where(mask, parts[tuple(nearest)], 0), n_parts


def prolonged(stroke_yx: np.ndarray, by: float) -> np.ndarray:
    """A stroke made longer at both ends, in the direction it has there."""
    if len(stroke_yx) < 2:
        raise PromptError("The stroke is only a point: press the mouse button, draw across the object, and let go.")
    first, last = _direction(stroke_yx[::-1]), _direction(stroke_yx)
    return np.concatenate([stroke_yx[:1] + first * by, stroke_yx, stroke_yx[-1:] + last * by])


def _direction(stroke_yx: np.ndarray) -> np.ndarray:
    """The direction in which a stroke ends, from its last few pixels."""
    far = np.flatnonzero(np.linalg.norm(stroke_yx - stroke_yx[-1], axis=1) >= 5)
    start = stroke_yx[far[-1]] if len(far) else stroke_yx[0]
    vector = stroke_yx[-1] - start
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def stroke_pixels(stroke_yx: np.ndarray) -> np.ndarray:
    """The pixels along a stroke, (n, 2) in (y, x), without gaps."""
    from skimage.draw import line

    corners = np.round(np.asarray(stroke_yx, dtype=float)).astype(int)
    if len(corners) == 1:
        return corners
    return np.concatenate([np.stack(line(*a, *b), axis=1) for a, b in pairwise(corners)])


def fill(labels: np.ndarray, position: Sequence[int]) -> Edit:
    """Fill the holes of an object, slice by slice; or, where there is none, the hole that a position lies in.

    Args:
        labels: The labels.
        position: The pixel, in the order of the axes.

    Raises:
        PromptError: There is nothing to fill.
    """
    label = int(labels[tuple(position)])
    label = label or _around(labels, position)
    window = window_of(labels, label)
    block = np.array(labels[window])
    mask = block == label
    planes: Iterable[np.ndarray] = [mask] if mask.ndim == 2 else mask
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in planes]).reshape(mask.shape)
    holes = filled & (block == 0)
    if not holes.any():
        raise PromptError(f"Object {label} has no holes to fill.")
    block[holes] = label
    return window, block


def _around(labels: np.ndarray, position: Sequence[int]) -> int:
    """The object that encloses a background pixel."""
    plane = labels if labels.ndim == 2 else labels[position[0]]
    y, x = position[-2:]
    background, _ = ndimage.label(plane == 0)
    hole = background == background[y, x]
    window = bounding_window(hole)
    touches_edge = any(s.start == 0 or s.stop == n for s, n in zip(window, plane.shape))
    rim_window = grown(window, 1, plane.shape)
    rim = ndimage.binary_dilation(hole[rim_window]) & ~hole[rim_window]
    owners = np.unique(plane[rim_window][rim])
    if touches_edge or len(owners) != 1:
        raise PromptError("There is no hole here: click into an object, or into a hole inside one.")
    return int(owners[0])
