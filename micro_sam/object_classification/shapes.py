"""Shape and brightness of single objects, as features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import ndimage

_INTENSITIES = ("mean", "std", "low", "high", "contrast")
_PLANE = ("area", "extent", "major_axis", "minor_axis", "eccentricity", "solidity", "perimeter", "circularity")
_VOLUME = ("volume", "extent", "first_axis", "second_axis", "third_axis", "elongation", "flatness", "n_slices")
#: How far around an object its surroundings reach, in pixels.
_RING = 3
_PLANES = 8


def shape_names(ndim: int) -> tuple[str, ...]:
    """What `shape_features` measures in images (2) or volumes (3)."""
    return _PLANE if ndim == 2 else _VOLUME


def shape_features(mask: np.ndarray) -> list[float]:
    """Measures of the shape of an object, in pixels.

    Args:
        mask: The object in its window, 2d or 3d.
    """
    size = float(np.count_nonzero(mask))
    axes = _axes(mask)
    if mask.ndim == 3:
        elongation, flatness = axes[1] / axes[0], axes[2] / axes[1]
        return [size, size / mask.size, *axes, elongation, flatness, float(mask.shape[0])]
    from skimage.measure import perimeter

    around = float(perimeter(mask))
    eccentricity = float(np.sqrt(max(0.0, 1 - (axes[1] / axes[0]) ** 2)))
    circularity = 4 * np.pi * size / max(around, 1.0) ** 2
    return [size, size / mask.size, *axes, eccentricity, _solidity(mask), around, circularity]


def _axes(mask: np.ndarray) -> list[float]:
    """Lengths of the axes of the ellipsoid with the same second moments, the longest first."""
    places = np.argwhere(mask).astype(float)
    covariance = np.cov(places.T, bias=True) if len(places) > 1 else np.zeros((mask.ndim, mask.ndim))
    spread = np.linalg.eigvalsh(covariance)[::-1] + 1 / 12  # a pixel is no point
    return [float(4 * np.sqrt(max(value, 1 / 12))) for value in spread]


def _solidity(mask: np.ndarray) -> float:
    """The share of an object in its convex hull; 1 for objects too thin to have one."""
    from skimage.morphology import convex_hull_image

    if min(mask.shape) < 3:
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hull = np.count_nonzero(convex_hull_image(mask))
    return float(np.count_nonzero(mask) / hull) if hull else 1.0


def intensity_names(channels: int) -> tuple[str, ...]:
    """What `intensity_features` measures in images of so many channels."""
    return tuple(f"intensity_{name}_{channel}" for channel in range(channels) for name in _INTENSITIES)


def intensity_range(image: Any, ndim: int) -> tuple[float, float]:
    """The brightness that counts as 0 and as 1: so that images of another exposure can be compared.

    Args:
        image: YX, ZYX or the same with channels on the last axis.
        ndim: Its spatial axes; of volumes a few planes are read.
    """
    n_planes = 1 if ndim == 2 else image.shape[0]
    chosen = np.unique(np.linspace(0, n_planes - 1, _PLANES).astype(int))
    planes = [np.asarray(image[...] if ndim == 2 else image[int(i)], dtype=np.float32) for i in chosen]
    values = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, (0.1, 99.9))
    return float(low), float(max(high - low, 1e-6))


def intensity_features(
    image: Any, labels: Any, label: int, window: tuple[slice, ...], range_: tuple[float, float]
) -> list[float]:
    """Brightness of an object in each channel, and against what surrounds it.

    Args:
        image: YX, ZYX or the same with channels on the last axis; it is read around the object only.
        labels: Its labels.
        label: The object.
        window: The object's window.
        range_: From `intensity_range`.
    """
    shape = labels.shape
    grown = tuple(slice(max(s.start - _RING, 0), min(s.stop + _RING, n)) for s, n in zip(window, shape))
    there = np.asarray(labels[grown])
    inside = there == label
    ring = (there == 0) & ndimage.binary_dilation(inside, iterations=_RING)
    block = (np.nan_to_num(np.asarray(image[grown], dtype=np.float32)) - range_[0]) / range_[1]
    channels = [block] if block.ndim == inside.ndim else [block[..., k] for k in range(min(3, block.shape[-1]))]
    return [value for channel in channels for value in _measure(channel, inside, ring)]


def _measure(channel: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> list[float]:
    values = channel[inside]
    mean = float(values.mean())
    around = float(channel[ring].mean()) if ring.any() else mean
    low, high = np.percentile(values, (5, 95))
    return [mean, float(values.std()), float(low), float(high), mean - around]
