"""Tiles partition the plane, and coordinates find their way to a tile and back."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.embeddings import Tiling, get_block_shape
from micro_sam.errors import ParameterError

SHAPES = [
    ((100, 120), (64, 64), (8, 8)),
    ((64, 64), (64, 64), (16, 16)),
    ((10, 7), (4, 3), (0, 2)),
    ((50, 60), (200, 200), (9, 9)),
    ((1, 1), (5, 5), (2, 2)),
]


@pytest.mark.parametrize("shape, tile_shape, halo", SHAPES)
def test_inner_blocks_cover_every_pixel_once(shape, tile_shape, halo):
    count = np.zeros(shape, dtype=int)
    for tile in Tiling(shape, tile_shape, halo):
        count[tile.inner] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("shape, tile_shape, halo", SHAPES)
def test_outer_blocks_are_enlarged_by_the_halo_and_clipped(shape, tile_shape, halo):
    plane = np.arange(shape[0] * shape[1]).reshape(shape)
    for tile in Tiling(shape, tile_shape, halo):
        for axis in range(2):
            assert tile.outer[axis].start == max(tile.inner[axis].start - halo[axis], 0)
            assert tile.outer[axis].stop == min(tile.inner[axis].stop + halo[axis], shape[axis])
        np.testing.assert_array_equal(plane[tile.outer][tile.inner_in_outer], plane[tile.inner])
        assert plane[tile.outer].shape == tile.shape


def test_tiles_are_numbered_in_c_order():
    tiling = Tiling((100, 150), (50, 50), (5, 5))
    assert tiling.n_tiles == len(tiling) == 6
    assert [tile.inner[0].start for tile in tiling] == [0, 0, 0, 50, 50, 50]
    assert [tile.inner[1].start for tile in tiling] == [0, 50, 100, 0, 50, 100]


def test_a_point_belongs_to_the_tile_whose_inner_block_holds_it():
    tiling = Tiling((100, 120), (64, 32), (8, 8))
    for tile in tiling:
        y, x = np.meshgrid(
            range(tile.inner[0].start, tile.inner[0].stop), range(tile.inner[1].start, tile.inner[1].stop)
        )
        found = {tiling.tile_for_point(a, b) for a, b in zip(y.ravel(), x.ravel())}
        assert found == {tile.index}
    assert tiling.tile_for_point(63.9, 31.9) == 0
    assert tiling.tile_for_point(-5, 500) == 3


def test_points_and_boxes_go_to_a_tile_and_back():
    tile = Tiling((100, 120), (64, 64), (8, 8)).tile(3)
    points = np.array([[70.5, 80.0], [99, 119]])
    np.testing.assert_allclose(tile.to_local_points(points), points - [56, 56])
    np.testing.assert_allclose(tile.to_global_points(tile.to_local_points(points)), points)
    box = [70, 80, 90, 110]
    np.testing.assert_allclose(tile.to_global_box(tile.to_local_box(box)), box)
    np.testing.assert_allclose(tile.to_local_box([0, 0, 500, 500]), [0, 0, 44, 64])


def test_a_box_finds_the_tiles_it_touches_and_the_best_one():
    tiling = Tiling((100, 100), (50, 50), (10, 10))
    assert tiling.tiles_for_box([10, 10, 20, 20]) == [0]
    assert tiling.tiles_for_box([10, 10, 50, 50]) == [0]
    assert tiling.tiles_for_box([10, 10, 51, 51]) == [0, 1, 2, 3]
    assert tiling.tiles_for_box([-10, 60, 20, 300]) == [1]
    assert tiling.tile_for_box([10, 30, 20, 58]) == 0
    assert tiling.tile_for_box([10, 45, 20, 75]) == 1


@pytest.mark.parametrize(
    "tile_shape, halo", [((0, 5), (1, 1)), ((5,), (1, 1)), ((5, 5), (-1, 0)), ((5.5, 5), (1, 1)), (5, (1, 1))]
)
def test_impossible_tilings_are_refused(tile_shape, halo):
    with pytest.raises(ParameterError, match="Expected"):
        Tiling((10, 10), tile_shape, halo)
    with pytest.raises(ParameterError, match="from 0 to 3"):
        Tiling((10, 10), (5, 5), (1, 1)).tile(4)


def test_chunks_are_never_larger_than_the_array():
    assert get_block_shape((2000, 100)) == (512, 100)
    assert get_block_shape((10, 2000, 2000)) == (10, 256, 256)
    assert get_block_shape((3, 100, 2000, 2000)) == (1, 32, 256, 256)
    assert get_block_shape((10,)) == (10,)
