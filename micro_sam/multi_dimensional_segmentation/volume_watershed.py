"""From the decoder's maps of all slices to objects of the volume: seeds in 3d, then one watershed, no merging.

The maps are those of `micro_sam.instance_segmentation.watershed`, stacked. Seeds are connected in 3d, so that an object
is one object from the start. Large volumes are worked on in slabs of slices, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import bioimage_cpp as bic
import numpy as np
from scipy import ndimage

from micro_sam.instance_segmentation.settings import AISSettings
from micro_sam.instance_segmentation.watershed import Maps, smooth
from micro_sam.multi_dimensional_segmentation.label_store import check_out, label_dtype, new_array, rewrite
from micro_sam.progress import Progress

_TEXT = "Segment the volume"
_SLAB_VOXELS = 2**26
_HALO = 16  # slices by which a slab is enlarged, so that objects that reach over its border are cut as in one piece


@dataclass(frozen=True)
class VolumeWatershedSettings:
    """Settings of the watershed in 3d.

    Attributes:
        slices: Thresholds and smoothing as for single slices.
        z_smoothing: Sigma in slices for smoothing both distances across slices.
        min_z_extent: Objects that reach over fewer slices are removed.
        slab: How many slices to work on at once; by default as many as 2^26 voxels have.
    """

    slices: AISSettings
    z_smoothing: float = 1.0
    min_z_extent: int | None = None
    slab: int | None = None


@dataclass(frozen=True)
class _Slab:
    """Slices from start to stop, and with a halo from low to high."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def inner(self) -> slice:
        """The slices without halo, counted from the first one of the halo."""
        return slice(self.start - self.low, self.stop - self.low)


class MapStack:
    """The decoder's maps of all slices; on disk in half precision if they would take too much memory."""

    def __init__(self, shape: tuple[int, int, int], most_bytes: int | None = None) -> None:
        self.shape = shape
        size = 3 * 4 * float(np.prod(shape, dtype=np.float64))
        fits = most_bytes is None or size <= most_bytes
        self._maps = [new_array(shape, np.float32 if fits else np.float16, most_bytes) for _ in range(3)]

    def put(self, z: int, maps: Maps) -> None:
        """Keep the maps of a slice."""
        for stored, values in zip(self._maps, (maps.foreground, maps.center_distances, maps.boundary_distances)):
            stored[z] = values

    def read(self, low: int, high: int, settings: VolumeWatershedSettings) -> Maps:
        """Smoothed maps of the slices from low to high."""
        margin = int(np.ceil(3 * settings.z_smoothing))
        first, last = max(0, low - margin), min(self.shape[0], high + margin)
        parts = (np.asarray(stored[first:last], dtype=np.float32) for stored in self._maps)
        sigmas = [(settings.slices.foreground_smoothing, 0.0)]  # across slices, it would cut off the ends of objects
        sigmas += [(settings.slices.distance_smoothing, settings.z_smoothing)] * 2
        smoothed = (_smooth(part, *sigma) for part, sigma in zip(parts, sigmas))
        return Maps(*(np.ascontiguousarray(part[low - first : high - first]) for part in smoothed))


def _smooth(volume: np.ndarray, sigma: float, z_sigma: float) -> np.ndarray:
    volume = np.stack([smooth(plane, sigma) for plane in volume])
    return ndimage.gaussian_filter1d(volume, z_sigma, axis=0, mode="nearest", truncate=3) if z_sigma > 0 else volume


