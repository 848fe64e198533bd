"""Blocks and stitching without a cluster: what was one object before it was cut into blocks is one object after."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from segmentation_toys import draw_ellipses

from micro_sam.distributed.blocks import BlockGrid, chunks_within, intersection, relative
from micro_sam.distributed.stitching import BlockLinks, inner_sizes, match_labels, number_objects
from micro_sam.errors import ParameterError


def _stitched(blocks: list[np.ndarray], grid: BlockGrid, min_size: int = 0) -> tuple[np.ndarray, int]:
    counts = np.array([block.max() for block in blocks])
    links = []
    for block, labels in zip(grid, blocks):
        pairs = {}
        for other in grid.following(block.index):
            neighbor = grid.block(other)
            shared = intersection(grid.trusted(block), grid.trusted(neighbor))
            here, there = labels[relative(shared, block.outer)], blocks[other][relative(shared, neighbor.outer)]
            pairs[other] = match_labels(here, there, 0.3)
        links.append(BlockLinks(inner_sizes(labels[block.inner_in_outer], int(labels.max())), pairs))
    numbers, n_objects = number_objects(links, counts, min_size)
    result, first = np.zeros(grid.shape, numbers.dtype), np.cumsum(counts) - counts
    for block, labels, start, count in zip(grid, blocks, first, counts):
        table = np.concatenate([[0], numbers[start : start + count]])
        result[block.inner] = table[labels[block.inner_in_outer]]
    return result, n_objects


def _cut(labels: np.ndarray, grid: BlockGrid, seed: int = 0) -> list[np.ndarray]:
    """Every block as if it was segmented by itself: its own connected components under numbers of its own."""
    rng, blocks = np.random.default_rng(seed), []
    for block in grid:
        part = labels[block.outer]
        numbers = np.zeros(labels.max() + 1, np.uint16)
        found = np.setdiff1d(part, [0])
        numbers[found] = rng.permutation(len(found)) + 1
        blocks.append(numbers[part])
    return blocks


def _same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label images are the same up to their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] and bool((pairs[:, 0] == 0).all())


@pytest.mark.parametrize(
    ("shape", "block_shape", "halo"),
    [((200, 260), (64, 64), (24, 24)), ((200, 260), (50, 300), (10, 0)), ((256, 256), (32, 40), (4, 6))],
)
def test_objects_come_out_whole_and_consecutive(shape, block_shape, halo):
    truth = draw_ellipses(shape, 25, (6, 18), seed=1)
    grid = BlockGrid(shape, block_shape, halo)
    result, n_objects = _stitched(_cut(truth, grid), grid)
    assert _same_partition(truth, result)
    np.testing.assert_array_equal(np.unique(result), np.arange(n_objects + 1))


def test_an_object_over_many_blocks_is_one_in_3d():
    truth = np.zeros((20, 60, 60), np.uint32)
    truth[9:11, 5:55, 30:34] = 1  # a bar through all blocks along y
    truth[2:18, 25:29, 5:55] = np.where(truth[2:18, 25:29, 5:55] == 0, 2, 1)
    truth[0:3, 0:4, 0:4] = 3
    grid = BlockGrid(truth.shape, (8, 16, 16), (2, 4, 4))
    result, n_objects = _stitched(_cut(truth, grid, 3), grid)
    assert n_objects == 3
    assert _same_partition(truth, result)


def test_touching_objects_stay_apart():
    truth = np.zeros((64, 64), np.uint16)
    truth[10:40, 5:60], truth[40:60, 5:60] = 1, 2  # their border runs along the seams' direction
    grid = BlockGrid(truth.shape, (32, 32), (8, 8))
    result, n_objects = _stitched(_cut(truth, grid), grid)
    assert n_objects == 2 and _same_partition(truth, result)


def test_objects_are_dropped_by_their_size_over_all_blocks():
    truth = np.zeros((40, 40), np.uint16)
    truth[18:22, 18:22] = 1  # 16 pixels in four blocks
    truth[2:4, 2:6] = 2  # 8 pixels in one
    grid = BlockGrid(truth.shape, (20, 20), (5, 5))
    result, n_objects = _stitched(_cut(truth, grid), grid, min_size=10)
    assert n_objects == 1
    np.testing.assert_array_equal(result > 0, truth == 1)


def test_an_object_seen_by_one_block_only_in_its_halo_leaves_no_gap_in_the_numbers():
    grid = BlockGrid((10, 20), (10, 10), (0, 3))
    left, right = np.zeros((10, 13), np.uint16), np.zeros((10, 13), np.uint16)
    left[2:4, 11:13] = 1  # lies in the right block, which does not see it
    left[6:8, 2:4] = 2
    right[6:8, 8:10] = 1
    result, n_objects = _stitched([left, right], grid)
    assert n_objects == 2 and set(np.unique(result)) == {0, 1, 2}


def test_the_best_match_counts():
    a = np.array([1, 1, 1, 1, 2, 2, 0, 3])
    b = np.array([5, 5, 5, 0, 5, 6, 6, 0])
    assert match_labels(a, b, 0.3).tolist() == [[1, 5], [2, 6]]
    assert match_labels(a, b, 0.5).tolist() == [[1, 5]]
    assert match_labels(np.zeros(4, int), np.ones(4, int), 0.1).shape == (0, 2)


def test_random_blobs_are_stitched_like_connected_components():
    noise = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(220, 180)), 5)
    truth, _ = ndimage.label(noise > 0.02)
    grid = BlockGrid(truth.shape, (50, 60), (12, 12))
    result, _ = _stitched(_cut(truth, grid), grid)
    assert _same_partition(truth, result)


def test_more_objects_than_32_bits_would_need_64():
    links = [BlockLinks(np.ones(3, np.int64), {})]
    numbers, n_objects = number_objects(links, np.array([3]))
    assert numbers.dtype == np.uint32 and numbers.tolist() == [1, 2, 3] and n_objects == 3


def test_no_objects_at_all():
    numbers, n_objects = number_objects([BlockLinks(np.zeros(0, np.int64), {})] * 4, np.zeros(4, int))
    assert n_objects == 0 and len(numbers) == 0


def test_blocks_partition_the_data():
    grid = BlockGrid((7, 100, 90), (3, 32, 40), (1, 8, 8))
    seen = np.zeros(grid.shape, int)
    for block in grid:
        seen[block.inner] += 1
        assert np.zeros(grid.shape)[block.outer][block.inner_in_outer].shape == seen[block.inner].shape
    assert (seen == 1).all()
    assert len(grid) == 3 * 4 * 3
    assert grid.following(0) == [12, 3, 1] and grid.following(len(grid) - 1) == []


def test_bad_blocks_are_refused():
    for arguments in [((10, 10), (0, 5), (1, 1)), ((10, 10), (5, 5), (-1, 1)), ((10, 10), (5, 5, 5), (1, 1))]:
        with pytest.raises(ParameterError, match="whole numbers"):
            BlockGrid(*arguments)


@pytest.mark.parametrize(
    ("block", "expected"), [((768, 1024), (384, 512)), ((500, 512), (500, 512)), ((1009, 64), (1009, 64))]
)
def test_chunks_never_cross_blocks(block, expected):
    assert chunks_within(block, (512, 512)) == expected
