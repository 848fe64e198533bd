"""Cut an image or a volume into blocks with a halo."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from micro_sam.errors import ParameterError

Window = tuple[slice, ...]


@dataclass(frozen=True)
class Block:
    """One block. All windows have one slice per axis, YX or ZYX, in pixels.

    Attributes:
        index: The block's number, in C order over the grid.
        inner: What this block is responsible for. The inner windows of all blocks partition the data.
        outer: The inner window enlarged by the halo and clipped to the data: what is segmented.
    """

    index: int
    inner: Window
    outer: Window

    @property
    def inner_in_outer(self) -> Window:
        """The inner window in the coordinates of the outer one."""
        return relative(self.inner, self.outer)


@dataclass(frozen=True)
class BlockGrid:
    """A regular grid of overlapping blocks, numbered in C order.

    Args:
        shape: The shape of the data, YX or ZYX.
        block_shape: The shape of a block without halo; blocks at the end may be smaller.
        halo: By how many pixels a block is enlarged on every side, per axis.

    Raises:
        ParameterError: A number of axes or a size that does not fit.
    """

    shape: tuple[int, ...]
    block_shape: tuple[int, ...]
    halo: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, least in (("shape", 1), ("block_shape", 1), ("halo", 0)):
            values = tuple(getattr(self, name))
            if len(values) != len(self.shape) or any(int(value) != value or value < least for value in values):
                raise ParameterError(
                    f"Expected {name} as {len(self.shape)} whole numbers of at least {least}, got {values}."
                )
            object.__setattr__(self, name, tuple(int(value) for value in values))

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """The number of blocks per axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.block_shape))

    def __len__(self) -> int:
        return math.prod(self.grid_shape)

    def __iter__(self) -> Iterator[Block]:
        return (self.block(index) for index in range(len(self)))

    def block(self, index: int) -> Block:
        """The block of that number."""
        position = np.unravel_index(index, self.grid_shape)
        parts = [self._axis(axis, int(p)) for axis, p in enumerate(position)]
        return Block(int(index), tuple(inner for inner, _ in parts), tuple(outer for _, outer in parts))

    def _axis(self, axis: int, position: int) -> tuple[slice, slice]:
        size, step, halo = self.shape[axis], self.block_shape[axis], self.halo[axis]
        start, stop = position * step, min((position + 1) * step, size)
        return slice(start, stop), slice(max(start - halo, 0), min(stop + halo, size))

    def trusted(self, block: Block) -> Window:
        """The inner window and half of the halo: near the edge of what it sees a block knows objects only in part."""
        reach = tuple(halo - halo // 2 for halo in self.halo)
        enlarged = (slice(part.start - by, part.stop + by) for part, by in zip(block.inner, reach))
        return intersection(tuple(enlarged), block.outer)

    def following(self, index: int) -> list[int]:
        """The numbers of the next block along each axis, where there is one."""
        position = [int(p) for p in np.unravel_index(index, self.grid_shape)]
        found = []
        for axis, count in enumerate(self.grid_shape):
            if position[axis] + 1 < count:
                neighbor = [p + (i == axis) for i, p in enumerate(position)]
                found.append(int(np.ravel_multi_index(neighbor, self.grid_shape)))
        return found


def intersection(a: Window, b: Window) -> Window:
    """The window that two windows share; empty slices where they share nothing."""
    parts = ((max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b))
    return tuple(slice(start, max(start, stop)) for start, stop in parts)


def relative(window: Window, to: Window) -> Window:
    """A window in the coordinates of another one."""
    return tuple(slice(w.start - t.start, w.stop - t.start) for w, t in zip(window, to))


def chunks_within(block_shape: Sequence[int], most: Sequence[int]) -> tuple[int, ...]:
    """Chunk sizes that divide a block evenly, so that no two blocks write to one chunk, close to the preferred ones."""
    return tuple(_divisor(size, limit) for size, limit in zip(block_shape, most))


def _divisor(size: int, limit: int) -> int:
    divisors = [size // parts for parts in range(1, size + 1) if size % parts == 0]
    fitting = [divisor for divisor in divisors if limit // 4 <= divisor <= limit]
    return fitting[0] if fitting else size
