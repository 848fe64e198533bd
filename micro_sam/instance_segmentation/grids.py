"""Where automatic mask generation puts its prompts: crops of the image and grids of points in each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil

import numpy as np

from micro_sam.errors import ParameterError


def point_grid(n_per_side: int) -> np.ndarray:
    """Evenly spaced points in the unit square, (n_per_side ** 2, 2) as (x, y), row by row."""
    positions = (np.arange(n_per_side) + 0.5) / n_per_side
    return np.stack(np.meshgrid(positions, positions), axis=-1).reshape(-1, 2)


def layer_grids(
    points_per_side: int | None, n_layers: int, downscale: int, grids: Sequence[np.ndarray] | None
) -> list[np.ndarray]:
    """One grid for the whole image and one for each layer of crops.

    Raises:
        ParameterError: Both or none of ``points_per_side`` and ``grids`` are given, or there are too few grids.
    """
    if (points_per_side is None) == (grids is None):
        raise ParameterError("Give either points_per_side or point_grids, and not both.")
    if grids is None:
        if points_per_side < 1 or n_layers < 0 or downscale < 1:
            raise ParameterError(
                f"points_per_side and the downscale factor must be at least 1 and crop_n_layers at least 0, "
                f"got {points_per_side}, {downscale} and {n_layers}."
            )
        return [point_grid(max(1, int(points_per_side / downscale**layer))) for layer in range(n_layers + 1)]
    grids = [np.asarray(grid, dtype=np.float64) for grid in grids]
    if len(grids) < n_layers + 1 or any(g.ndim != 2 or g.shape[1] != 2 or g.min() < 0 or g.max() > 1 for g in grids):
        raise ParameterError(f"point_grids needs {n_layers + 1} arrays (n, 2) of (x, y) between 0 and 1.")
    return grids


def crop_boxes(shape: Sequence[int], n_layers: int, overlap_ratio: float) -> list[tuple[tuple[int, ...], int]]:
    """The whole image, then for each layer i a grid of 2 ** i x 2 ** i overlapping crops.

    Args:
        shape: Height and width of the image.
        n_layers: Number of layers of crops.
        overlap_ratio: Overlap of the crops in the first layer, as fraction of the image's shorter side.

    Returns:
        ((x0, y0, x1, y1), layer) of each crop, ends exclusive.
    """
    height, width = shape
    crops: list[tuple[tuple[int, ...], int]] = [((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(shape) * (2 / n))
        crop_width, crop_height = (ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for column, row in product(range(n), range(n)):
            x, y = (crop_width - overlap) * column, (crop_height - overlap) * row
            box = (x, y, min(x + crop_width, width), min(y + crop_height, height))
            if box[2] > box[0] and box[3] > box[1]:
                crops.append((box, layer))
    return crops