def iter_volume_watershed(
    maps: MapStack, settings: VolumeWatershedSettings, out: Any | None = None, inside: np.ndarray | None = None
) -> Generator[Progress, None, Any]:
    """Segment the maps of a volume.

    Args:
        maps: The maps.
        settings: Thresholds, smoothing and smallest sizes (``min_size`` in voxels).
        out: Where to write the labels (ZYX, integer).
        inside: Objects are cut off where it is False (YX).

    Yields:
        `Progress` in slabs, of which there are two rounds.

    Returns:
        Labels (ZYX) from 1 on without gaps, 0 is background; uint32, or uint64 where that is needed.
    """
    depth, height, width = maps.shape
    if out is not None:
        check_out(out, maps.shape, 0)
    slabs = list(_slabs(depth, settings.slab or max(1, _SLAB_VOXELS // (height * width))))
    rounds = 2 * len(slabs)
    seeds = _SeedVolume(maps.shape)
    for done, slab in enumerate(slabs):
        yield Progress(done, rounds, _TEXT)
        smoothed = maps.read(slab.start, slab.stop, settings)
        seeds.add(slab.start, _seeds_of(smoothed, settings.slices))
    numbers = seeds.merged()
    labels = new_array(maps.shape, label_dtype(int(numbers.max())))
    for done, slab in enumerate(slabs, start=len(slabs)):
        yield Progress(done, rounds, _TEXT)
        smoothed = maps.read(slab.low, slab.high, settings)
        markers = numbers[seeds.read(slab.low, slab.high)].astype(labels.dtype)
        foreground = smoothed.foreground > settings.slices.foreground_threshold
        flooded = bic.segmentation.watershed(smoothed.boundary_distances, markers, mask=foreground)
        labels[slab.start : slab.stop] = flooded[slab.inner] if inside is None else flooded[slab.inner] * inside
    result = _without_small(labels, int(numbers.max()), settings, out)
    yield Progress(rounds, rounds, _TEXT)
    return result


def _slabs(depth: int, thickness: int) -> Iterator[_Slab]:
    for start in range(0, depth, thickness):
        stop = min(start + thickness, depth)
        yield _Slab(start, stop, max(0, start - _HALO), min(depth, stop + _HALO))


def _seeds_of(maps: Maps, settings: AISSettings) -> np.ndarray:
    near = maps.center_distances < settings.center_distance_threshold
    near &= maps.boundary_distances < settings.boundary_distance_threshold
    near &= maps.foreground > settings.foreground_threshold
    return near


class _SeedVolume:
    """Connected components of seeds, found slab by slab."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        # every component has a voxel, and a slab begins with the number after the last one
        self._labels = new_array(shape, label_dtype(int(np.prod(shape, dtype=np.int64))))
        self._count = 0
        self._touching: list[np.ndarray] = []
        self._top: np.ndarray | None = None

    def add(self, start: int, seeds: np.ndarray) -> None:
        """Number the components (including diagonals) of the next slab."""
        labels = bic.segmentation.label(np.ascontiguousarray(seeds))
        labels[labels > 0] += np.uint64(self._count)
        if self._top is not None:
            self._touching.append(_pairs(self._top, labels[0]))
        self._top = labels[-1].copy()
        self._count = max(self._count, int(labels.max()))
        self._labels[start : start + len(labels)] = labels.astype(self._labels.dtype)

    def read(self, low: int, high: int) -> np.ndarray:
        """The components in some slices, not yet merged across slabs."""
        return np.asarray(self._labels[low:high])

    def merged(self) -> np.ndarray:
        """For each component a number that those that touch across slabs share; from 1 without gaps, 0 stays."""
        union = bic.utils.UnionFind(self._count + 1)
        pairs = np.concatenate(self._touching) if self._touching else np.zeros((0, 2), dtype=np.uint64)
        if len(pairs):
            union.merge(pairs.astype(np.uint64))
        roots = np.asarray(union.find(np.arange(self._count + 1, dtype=np.uint64)))
        return np.unique(roots, return_inverse=True)[1]


def _pairs(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Which components of two slices touch, including diagonals."""
    found = []
    padded = np.pad(above, 1)
    for dy in range(3):
        for dx in range(3):
            moved = padded[dy : dy + below.shape[0], dx : dx + below.shape[1]]
            both = (below > 0) & (moved > 0)
            found.append(np.unique(np.stack([below[both], moved[both]], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)


def _without_small(labels: Any, count: int, settings: VolumeWatershedSettings, out: Any | None) -> Any:
    """Remove what is too small or too flat, and number the rest without gaps."""
    sizes = np.zeros(count + 1, dtype=np.int64)
    extents = np.zeros(count + 1, dtype=np.int64)
    for z in range(len(labels)):
        found, counts = np.unique(np.asarray(labels[z]), return_counts=True)
        sizes[found] += counts
        extents[found] += 1
    keep = (sizes >= max(settings.slices.min_size, 1)) & (extents >= max(settings.min_z_extent or 0, 1))
    keep[0] = False
    numbers = np.where(keep, np.cumsum(keep), 0)
    if out is None:
        out = labels
    check_out(out, labels.shape, int(numbers.max()))
    rewrite(labels, lambda z: numbers, out)
    return out
