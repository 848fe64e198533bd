"""Objects as shapes in planes: out of label images, and painted into them.

What every reader of shapes keeps to: where objects overlap, the smaller one is kept; what lies outside of the image is left
out; an object has the number that the file gives it, if all objects have one of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from micro_sam.errors import InputError
from micro_sam.exports.content import ImportedLabels
from micro_sam.exports.outlines import Polygon, Ring, fill
from micro_sam.labels import object_windows

_LARGEST_NUMBER = np.iinfo(np.uint32).max


@dataclass(frozen=True)
class PlaneObject:
    """An object in one plane of labels.

    Attributes:
        label: Its label.
        plane: The number of the plane, None in a single image.
        mask: Its pixels in its bounding box.
        origin_yx: Where the box begins.
    """

    label: int
    plane: int | None
    mask: np.ndarray
    origin_yx: tuple[int, int]


def plane_objects(plane: np.ndarray, number: int | None) -> Iterator[PlaneObject]:
    """The objects of a plane, by label in ascending order."""
    for label, window in object_windows(plane).items():
        yield PlaneObject(label, number, plane[window] == label, (window[0].start, window[1].start))


@dataclass
class Shape:
    """An object that was read.

    Attributes:
        number: The number that the file gives it, if any.
        class_name: The name of its class, if any.
        parts: Its pixels in planes: number of the plane (0 in a single image), mask, and where the mask begins (y, x).
    """

    number: int | None = None
    class_name: str | None = None
    parts: list[tuple[int, np.ndarray, tuple[int, int]]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The number of pixels."""
        return sum(int(mask.sum()) for _, mask, _ in self.parts)

    @property
    def planes(self) -> set[int]:
        """The planes it is in."""
        return {plane for plane, _, _ in self.parts}


class Painter:
    """Collects the shapes of a file and paints them as labels.

    Args:
        shape: The shape of the image: YX, ZYX or TYX.
        scale: How many of its pixels one pixel of the file is wide.
    """

    def __init__(self, shape: Sequence[int], scale: float = 1.0) -> None:
        if len(shape) not in (2, 3):
            raise InputError(f"Objects are painted into an image YX, ZYX or TYX, got the shape {tuple(shape)}.")
        self.shape, self.scale = tuple(int(n) for n in shape), scale
        self._shapes: list[Shape] = []
        self._by_number: dict[int, Shape] = {}
        self._notes: list[str] = []

    @property
    def n_planes(self) -> int:
        """The number of planes of the image."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def note(self, text: str) -> None:
        """Something that a person should know."""
        if text not in self._notes:
            self._notes.append(text)

    def add_polygons(
        self, plane: int, polygons: Sequence[Polygon], number: int | None = None, class_name: str | None = None
    ) -> None:
        """Add an object as polygons in pixels of the file; one of the same number in another plane is continued."""
        shape = self._shape(number, plane, class_name)
        for polygon in polygons if 0 <= plane < self.n_planes else ():
            mask, origin = fill([np.asarray(ring, float) * self.scale for ring in polygon], self.shape[-2:])
            shape.parts.append((plane, mask, origin))

    def add_mask(
        self,
        plane: int,
        mask: np.ndarray,
        origin_yx: tuple[int, int],
        number: int | None,
        class_name: str | None = None,
    ) -> None:
        """Add an object as a mask in pixels of the file, in its window."""
        shape = self._shape(number, plane, class_name)
        if not 0 <= plane < self.n_planes:
            return
        if self.scale != 1:
            mask, origin_yx = _scaled(mask, origin_yx, self.scale)
        cut = tuple(slice(max(-o, 0), max(n - o, 0)) for o, n in zip(origin_yx, self.shape[-2:]))
        shape.parts.append((plane, mask[cut], (max(origin_yx[0], 0), max(origin_yx[1], 0))))

    def _shape(self, number: int | None, plane: int, class_name: str | None) -> Shape:
        known = None if number is None else self._by_number.get(number)
        if known is not None and plane not in known.planes:
            return known
        made = Shape(number, class_name)
        self._shapes.append(made)
        if number is not None:
            self._by_number[number] = made
        return made

    def paint(self) -> ImportedLabels:
        """The labels, and what a person should know about them."""
        self._leave_out_empty()
        numbers = self._numbers()
        dtype = np.uint16 if max(numbers, default=0) <= np.iinfo(np.uint16).max else np.uint32
        labels = np.zeros(self.shape, dtype)
        planes = labels if labels.ndim == 3 else labels[None]
        covered = 0
        for k in sorted(range(len(numbers)), key=lambda k: (-self._shapes[k].size, -k)):
            for plane, mask, (y, x) in self._shapes[k].parts:
                window = planes[plane, y : y + mask.shape[0], x : x + mask.shape[1]]
                covered += int(np.count_nonzero(window[mask] != 0) - np.count_nonzero(window[mask] == numbers[k]))
                window[mask] = numbers[k]
        if covered:
            self.note(f"Objects overlap in {covered} pixels; there the smaller one is kept.")
        there = set(np.unique(labels).tolist())
        if len(there - {0}) < len(numbers):
            self.note(f"{_objects(len(numbers) - len(there - {0}))} completely under smaller ones, and left out.")
        classes = {n: s.class_name for n, s in zip(numbers, self._shapes) if s.class_name is not None and n in there}
        return ImportedLabels(labels, classes, notes=tuple(self._notes))

    def _leave_out_empty(self) -> None:
        kept = [shape for shape in self._shapes if shape.size]
        if len(kept) < len(self._shapes):
            lost = _objects(len(self._shapes) - len(kept))
            self.note(
                f"{lost} outside of the image ({' x '.join(map(str, self.shape))}) or without a pixel, and left out."
            )
        self._shapes = kept

    def _numbers(self) -> list[int]:
        given = [shape.number for shape in self._shapes]
        fit = all(number is not None and 0 < number <= _LARGEST_NUMBER for number in given)
        if fit and len(set(given)) == len(given):
            return [int(number) for number in given]
        if any(number is not None for number in given):
            self.note("Not every object of the file has a number of its own, so they are numbered from 1.")
        return list(range(1, len(given) + 1))


def _objects(count: int) -> str:
    return "1 object is" if count == 1 else f"{count} objects are"


def _scaled(mask: np.ndarray, origin_yx: tuple[int, int], scale: float) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask with larger or smaller pixels; a pixel gets what its centre lies on."""
    start = [int(np.ceil(o * scale - 0.5)) for o in origin_yx]
    stop = [int(np.ceil((o + n) * scale - 0.5)) for o, n in zip(origin_yx, mask.shape)]
    picked = [
        np.clip(np.floor((np.arange(a, b) + 0.5) / scale).astype(int) - o, 0, n - 1)
        for a, b, o, n in zip(start, stop, origin_yx, mask.shape)
    ]
    return mask[np.ix_(*picked)], (start[0], start[1])


def closed(ring: Ring) -> list[list[float]]:
    """A ring as a list of points of which the last is the first."""
    points = ring.tolist()
    return [*points, points[0]]
