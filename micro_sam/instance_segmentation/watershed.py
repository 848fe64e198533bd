"""From the decoder's three maps to labels: seeds where the distances are small, then a watershed.

After Archit et al., "Segment Anything for Microscopy", Nature Methods 2025. The maps are foreground probability,
distance to the object's centre and distance to its boundary; both distances are 0 in the middle of an object and 1 at
its edge and outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import bioimage_cpp as bic
import numpy as np

from micro_sam.embeddings.tiling import Tile, Tiling
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.masks import LABEL_DTYPE, remove_small
from micro_sam.instance_segmentation.settings import AISSettings

_BLOCK = (1024, 1024)


@dataclass(frozen=True)
class Maps:
    """What the decoder predicts for an image; float32 arrays of its shape (YX), or anything that slices like one.

    Attributes:
        foreground: Probability of belonging to an object.
        center_distances: Distance to the object's centre.
        boundary_distances: Inverted distance to the object's boundary.
    """

    foreground: Any
    center_distances: Any
    boundary_distances: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return tuple(self.foreground.shape)

    def read(self, window: tuple[slice, slice] = (slice(None), slice(None))) -> Maps:
        """A window of the maps as arrays in memory."""
        parts = (self.foreground, self.center_distances, self.boundary_distances)
        return Maps(*(np.asarray(part[window], dtype=np.float32) for part in parts))


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing, sigma in pixels, 0 for none."""
    if sigma <= 0 or image.size <= 1:
        return image
    return bic.filters.gaussian_smoothing(np.ascontiguousarray(image, dtype=np.float32), sigma)


@dataclass(frozen=True)
class Landscape:
    """What the watershed works on: smoothed boundary distances, seed pixels and foreground pixels of a window."""

    heights: np.ndarray
    seeds: np.ndarray
    foreground: np.ndarray


def landscape(maps: Maps, settings: AISSettings) -> Landscape:
    """Smooth and threshold the maps."""
    heights = smooth(maps.boundary_distances, settings.distance_smoothing)
    centers = smooth(maps.center_distances, settings.distance_smoothing)
    foreground = smooth(maps.foreground, settings.foreground_smoothing) > settings.foreground_threshold
    seeds = (centers < settings.center_distance_threshold) & (heights < settings.boundary_distance_threshold)
    return Landscape(heights, seeds & foreground, foreground)


def label_seeds(seeds: np.ndarray) -> np.ndarray:
    """Number the connected components (including diagonals) of a bool image; uint32."""
    if seeds.size == 0:
        return np.zeros(seeds.shape, dtype=LABEL_DTYPE)
    return bic.segmentation.label(np.ascontiguousarray(seeds)).astype(LABEL_DTYPE)


def flood(land: Landscape, seeds: np.ndarray) -> np.ndarray:
    """Grow numbered seeds over the foreground, along the smoothed boundary distances."""
    if not seeds.any():
        return np.zeros(seeds.shape, dtype=LABEL_DTYPE)
    return bic.segmentation.watershed(land.heights, seeds, mask=land.foreground)


def segment_maps(maps: Maps, settings: AISSettings) -> np.ndarray:
    """Segment the maps in one piece.

    Returns:
        Label image (YX), uint32, consecutive labels, 0 is background.
    """
    land = landscape(maps.read(), settings)
    return remove_small(flood(land, label_seeds(land.seeds)), settings.min_size)


def segment_maps_blockwise(
    maps: Maps,
    settings: AISSettings,
    tile_shape: Sequence[int] | None = None,
    halo: Sequence[int] | None = None,
    n_threads: int | None = None,
    optimize_memory: bool = False,
    out: Any = None,
) -> Any:
    """Segment the maps block by block and in parallel; seeds are numbered over the whole image.

    An object keeps one label across blocks. It is cut exactly as in `segment_maps` if it reaches no further into a
    neighbouring block than the halo.

    Args:
        maps: The maps; they are read block by block.
        settings: Thresholds, smoothing and smallest size.
        tile_shape: Height and width of a block.
        halo: How much each block is enlarged for the watershed.
        n_threads: How many blocks at the same time; by default as many as there are processors.
        optimize_memory: Smooth every block twice instead of keeping the smoothed maps.
        out: Where to write: any array of the maps' shape with integer dtype, for example zarr or HDF5.

    Returns:
        ``out``, or a new uint32 array.

    Raises:
        ParameterError: ``out`` has another shape.
    """
    if out is not None and tuple(out.shape) != maps.shape:
        raise ParameterError(f"The array for the segmentation has shape {tuple(out.shape)}, the image {maps.shape}.")
    tile_shape = tuple(tile_shape or _BLOCK)
    halo = tuple(halo) if halo is not None else tuple(s // 4 for s in tile_shape)
    tiles = list(Tiling(maps.shape, tile_shape, halo))
    with ThreadPoolExecutor(n_threads) as pool:
        seeds, kept = _find_seeds(maps, settings, tiles, pool, keep=not optimize_memory)
        labels = _flood_tiles(maps, settings, tiles, pool, label_seeds(seeds), kept)
    labels = remove_small(labels, settings.min_size)
    if out is None:
        return labels
    for tile in tiles:
        out[tile.inner] = labels[tile.inner]
    return out


def _find_seeds(
    maps: Maps, settings: AISSettings, tiles: list[Tile], pool: ThreadPoolExecutor, keep: bool
) -> tuple[np.ndarray, dict[int, Landscape]]:
    seeds = np.zeros(maps.shape, dtype=bool)
    kept: dict[int, Landscape] = {}

    def run(tile: Tile) -> None:
        land = landscape(maps.read(tile.outer), settings)
        seeds[tile.inner] = land.seeds[tile.inner_in_outer]
        if keep:
            kept[tile.index] = land

    list(pool.map(run, tiles))
    return seeds, kept


def _flood_tiles(
    maps: Maps,
    settings: AISSettings,
    tiles: list[Tile],
    pool: ThreadPoolExecutor,
    numbered: np.ndarray,
    kept: dict[int, Landscape],
) -> np.ndarray:
    labels = np.zeros(maps.shape, dtype=LABEL_DTYPE)

    def run(tile: Tile) -> None:
        land = kept.pop(tile.index, None) or landscape(maps.read(tile.outer), settings)
        labels[tile.inner] = flood(land, np.ascontiguousarray(numbered[tile.outer]))[tile.inner_in_outer]

    list(pool.map(run, tiles))
    return labels


def seed_points(seeds: np.ndarray) -> np.ndarray:
    """The most interior pixel of every numbered seed.

    Args:
        seeds: Labels 1 to n (YX), none missing.

    Returns:
        (n, 2) int array of (y, x), in the order of the labels.
    """
    count = int(seeds.max()) if seeds.size else 0
    if count == 0:
        return np.zeros((0, 2), dtype=np.int64)
    depth = bic.distance.distance_transform(np.pad(seeds > 0, 1))[1:-1, 1:-1]
    pixels = np.flatnonzero(seeds)
    numbers, depths = seeds.ravel()[pixels], depth.ravel()[pixels]
    order = np.lexsort((-depths, numbers))
    first = np.searchsorted(numbers[order], np.arange(1, count + 1))
    return np.stack(np.unravel_index(pixels[order[first]], seeds.shape), axis=1)
