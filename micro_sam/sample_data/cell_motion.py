"""How the cells of a synthetic time series move, push each other, grow and divide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial import cKDTree

Rng = np.random.Generator


@dataclass(frozen=True)
class MotionSettings:
    """The life of synthetic cells; lengths are in mean cell diameters, times in frames.

    Attributes:
        density: Fraction of the arena that is covered by cells.
        speed: Standard deviation of the displacement per frame and axis.
        persistence: How much of its velocity a cell keeps, between 0 and 1.
        contact: Distance of two centres, in sums of their radii, below which cells push each other apart.
        cycle: Mean number of frames between two divisions; a fifth is its standard deviation.
        mitosis: Frames before a division in which a cell is small, round and bright.
    """

    density: float = 0.25
    speed: float = 0.06
    persistence: float = 0.7
    contact: float = 1.05
    cycle: float = 40.0
    mitosis: int = 2


@dataclass(frozen=True)
class Cell:
    """One cell in one frame.

    Attributes:
        key: Identifies the cell from its birth to its division.
        parent: The key of the cell it came from, None for the first ones.
        centre: (y, x) in pixels.
        velocity: Displacement (y, x) per frame in pixels.
        angle: Direction of the long axis in radians.
        elongation: Ratio of the long axis to that of a circle of the same area.
        area: In pixels.
        birth_area: The area it had at first.
        age: Frames since its birth.
        cycle: Frames from birth to division.
        looks: Seed of its outline, texture and brightness.
    """

    key: int
    parent: int | None
    centre: np.ndarray
    velocity: np.ndarray
    angle: float
    elongation: float
    area: float
    birth_area: float
    age: int
    cycle: int
    looks: int

    @property
    def radius(self) -> float:
        """The radius of a circle of the same area, in pixels."""
        return float(np.sqrt(self.area / np.pi))

    def frames_to_division(self) -> int:
        """How many frames are left before it divides."""
        return self.cycle - self.age


@dataclass
class Population:
    """Cells in a rectangular arena, which `step` moves on by one frame.

    Attributes:
        shape: Height and width of the arena in pixels.
        diameter: Mean diameter of a cell in pixels.
        settings: How cells behave.
        rng: Where chance comes from.
        cells: The living cells.
    """

    shape: tuple[int, int]
    diameter: float
    settings: MotionSettings
    rng: Rng
    cells: list[Cell] = field(default_factory=list)
    _next_key: int = 1

    def seed_cells(self) -> None:
        """Put the first cells into the arena, of all ages, and let them settle."""
        mean_area = np.pi / 4 * self.diameter**2
        number = max(1, round(self.settings.density * self.shape[0] * self.shape[1] / mean_area))
        for _ in range(number):
            cycle = self._draw_cycle()
            age = int(self.rng.uniform(0, cycle))
            birth_area = 0.7 * mean_area * np.exp(self.rng.normal(0, 0.1))
            self.cells.append(
                Cell(
                    key=self._new_key(),
                    parent=None,
                    centre=self.rng.uniform(0, self.shape),
                    velocity=self.rng.normal(0, self.settings.speed * self.diameter, 2),
                    angle=self.rng.uniform(0, np.pi),
                    elongation=np.exp(abs(self.rng.normal(0, 0.12))),
                    area=birth_area * (1 + age / cycle),
                    birth_area=birth_area,
                    age=age,
                    cycle=cycle,
                    looks=int(self.rng.integers(2**31)),
                )
            )
        for _ in range(60):
            self._push_apart(0.5)

    def step(self) -> None:
        """Move on by one frame: cells that are due divide, all grow, move and push each other."""
        self.cells = [new for cell in self.cells for new in self._divide_or_grow(cell)]
        self.cells = [self._move(cell) for cell in self.cells]
        for _ in range(4):
            self._push_apart(0.4)

    def _new_key(self) -> int:
        self._next_key += 1
        return self._next_key - 1

    def _draw_cycle(self) -> int:
        return max(6, round(self.rng.normal(self.settings.cycle, self.settings.cycle / 5)))

    def _divide_or_grow(self, cell: Cell) -> list[Cell]:
        if cell.frames_to_division() > 1:
            area = cell.birth_area * (1 + (cell.age + 1) / cell.cycle)
            return [replace(cell, area=area, age=cell.age + 1)]
        share = np.clip(self.rng.normal(0.5, 0.03), 0.42, 0.58)
        axis = np.array([np.sin(cell.angle), np.cos(cell.angle)])
        radii = np.sqrt(cell.area * np.array([share, 1 - share]) / np.pi)
        places = (0.95 * radii[1], -0.95 * radii[0])
        return [
            Cell(
                key=self._new_key(),
                parent=cell.key,
                centre=cell.centre + place * axis,
                velocity=cell.velocity + np.sign(place) * 0.04 * self.diameter * axis,
                angle=cell.angle + np.pi / 2 + self.rng.normal(0, 0.15),
                elongation=1.2,
                area=cell.area * part,
                birth_area=cell.area * part,
                age=0,
                cycle=self._draw_cycle(),
                looks=int(self.rng.integers(2**31)),
            )
            for place, part in zip(places, (share, 1 - share), strict=True)
        ]

    def _move(self, cell: Cell) -> Cell:
        keep = self.settings.persistence
        kick = self.rng.normal(0, self.settings.speed * self.diameter * np.sqrt(1 - keep**2), 2)
        velocity = keep * cell.velocity + kick
        centre = cell.centre + velocity
        out = (centre < 0) | (centre > self.shape)
        velocity = np.where(out, -velocity, velocity)
        elongation = cell.elongation + 0.2 * (np.exp(abs(self.rng.normal(0, 0.12))) - cell.elongation)
        angle = cell.angle + self.rng.normal(0, 0.08)
        return replace(
            cell, centre=np.clip(centre, 0, self.shape), velocity=velocity, angle=angle, elongation=elongation
        )

    def _push_apart(self, strength: float) -> None:
        """Move overlapping pairs of cells away from each other."""
        centres = np.array([cell.centre for cell in self.cells])
        radii = np.array([cell.radius for cell in self.cells])
        pairs = cKDTree(centres).query_pairs(2 * self.settings.contact * radii.max(), output_type="ndarray")
        offsets = centres[pairs[:, 0]] - centres[pairs[:, 1]]
        distances = np.sqrt((offsets**2).sum(axis=1)) + 1e-6
        overlap = np.clip(self.settings.contact * radii[pairs].sum(axis=1) - distances, 0, None)
        push = strength * 0.5 * (overlap / distances)[:, None] * offsets
        np.add.at(centres, pairs[:, 0], push)
        np.add.at(centres, pairs[:, 1], -push)
        moved = np.clip(centres, 0, self.shape)
        self.cells = [replace(cell, centre=centre) for cell, centre in zip(self.cells, moved, strict=True)]
