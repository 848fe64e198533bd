"""Link objects from frame to frame by linear assignment, then close gaps and find divisions with laptrack.

The method is that of Jaqaman et al., Nature Methods 2008: one assignment for every pair of frames, then one for all pieces
of tracks, which `laptrack` solves. All lengths are measured in typical object radii, and how far objects may move is
learned from the series, so that there is no parameter in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import dist
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from micro_sam.multi_dimensional_segmentation.tracking_objects import (
    ENOUGH_PAIRS,
    ObjectSeries,
    mutual_neighbours,
    shape_coordinates,
)

Node = tuple[int, int]
"""A frame and the index of an object in it."""
Link = tuple[Node, Node]
"""Two nodes, the earlier first."""


@dataclass(frozen=True)
class LinkSettings:
    """How objects are linked; lengths are in typical object radii.

    Attributes:
        gap_closing: How many frames in a row an object may be missing.
        divisions: Whether objects may divide.
        reach: How far an object may move, in multiples of what nine of ten clear pairs move less than.
        least_reach: An object may move as far as this even if nothing else moves.
        most_reach: No object may move farther than this.
        overlap_weight: What it costs, beside the squared distance, that two objects do not overlap at all.
        division_cost: The largest cost of a division: squared distance of the pair of daughters to the mother, and the
            squared logarithms of the two ratios of area below, weighted.
        division_reach: No daughter is farther than this from its mother.
        growth_weight: Weight of the daughters' area to that of the mother.
        symmetry_weight: Weight of one daughter's area to that of the other.
        division_offset: What a division costs in addition, so that one object that came back is not taken for two.
        border_offset: What a division costs in addition if that daughter touches the border, where objects enter.
        least_life: Frames for which a daughter must be seen, unless the series ends.
    """

    gap_closing: int = 1
    divisions: bool = True
    reach: float = 3.0
    least_reach: float = 1.5
    most_reach: float = 4.0
    overlap_weight: float = 2.0
    division_cost: float = 2.5
    division_reach: float = 4.0
    growth_weight: float = 4.0
    symmetry_weight: float = 1.0
    division_offset: float = 0.3
    border_offset: float = 1.0
    least_life: int = 2


def link_objects(series: ObjectSeries, settings: LinkSettings | None = None) -> list[Link]:
    """Link the objects of a time series.

    Args:
        series: The objects.
        settings: How to link; the defaults suit cells and nuclei.

    Returns:
        Links between an object and what it is later: one to the next time it is seen, two if it divides.
    """
    occupied = sum(len(frame) > 0 for frame in series.frames)
    return _Problem(series, settings or LinkSettings()).solve() if occupied > 1 else []


class _Problem:
    """The objects of a series in a frame of reference that moves with them, and the costs of linking them."""

    def __init__(self, series: ObjectSeries, settings: LinkSettings) -> None:
        self.frames, self.overlaps, self.settings = series.frames, series.overlaps, settings
        self.unit = float(np.median(np.concatenate([frame.radii for frame in series.frames])))
        self.drift = series.drift / self.unit
        self.coordinates = [
            self._coordinates(frame, objects.centres / self.unit, objects.moments / self.unit**2)
            for frame, objects in enumerate(series.frames)
        ]
        ndim = series.drift.shape[1]
        self.places = [coordinates[:, :ndim].tolist() for coordinates in self.coordinates]
        self.reach = self._reach()
        self.next: dict[Node, Node] = {}
        self.merged: set[Node] = set()

    def solve(self) -> list[Link]:
        settings, cutoff = self.settings, self.reach**2
        for frame in range(len(self.frames) - 1):
            self.next.update(self._assign(frame))
            self._find_merged(frame)
        if not self.next and not settings.gap_closing:
            return []
        from laptrack import LapTrack

        most = max(cutoff, settings.division_cost)
        graph = LapTrack(
            metric="sqeuclidean",
            cutoff=0,  # frames are linked already, by the edges below
            gap_closing_metric=self.gap_cost,
            gap_closing_cutoff=cutoff if settings.gap_closing > 0 else False,
            gap_closing_max_frame_count=settings.gap_closing + 1,
            splitting_metric=self.division_cost,
            splitting_cutoff=settings.division_cost if settings.divisions else False,
            segment_start_cost=most,
            segment_end_cost=most,
            no_splitting_cost=most,
            no_merging_cost=most,
        ).predict(self._numbered(), connected_edges=list(self.next.items()))
        return sorted((_node(earlier), _node(later)) for earlier, later in graph.edges)

    def _assign(self, frame: int) -> list[Link]:
        """Link the objects of a frame to those of the next, each to at most one, at the least cost in total."""
        rows, columns, costs = self._candidates(frame)
        if not len(rows):
            return []
        n, m = len(self.frames[frame]), len(self.frames[frame + 1])
        # Every object has a partner of its own that stands for "no link"; two of them may link where their objects do.
        first, second = np.arange(n), np.arange(m)
        matrix = coo_array(
            (
                np.concatenate([costs + _TINY, np.full(n + m, self.reach**2), np.full(len(costs), _TINY)]),
                (
                    np.concatenate([rows, first, n + second, n + columns]),
                    np.concatenate([columns, m + first, second, m + rows]),
                ),
            ),
            shape=(n + m, n + m),
        )
        pairs = zip(*min_weight_full_bipartite_matching(matrix.tocsr()), strict=True)
        return [((frame, int(i)), (frame + 1, int(j))) for i, j in pairs if i < n and j < m]

    def _find_merged(self, frame: int) -> None:
        """Note which objects of the next frame hold two of this one: when they part, nothing has divided."""
        for i, j, pixels in self.overlaps[frame].tolist():
            is_lost = (frame, i) not in self.next
            if is_lost and pixels > 0.5 * self.frames[frame].areas[i]:
                self.merged.add((frame + 1, j))
        for before in [node for node in self.merged if node[0] == frame]:
            if before in self.next and self.frames[frame].areas[before[1]] < 1.25 * self._area(self.next[before]):
                self.merged.add(self.next[before])  # not parted yet

    def _area(self, node: Node) -> float:
        return float(self.frames[node[0]].areas[node[1]])

    def _candidates(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices of the objects of a frame and the next that may be linked, and what it costs."""
        before, now = self.coordinates[frame], self.coordinates[frame + 1]
        if not len(before) or not len(now):
            return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        near = cKDTree(before).sparse_distance_matrix(cKDTree(now), self.reach, output_type="ndarray")
        rows, columns, distances = near["i"], near["j"], near["v"]
        i, j, pixels = self.overlaps[frame].T
        shared = coo_array((pixels, (i, j)), shape=(len(before), len(now))).tocsr()[rows, columns]
        smaller = np.minimum(self.frames[frame].areas[rows], self.frames[frame + 1].areas[columns])
        costs = distances**2 + self.settings.overlap_weight * (1 - np.asarray(shared).ravel() / smaller)
        cheap = costs < self.reach**2
        return rows[cheap], columns[cheap], costs[cheap]

    def gap_cost(self, last: np.ndarray, first: np.ndarray) -> float:
        """What it costs that the last object of a track is the first one of a later track."""
        (frame, i), (later, j) = _node(last), _node(first)
        offset = self.coordinates[later][j] - self.coordinates[frame][i]
        # A random walk gets as far as the square root of the time.
        return float(offset @ offset) / (later - frame)

    def division_cost(self, first: np.ndarray, mother: np.ndarray) -> float:
        """What it costs that the first object of a track comes from a division of an object in the frame before."""
        born, before = _node(first), _node(mother)
        # This is asked for every object in the frame before, so those far away are told apart first, without numpy.
        if dist(self.places[born[0]][born[1]], self.places[before[0]][before[1]]) > self.settings.division_reach:
            return np.inf
        sister = self.next.get(before)
        if sister is None or before in self.merged or not (self._lives(born) and self._lives(sister)):
            return np.inf
        settings, now, then = self.settings, self.frames[born[0]], self.frames[before[0]]
        pair = [born[1], sister[1]]
        areas, area = now.areas[pair], then.areas[before[1]]
        growth, symmetry = np.log(areas.sum() / area), np.log(areas[0] / areas[1])
        cost = settings.division_offset + settings.growth_weight * growth**2 + settings.symmetry_weight * symmetry**2
        cost += settings.border_offset * now.at_border[born[1]]
        if cost >= settings.division_cost:
            return np.inf
        offset = self._united(born[0], pair) - self.coordinates[before[0]][before[1]]
        return float(cost + offset @ offset)

    def _united(self, frame: int, pair: list[int]) -> np.ndarray:
        """The coordinates of two objects taken for one."""
        objects = self.frames[frame]
        share = objects.areas[pair] / objects.areas[pair].sum()
        centres = objects.centres[pair] / self.unit
        centre = share @ centres
        offsets = centres - centre
        moments = objects.moments[pair] / self.unit**2 + offsets[:, :, None] * offsets[:, None, :]
        return self._coordinates(frame, centre[None], np.einsum("i,ijk->jk", share, moments)[None])[0]

    def _coordinates(self, frame: int, centres: np.ndarray, moments: np.ndarray) -> np.ndarray:
        return shape_coordinates(centres - self.drift[frame], moments)

    def _lives(self, node: Node) -> bool:
        for _ in range(self.settings.least_life - 1):
            if node[0] == len(self.frames) - 1:
                return True
            if node not in self.next:
                return False
            node = self.next[node]
        return True

    def _reach(self) -> float:
        """The largest distance of two objects that may be one."""
        distances = [
            np.linalg.norm(now[pairs[:, 1]] - before[pairs[:, 0]], axis=1)
            for before, now in pairwise(self.coordinates)
            if len(pairs := mutual_neighbours(before, now))
        ]
        least, most = self.settings.least_reach, self.settings.most_reach
        moved = np.concatenate(distances) if distances else np.zeros(0)
        if len(moved) < ENOUGH_PAIRS:
            return most
        return float(np.clip(self.settings.reach * np.quantile(moved, 0.9), least, most))

    def _numbered(self) -> list[np.ndarray]:
        """Frame and index of every object, which the costs look up."""
        return [
            np.stack([np.full(len(objects), frame), np.arange(len(objects))], axis=1).astype(float)
            for frame, objects in enumerate(self.frames)
        ]


_TINY = 1e-6  # zeros are not stored in sparse matrices


def _node(values: Any) -> Node:
    return int(values[0]), int(values[1])
