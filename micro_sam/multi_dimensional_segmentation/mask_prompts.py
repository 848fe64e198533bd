"""From windows of masks to the prompts that the network takes, without making images of the whole plane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from micro_sam.instance_segmentation.instances import Instance
from micro_sam.prompts import MASK_PROMPT_SIDE, extend_box, mask_to_points

_EPS = 1e-3
_OUTSIDE = float(np.log(_EPS / (1 - _EPS)))


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


def logits_of(shape: Instance, plane: Sequence[int], input_size: Sequence[int], image_size: int) -> np.ndarray:
    """The mask as low resolution logits (1, 256, 256), as the prompt encoder takes them.

    Args:
        shape: The mask.
        plane: Height and width of the image it lies in.
        input_size: Height and width of that image after resizing its longest side to ``image_size``.
        image_size: Side of the padded square image the encoder sees.
    """
    rows, columns = (
        _averaging(int(length), max(1, round(MASK_PROMPT_SIDE * side / image_size)))[:, window]
        for length, side, window in zip(plane, input_size, shape.window)
    )
    share = np.clip(rows @ shape.mask.astype(np.float32) @ columns.T, _EPS, 1 - _EPS)
    logits = np.full((1, MASK_PROMPT_SIDE, MASK_PROMPT_SIDE), _OUTSIDE, dtype=np.float32)
    logits[0, : share.shape[0], : share.shape[1]] = np.log(share / (1 - share))
    return logits


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
