"""Synthetic microscopy images with known instances: they need no network and no licence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..errors import ParameterError

Rng = np.random.Generator


def synthetic_data(
    shape: Sequence[int],
    seed: int | None = None,
    kind: str = "nuclei",
    diameter: float | None = None,
    density: float = 0.5,
    noise: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Make an image and its instance labels.

    Args:
        shape: (height, width), or (depth, height, width) for a volume of nuclei.
        seed: Seed of the random numbers; the same seed gives the same data.
        kind: One of `KINDS`. Volumes are available for "nuclei" and "discs".
        diameter: Mean object diameter in pixels. The default is a tenth of the shorter side, at least 8.
        density: How much of the image is filled with objects, between 0 and 1. Ignored by "membranes".
        noise: Standard deviation of the noise, as a fraction of the intensity range.

    Returns:
        The image, uint8 of ``shape``, and the labels, uint32 of ``shape`` with 0 as background and consecutive ids.

    Raises:
        ParameterError: If the kind is unknown or the shape has not two or three axes.
    """
    shape = tuple(int(s) for s in shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ParameterError(f"Synthetic data has two or three axes of at least one pixel, got shape {shape}.")
    if kind not in KINDS:
        raise ParameterError(f"The kind of synthetic data is one of {', '.join(KINDS)}, got {kind!r}.")
    if len(shape) == 3 and kind not in ("nuclei", "discs"):
        raise ParameterError(f"Synthetic volumes are made of 'nuclei' or 'discs', got kind {kind!r}.")
    rng = np.random.default_rng(seed)
    diameter = max(8.0, min(shape[-2:]) / 10) if diameter is None else float(diameter)
    intensity, labels = KINDS[kind](shape, rng, diameter, density)
    intensity = _degrade(intensity, rng, noise)
    return np.round(intensity * 255).astype(np.uint8), labels


def _degrade(intensity: np.ndarray, rng: Rng, noise: float) -> np.ndarray:
    """Blur as an objective does, add noise that grows with the signal, clip to [0, 1]."""
    intensity = ndimage.gaussian_filter(intensity, rng.uniform(0.4, 1.2))
    sigma = noise * (0.5 + np.sqrt(np.clip(intensity, 0, None)))
    intensity = intensity + sigma * rng.standard_normal(intensity.shape, dtype=np.float32)
    return np.clip(intensity, 0, 1)


def _smooth_field(shape: Sequence[int], rng: Rng, scale: float) -> np.ndarray:
    """A random field in [-1, 1] that varies over about ``scale`` pixels."""
    coarse = [max(2, int(np.ceil(s / scale)) + 2) for s in shape]
    field = rng.uniform(-1, 1, coarse).astype(np.float32)
    field = ndimage.zoom(
        field, [(s + scale) / c for s, c in zip(shape, coarse)], order=1, grid_mode=True, mode="nearest"
    )
    field = field[tuple(slice(0, s) for s in shape)]
    pad = [(0, s - f) for s, f in zip(shape, field.shape)]
    return np.pad(field, pad, mode="edge")


def _place(shape: Sequence[int], rng: Rng, diameter: float, density: float, gap: float) -> np.ndarray:
    """Centres of objects, at least ``gap`` diameters apart, (n, ndim)."""
    area = np.pi / 4 * diameter**2 if len(shape) == 2 else np.pi / 6 * diameter**3
    n_wanted = max(1, int(density * np.prod(shape) / area))
    candidates = rng.uniform(0, shape, (4 * n_wanted, len(shape)))
    kept: list[np.ndarray] = []
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    reach = max(gap * diameter, 1e-6)
    for point in candidates:
        cell = tuple((point // reach).astype(int))
        around = np.ndindex(*(3,) * len(shape))
        near = (q for o in around for q in cells.get(tuple(c + d - 1 for c, d in zip(cell, o)), ()))
        if all(np.sum((point - q) ** 2) >= reach**2 for q in near):
            kept.append(point)
            cells.setdefault(cell, []).append(point)
        if len(kept) == n_wanted:
            break
    return np.array(kept)


def _draw_blobs(shape, rng: Rng, diameter: float, density: float, gap: float, radius_of: Callable) -> tuple:
    """Draw one object a centre; ``radius_of(offsets, rng)`` is below 1 inside the object.

    Returns labels (uint32) and, per pixel, the normalised radius and a random brightness of its object.
    """
    labels = np.zeros(shape, np.uint32)
    radius = np.ones(shape, np.float32)
    level = np.zeros(shape, np.float32)
    next_id = 1
    for centre in _place(shape, rng, diameter, density, gap):
        size = diameter / 2 * np.exp(rng.normal(0, 0.2))
        reach = int(np.ceil(2.2 * size))
        box = tuple(slice(max(0, int(c) - reach), min(s, int(c) + reach + 1)) for c, s in zip(centre, shape))
        axes = np.meshgrid(*[np.arange(b.start, b.stop) for b in box], indexing="ij", sparse=True)
        offsets = [(axis - c) / size for axis, c in zip(axes, centre)]
        r = radius_of(offsets, rng)
        inside = (r < 1) & (labels[box] == 0)
        if inside.sum() < max(4, 0.15 * (r < 1).sum()):
            continue
        labels[box][inside] = next_id
        radius[box][inside] = r[inside]
        level[box][inside] = rng.uniform(0.35, 1.0)
        next_id += 1
    return labels, radius, level


def _ellipse(offsets: list[np.ndarray], rng: Rng) -> np.ndarray:
    """An ellipse (or ellipsoid) with a wavy outline."""
    stretch = np.exp(rng.normal(0, 0.18))
    angle = rng.uniform(0, np.pi)
    *front, y, x = offsets
    u, v = np.cos(angle) * y + np.sin(angle) * x, -np.sin(angle) * y + np.cos(angle) * x
    squared = (u / stretch) ** 2 + (v * stretch) ** 2
    theta = np.arctan2(v, u)
    wave = sum(rng.normal(0, 0.09 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    squared = squared / (1 + wave) ** 2
    for z in front:
        squared = squared + z**2
    return np.sqrt(squared)


def _disc(offsets: list[np.ndarray], rng: Rng) -> np.ndarray:
    return np.sqrt(sum(o**2 for o in offsets))


def _rod(offsets: list[np.ndarray], rng: Rng) -> np.ndarray:
    """A bent capsule."""
    length, width = rng.uniform(1.0, 1.9), rng.uniform(0.28, 0.5)
    angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.12)
    y, x = offsets
    u, v = np.cos(angle) * y + np.sin(angle) * x, -np.sin(angle) * y + np.cos(angle) * x
    v = v + bend * u**2
    return np.hypot(np.clip(np.abs(u) - (length - width), 0, None), v) / width


def _background(shape, rng: Rng) -> np.ndarray:
    return rng.uniform(0.02, 0.2) + rng.uniform(0, 0.08) * _smooth_field(shape, rng, max(shape) / 2)


def _nuclei(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Bright, textured nuclei on a dark ground; some touch."""
    labels, radius, level = _draw_blobs(shape, rng, diameter, density, rng.uniform(0.7, 1.1), _ellipse)
    texture = 1 + rng.uniform(0.05, 0.35) * _smooth_field(shape, rng, max(2.0, diameter / rng.uniform(3, 8)))
    profile = 1 - rng.uniform(0.1, 0.6) * radius**2
    return _background(shape, rng) + (labels > 0) * level * texture * profile * rng.uniform(0.4, 0.85), labels


def _discs(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Discs of one brightness on flat ground, brighter or darker than it."""
    labels, _, level = _draw_blobs(shape, rng, diameter, density, rng.uniform(0.8, 1.3), _disc)
    ground, contrast = rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.7)
    sign = 1 if ground < 0.5 else -1
    return np.full(shape, ground, np.float32) + sign * contrast * (labels > 0) * (0.7 + 0.3 * level), labels


def _rods(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Rod-shaped bacteria in fluorescence (bright) or phase contrast (dark with a halo)."""
    labels, radius, level = _draw_blobs(shape, rng, diameter, density, rng.uniform(0.45, 0.9), _rod)
    if rng.random() < 0.5:
        return _background(shape, rng) + (labels > 0) * level * (1 - 0.5 * radius), labels
    halo = ndimage.gaussian_filter((labels > 0).astype(np.float32), diameter / 8)
    ground = rng.uniform(0.45, 0.7) + rng.uniform(0.1, 0.35) * halo
    return np.where(labels > 0, ground - rng.uniform(0.3, 0.5) * (0.6 + 0.4 * level), ground).astype(np.float32), labels


def _rings(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells of which only the outline is stained."""
    labels, radius, level = _draw_blobs(shape, rng, diameter, density, rng.uniform(0.75, 1.1), _ellipse)
    width = rng.uniform(0.08, 0.2)
    rim = np.exp(-(((1 - radius) / width) ** 2)) * (labels > 0)
    return _background(shape, rng) + level * rim + rng.uniform(0, 0.15) * (labels > 0), labels


def _tessellation(shape, rng: Rng, diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Warped Voronoi cells: ids (uint32, from 1) and distance to the next cell in diameters."""
    centres = _place(shape, rng, diameter, 1.2, rng.uniform(0.5, 0.85))
    grid = np.stack(np.meshgrid(*[np.arange(s, dtype=np.float32) for s in shape], indexing="ij"), axis=-1)
    warp = rng.uniform(0.05, 0.3) * diameter
    for axis in range(len(shape)):
        grid[..., axis] += warp * _smooth_field(shape, rng, diameter * rng.uniform(0.4, 1.0))
    stretch = np.ones(len(shape))
    stretch[0] = np.exp(rng.normal(0, 0.3))
    distance, index = cKDTree(centres * stretch).query(grid * stretch, k=min(2, len(centres)))
    if len(centres) < 2:
        return np.ones(shape, np.uint32), np.ones(shape, np.float32)
    return index[..., 0].astype(np.uint32) + 1, ((distance[..., 1] - distance[..., 0]) / diameter).astype(np.float32)


def _relabel(labels: np.ndarray) -> np.ndarray:
    """Consecutive ids from 1, 0 stays background."""
    ids, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    return (inverse + (0 if ids[0] == 0 else 1)).astype(np.uint32)


def _membranes(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Densely packed cells seen by their membranes, dark as in electron or bright as in confocal microscopy."""
    cells, gap = _tessellation(shape, rng, diameter)
    membrane = np.exp(-((gap / rng.uniform(0.05, 0.14)) ** 2))
    texture = rng.uniform(0.03, 0.15) * _smooth_field(shape, rng, max(2.0, diameter / 6))
    tone = rng.uniform(-0.08, 0.08, cells.max() + 1).astype(np.float32)[cells]
    if rng.random() < 0.5:
        intensity = rng.uniform(0.55, 0.8) + tone + texture - rng.uniform(0.35, 0.55) * membrane
    else:
        intensity = rng.uniform(0.05, 0.2) + 0.5 * (tone + texture) + rng.uniform(0.4, 0.75) * membrane
    return intensity.astype(np.float32), _relabel(cells)


def _cells(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Colonies of touching cells on empty ground, in fluorescence or phase contrast."""
    cells, gap = _tessellation(shape, rng, diameter)
    colony = _smooth_field(shape, rng, 3 * diameter)
    inside = colony > np.quantile(colony, 1 - np.clip(density, 0.05, 0.95))
    kept = 2 * np.bincount(cells.ravel(), inside.ravel()) > np.bincount(cells.ravel())
    cells[~kept[cells]] = 0
    tone = rng.uniform(0.4, 1.0, cells.max() + 1).astype(np.float32)[cells] * (cells > 0)
    edge = np.exp(-((gap / rng.uniform(0.08, 0.2)) ** 2))
    texture = 1 + rng.uniform(0.05, 0.3) * _smooth_field(shape, rng, max(2.0, diameter / 5))
    if rng.random() < 0.6:
        intensity = _background(shape, rng) + 0.7 * tone * texture * (1 - rng.uniform(0.3, 0.8) * edge)
    else:
        ground = rng.uniform(0.4, 0.6)
        intensity = ground + (cells > 0) * (rng.uniform(0.2, 0.4) * edge + 0.15 * (texture - 1) - rng.uniform(0, 0.2))
    return intensity.astype(np.float32), _relabel(cells)


def _granules(shape, rng: Rng, diameter: float, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells that show only as clouds of small grains, such as vesicles or RNA; `vit_t_builtin` has never seen them."""
    labels, _, level = _draw_blobs(shape, rng, diameter, density, rng.uniform(0.85, 1.1), _ellipse)
    grains = (rng.random(shape) < rng.uniform(0.08, 0.12)) & (labels > 0)
    spots = ndimage.gaussian_filter(grains * rng.uniform(0.5, 1.0, shape).astype(np.float32), 0.8) * 4
    return _background(shape, rng) + (0.5 + 0.5 * level) * spots.astype(np.float32), labels


KINDS: dict[str, Callable] = {
    "nuclei": _nuclei,
    "cells": _cells,
    "rods": _rods,
    "membranes": _membranes,
    "rings": _rings,
    "discs": _discs,
    "granules": _granules,
}
"""The kinds of synthetic data: name -> function."""
