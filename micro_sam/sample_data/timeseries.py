"""Synthetic time series of moving, dividing cells whose tracks and lineages are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..errors import ParameterError
from ..io.track_tables import families_of
from .cell_motion import Cell, MotionSettings, Population, Rng

_SMALLEST_VISIBLE = 0.15  # a cell is labelled once this fraction of it is in view


@dataclass(frozen=True)
class TimeseriesSettings:
    """What a synthetic time series looks like.

    Attributes:
        motion: How cells move and divide.
        noise: Standard deviation of the noise, as a fraction of the intensity range.
        dimmest: The dimmest cell's brightness, as a fraction of the brightest.
        texture: Strength of the texture inside cells.
        blur: Blur in pixels; it varies by a third over time.
        bleaching: Fraction of the brightness that is lost over the whole series.
        drift: Displacement of the view per frame, in cell diameters.
    """

    motion: MotionSettings = field(default_factory=MotionSettings)
    noise: float = 0.03
    dimmest: float = 0.6
    texture: float = 0.15
    blur: float = 0.8
    bleaching: float = 0.0
    drift: float = 0.0


SETTINGS: dict[str, TimeseriesSettings] = {
    "easy": TimeseriesSettings(),
    "hard": TimeseriesSettings(
        MotionSettings(density=0.4, speed=0.16, persistence=0.5, contact=0.92, cycle=24.0, mitosis=1),
        noise=0.06,
        dimmest=0.4,
        texture=0.25,
        blur=1.0,
        bleaching=0.3,
        drift=0.06,
    ),
}
"""The settings of `synthetic_timeseries` by name."""


class Timeseries(NamedTuple):
    """A synthetic time series with its ground truth.

    Attributes:
        images: uint8, TYX.
        labels: uint32, TYX; a cell has the same label in all frames from its appearance to its division or exit.
        lineages: One dict per family, label -> labels of the daughters (none for cells that did not divide).
    """

    images: np.ndarray
    labels: np.ndarray
    lineages: list[dict[int, list[int]]]


def synthetic_timeseries(
    shape: Sequence[int] = (20, 256, 256),
    seed: int | None = None,
    setting: str | TimeseriesSettings = "easy",
    diameter: float | None = None,
) -> Timeseries:
    """Make a time series of fluorescent nuclei that move, touch, divide, enter and leave the view.

    Args:
        shape: Number of frames, height and width.
        seed: Seed of the random numbers; the same seed gives the same data.
        setting: "easy" (well separated, slow, bright), "hard" (dense, touching, fast, dim, noisy, bleaching, drifting,
            dividing often), or settings of your own.
        diameter: Mean diameter of a nucleus in pixels. The default is a tenth of the shorter side, at least 10.

    Returns:
        The images, the labels and the lineages.

    Raises:
        ParameterError: An unknown setting, or a shape that is not that of a time series.
    """
    if isinstance(setting, str):
        if setting not in SETTINGS:
            raise ParameterError(f"The setting of a time series is one of {', '.join(SETTINGS)}, got {setting!r}.")
        setting = SETTINGS[setting]
    shape = tuple(int(s) for s in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ParameterError(f"A time series has the axes TYX of at least one frame and pixel, got shape {shape}.")
    diameter = max(10.0, min(shape[1:]) / 10) if diameter is None else float(diameter)
    rng = np.random.default_rng(seed)
    movie = _simulate(shape, diameter, setting, rng)
    drawn = [_draw(cells, shape[1:], diameter, setting) for cells in movie]
    labels, lineages = _tracks([keys for keys, _ in drawn], movie)
    images = _degrade(np.stack([intensity for _, intensity in drawn]), setting, rng)
    return Timeseries(images, labels, lineages)


def _simulate(shape: tuple[int, ...], diameter: float, setting: TimeseriesSettings, rng: Rng) -> list[list[Cell]]:
    """The cells of every frame, in the coordinates of the view; the arena is larger than the view."""
    margin = int(2 * diameter)
    travel = setting.drift * diameter * shape[0] * np.array([1.0, 0.6])
    arena = tuple(int(s + 2 * margin + t) for s, t in zip(shape[1:], travel, strict=True))
    population = Population(arena, diameter, setting.motion, rng)
    population.seed_cells()
    movie = []
    for frame in range(shape[0]):
        if frame:
            population.step()
        origin = margin + travel * frame / shape[0]
        movie.append([replace(cell, centre=cell.centre - origin) for cell in population.cells])
    return movie


def _draw(
    cells: Sequence[Cell], shape: tuple[int, ...], diameter: float, setting: TimeseriesSettings
) -> tuple[np.ndarray, np.ndarray]:
    """One frame: the key of the cell in every pixel (0 for none), and the intensity without noise."""
    keys = np.zeros(shape, np.int64)
    nearest = np.ones(shape, np.float32)
    intensity = np.zeros(shape, np.float32)
    for cell in cells:
        reach = 2.2 * cell.radius
        low = np.maximum(np.floor(cell.centre - reach), 0).astype(int)
        high = np.minimum(np.ceil(cell.centre + reach) + 1, shape).astype(int)
        if (low >= high).any():
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        radius, brightness = _appearance(cell, box, diameter, setting)
        mine = radius < nearest[box]
        if mine.sum() < _SMALLEST_VISIBLE * cell.area:
            continue
        keys[box][mine] = cell.key
        nearest[box][mine] = radius[mine]
        intensity[box][mine] = brightness[mine]
    return keys, intensity


def _appearance(
    cell: Cell, box: tuple[slice, ...], diameter: float, setting: TimeseriesSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel of a box: the normalised radius (below 1 inside the cell) and the brightness of the cell."""
    looks = np.random.default_rng(cell.looks)
    level = looks.uniform(setting.dimmest, 1.0)
    waves = [(k, looks.normal(0, 0.06 / k), looks.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    bumps = looks.uniform(0.15, 0.5, 6), looks.uniform(0, 2 * np.pi, 6), looks.uniform(0, 2 * np.pi, 6)
    left = cell.frames_to_division()
    in_mitosis = left <= setting.motion.mitosis
    stretch = 1.35 if left == 1 else cell.elongation
    size = cell.radius * (0.85 if in_mitosis and left > 1 else 1.0)
    y, x = np.meshgrid(*[np.arange(b.start, b.stop) for b in box], indexing="ij", sparse=True)
    y, x = (y - cell.centre[0]) / size, (x - cell.centre[1]) / size
    u = (np.cos(cell.angle) * x + np.sin(cell.angle) * y) / stretch
    v = (-np.sin(cell.angle) * x + np.cos(cell.angle) * y) * stretch
    theta = np.arctan2(v, u)
    outline = 1 + (0 if in_mitosis else 1) * sum(a * np.cos(k * theta + p) for k, a, p in waves)
    radius = np.hypot(u, v) / outline
    texture = sum(
        np.cos(2 * np.pi * f * (np.cos(d) * u + np.sin(d) * v) * 2 + p) for f, d, p in zip(*bumps, strict=True)
    )
    brightness = level * (1 + setting.texture * texture / 3) * (1 - 0.45 * np.clip(radius, 0, 1) ** 2)
    return radius.astype(np.float32), (brightness * (1.35 if in_mitosis else 1.0)).astype(np.float32)


def _degrade(intensity: np.ndarray, setting: TimeseriesSettings, rng: Rng) -> np.ndarray:
    """Add an uneven background, bleach, blur, add noise that grows with the signal, and convert to uint8."""
    n_frames, *plane = intensity.shape
    y, x = np.meshgrid(*[np.linspace(-1, 1, s, dtype=np.float32) for s in plane], indexing="ij")
    tilt = rng.uniform(-0.02, 0.02, 2)
    background = 0.08 + tilt[0] * y + tilt[1] * x
    phase = rng.uniform(0, 2 * np.pi)
    images = np.empty(intensity.shape, np.uint8)
    for frame in range(n_frames):
        fading = 1 - setting.bleaching * frame / max(1, n_frames - 1)
        blur = setting.blur * (1 + 0.33 * np.sin(phase + frame / 3))
        signal = ndimage.gaussian_filter(background + 0.6 * fading * intensity[frame], blur)
        sigma = setting.noise * (0.4 + np.sqrt(signal))
        signal = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
        images[frame] = np.round(np.clip(signal, 0, 1) * 255)
    return images


def _tracks(
    keys: Sequence[np.ndarray], movie: Sequence[Sequence[Cell]]
) -> tuple[np.ndarray, list[dict[int, list[int]]]]:
    """Number the cells by what can be seen: a cell that was out of view comes back as a new track."""
    parents = {cell.key: cell.parent for cells in movie for cell in cells}
    labels = np.zeros((len(keys), *keys[0].shape), np.uint32)
    children: dict[int, list[int]] = {}
    before: dict[int, int] = {}
    for frame, plane in enumerate(keys):
        visible = [int(key) for key in np.unique(plane) if key]
        born: dict[int, list[int]] = {}
        for key in visible:
            if key not in before and parents[key] in before:
                born.setdefault(parents[key], []).append(key)
        now = {key: before[key] for key in visible if key in before}
        for parent, daughters in born.items():
            if len(daughters) == 1:  # the other daughter is out of view, so that nothing shows the division
                now[daughters[0]] = before[parent]
                continue
            for key in daughters:
                now[key] = len(children) + 1
                children[now[key]] = []
                children[before[parent]].append(now[key])
        for key in visible:
            if key not in now:
                now[key] = len(children) + 1
                children[now[key]] = []
        inside = plane > 0
        labels[frame][inside] = np.array([now[key] for key in visible], np.uint32)[
            np.searchsorted(visible, plane[inside])
        ]
        before = now
    return labels, families_of(children)
