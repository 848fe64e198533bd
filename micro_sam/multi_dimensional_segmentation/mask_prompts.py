"""From windows of masks to the prompts that the network takes, without making images of the whole plane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from micro_sam.instance_segmentation.instances import Instance
from micro_sam.prompts import MASK_PROMPT_SIDE, extend_box, mask_to_points

_EPS = 1e-3
#: The logit of a mask prompt where the object is not.
OUTSIDE = float(np.log(_EPS / (1 - _EPS)))
_TOKEN = 4  # pixels of a mask prompt along the side of an image token


def box_of(shape: Instance, plane: Sequence[int], extension: float) -> np.ndarray:
    """[min_y, min_x, max_y, max_x] around a mask, maxima exclusive, enlarged and clipped to the plane."""
    box = np.array([s.start for s in shape.window] + [s.stop for s in shape.window], dtype=np.float64)
    return extend_box(box, plane, extension)


def points_of(shape: Instance, plane: Sequence[int], extension: float, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) in (y, x) and their labels, see `mask_to_points`."""
    sides = np.array(shape.mask.shape)
    reach = np.ceil(sides * extension if extension < 1 else np.full(2, extension)).astype(int)
    margin = np.maximum(reach, np.ceil(0.1 * sides).astype(int)) + 2
    before = np.minimum(margin, shape.origin)
    after = np.minimum(margin, np.array(plane) - shape.origin - sides)
    around = np.pad(shape.mask, list(zip(before, after)))
    points, labels = mask_to_points(around, extension, single=single)
    return points + shape.origin - before, labels


def logits_of(
    shape: Instance, plane: Sequence[int], input_size: Sequence[int], image_size: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The mask as low resolution logits, as the prompt encoder takes them: the window in which they are not `OUTSIDE`.

    Args:
        shape: The mask.
        plane: Height and width of the image it lies in.
        input_size: Height and width of that image after resizing its longest side to ``image_size``.
        image_size: Side of the padded square image the encoder sees.

    Returns:
        float32 (4 * height, 4 * width), and y0, y1, x0, x1 in image tokens, which are 4 x 4 of its pixels.
    """
    matrices, starts, stops = [], [], []
    for length, side, window in zip(plane, input_size, shape.window):
        matrix = _averaging(int(length), max(1, round(MASK_PROMPT_SIDE * side / image_size)))[:, window]
        touched = np.flatnonzero(matrix.any(axis=1))
        start, stop = touched[0] // _TOKEN, touched[-1] // _TOKEN + 1
        matrix = matrix[start * _TOKEN : stop * _TOKEN]
        matrices.append(np.pad(matrix, ((0, (stop - start) * _TOKEN - len(matrix)), (0, 0))))
        starts.append(int(start))
        stops.append(int(stop))
    share = np.clip(matrices[0] @ shape.mask.astype(np.float32) @ matrices[1].T, _EPS, 1 - _EPS)
    return np.log(share / (1 - share)), (starts[0], stops[0], starts[1], stops[1])


def whole_logits_of(patch: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The logits (1, 256, 256) from what `logits_of` gives."""
    logits = np.full((1, MASK_PROMPT_SIDE, MASK_PROMPT_SIDE), OUTSIDE, dtype=np.float32)
    y0, y1, x0, x1 = (_TOKEN * side for side in window)
    logits[0, y0:y1, x0:x1] = patch
    return logits


def window_around(
    box_yxyx: np.ndarray, plane: Sequence[int], input_size: Sequence[int], grid: Sequence[int], image_size: int
) -> tuple[int, int, int, int]:
    """Where to look for an object: y0, y1, x0, x1 in image tokens, half its size around its box, and at least 5 tokens."""
    ends = []
    for axis in (0, 1):
        scale = input_size[axis] / plane[axis] * grid[axis] / image_size
        low, high = box_yxyx[axis] * scale, box_yxyx[axis + 2] * scale
        margin = max(5.0, (high - low) / 2)
        ends += [max(0, int(np.floor(low - margin))), min(int(grid[axis]), int(np.ceil(high + margin)))]
    return ends[0], ends[1], ends[2], ends[3]


@lru_cache(maxsize=16)
def _averaging(length: int, target: int) -> np.ndarray:
    """(target, length) matrix that resamples a line: averages when it shrinks, interpolates when it grows."""
    factor = length / target
    centers = (np.arange(target) + 0.5) * factor - 0.5
    distances = np.abs(np.arange(length)[None] - np.clip(centers, 0, length - 1)[:, None])
    half = max(factor, 1.0)
    # a pixel counts as far as it lies in the target's cell, or for growing as near as it lies to its centre
    weights = np.clip((half + 1) / 2 - distances, 0, 1) if factor > 1 else np.clip(1 - distances, 0, 1)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
