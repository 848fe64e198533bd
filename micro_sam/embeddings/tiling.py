"""Cut a plane into tiles with a halo, and map coordinates between the plane and its tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from micro_sam.errors import ParameterError

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """One tile of a plane. All slices are (y, x), in pixels.

    Attributes:
        index: The tile's number, in C order over the grid.
        inner: The block this tile is responsible for, in the plane. The inner blocks of all tiles partition the plane.
        outer: The inner block enlarged by the halo and clipped to the plane: what the encoder sees.
        inner_in_outer: The inner block in the coordinates of the outer one.
    """

    index: int
    inner: Slices
    outer: Slices
    inner_in_outer: Slices

    @property
    def offset(self) -> tuple[int, int]:
        """The (y, x) position of the outer block's first pixel in the plane."""
        return self.outer[0].start, self.outer[1].start

    @property
    def shape(self) -> tuple[int, int]:
        """The (height, width) of the outer block: the original size of the tile's image."""
        return _extent(self.outer)

    def to_local_points(self, points_yx: np.ndarray) -> np.ndarray:
        """Map points of shape (..., 2) from the plane to this tile's outer block."""
        return np.asarray(points_yx) - np.asarray(self.offset)

    def to_global_points(self, points_yx: np.ndarray) -> np.ndarray:
        """Map points of shape (..., 2) from this tile's outer block to the plane."""
        return np.asarray(points_yx) + np.asarray(self.offset)

    def to_local_box(self, box_yxyx: Sequence[float]) -> np.ndarray:
        """Map a box [min_y, min_x, max_y, max_x] from the plane to this tile and clip it to the tile."""
        box = np.asarray(box_yxyx) - np.asarray(self.offset * 2)
        return np.clip(box, 0, np.asarray(self.shape * 2))

    def to_global_box(self, box_yxyx: Sequence[float]) -> np.ndarray:
        """Map a box [min_y, min_x, max_y, max_x] from this tile's outer block to the plane."""
        return np.asarray(box_yxyx) + np.asarray(self.offset * 2)


@dataclass(frozen=True)
class Tiling:
    """A regular grid of tiles over a plane, numbered in C order.

    Args:
        shape: The (height, width) of the plane.
        tile_shape: The (height, width) of a tile without halo; border tiles may be smaller.
        halo: By how many pixels (y, x) a tile is enlarged on every side.

    Raises:
        ParameterError: If a tile would be empty or the halo is negative.
    """

    shape: tuple[int, int]
    tile_shape: tuple[int, int]
    halo: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _as_pair(self.shape, "the tiled shape", 1))
        object.__setattr__(self, "tile_shape", _as_pair(self.tile_shape, "tile_shape", 1))
        object.__setattr__(self, "halo", _as_pair(self.halo, "halo", 0))

    @cached_property
    def grid_shape(self) -> tuple[int, int]:
        """The number of tiles along (y, x)."""
        return -(-self.shape[0] // self.tile_shape[0]), -(-self.shape[1] // self.tile_shape[1])

    @property
    def n_tiles(self) -> int:
        """The number of tiles."""
        return self.grid_shape[0] * self.grid_shape[1]

    def __len__(self) -> int:
        return self.n_tiles

    def __iter__(self) -> Iterator[Tile]:
        return (self.tile(index) for index in range(self.n_tiles))

    def tile(self, index: int) -> Tile:
        """The tile of that number.

        Raises:
            ParameterError: If there is no such tile.
        """
        if not 0 <= index < self.n_tiles:
            raise ParameterError(f"Expected a tile number from 0 to {self.n_tiles - 1}, got {index}.")
        row, column = divmod(int(index), self.grid_shape[1])
        parts = (self._axis(0, row), self._axis(1, column))
        inner, outer, local = (tuple(part[k] for part in parts) for k in range(3))
        return Tile(int(index), inner, outer, local)

    def _axis(self, axis: int, block: int) -> tuple[slice, slice, slice]:
        size, step, halo = self.shape[axis], self.tile_shape[axis], self.halo[axis]
        start, stop = block * step, min((block + 1) * step, size)
        outer = slice(max(start - halo, 0), min(stop + halo, size))
        return slice(start, stop), outer, slice(start - outer.start, stop - outer.start)

    def tile_for_point(self, y: float, x: float) -> int:
        """The number of the tile whose inner block holds the point; points outside the plane go to the nearest tile."""
        row, column = (
            int(np.clip(position // step, 0, count - 1))
            for position, step, count in zip((y, x), self.tile_shape, self.grid_shape)
        )
        return row * self.grid_shape[1] + column

    def tiles_for_box(self, box_yxyx: Sequence[float]) -> list[int]:
        """The numbers of all tiles whose inner block a box [min_y, min_x, max_y, max_x] touches (max exclusive)."""
        min_y, min_x, max_y, max_x = box_yxyx
        first = divmod(self.tile_for_point(min_y, min_x), self.grid_shape[1])
        last_y, last_x = max(min_y, np.ceil(max_y) - 1), max(min_x, np.ceil(max_x) - 1)
        last = divmod(self.tile_for_point(last_y, last_x), self.grid_shape[1])
        rows, columns = range(first[0], last[0] + 1), range(first[1], last[1] + 1)
        return [row * self.grid_shape[1] + column for row in rows for column in columns]

    def tile_for_box(self, box_yxyx: Sequence[float]) -> int:
        """The number of the tile to prompt with a box [min_y, min_x, max_y, max_x].

        This is the tile whose outer block covers most of the box; among equals the one whose inner block covers more.
        """

        def cover(index: int) -> tuple[float, float, int]:
            tile = self.tile(index)
            return _overlap(tile.outer, box_yxyx), _overlap(tile.inner, box_yxyx), -index

        return max(self.tiles_for_box(box_yxyx), key=cover)


def get_block_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A chunk shape for storing an array of this shape, for example a segmentation.

    Args:
        shape: The shape of an image (YX), volume (ZYX) or any array whose last two axes are the plane.

    Returns:
        The chunk shape: 512 x 512 for planes, 32 x 256 x 256 for volumes, 1 along further leading axes, never
        larger than the array.
    """
    preferred = {1: (262144,), 2: (512, 512)}.get(len(shape), (1,) * (len(shape) - 3) + (32, 256, 256))
    return tuple(max(1, min(block, int(size))) for block, size in zip(preferred, shape))


def _as_pair(values: Sequence[int], name: str, minimum: int) -> tuple[int, int]:
    pair = tuple(values) if isinstance(values, (Sequence, np.ndarray)) else (values,)
    whole = all(isinstance(value, (int, np.integer)) and value >= minimum for value in pair)
    if len(pair) != 2 or not whole:
        raise ParameterError(f"Expected {name} as two whole numbers (y, x) of at least {minimum}, got {values!r}.")
    return int(pair[0]), int(pair[1])


def _extent(slices: Slices) -> tuple[int, int]:
    return slices[0].stop - slices[0].start, slices[1].stop - slices[1].start


def _overlap(slices: Slices, box_yxyx: Sequence[float]) -> float:
    height = min(slices[0].stop, box_yxyx[2]) - max(slices[0].start, box_yxyx[0])
    width = min(slices[1].stop, box_yxyx[3]) - max(slices[1].start, box_yxyx[1])
    return max(height, 0.0) * max(width, 0.0)
