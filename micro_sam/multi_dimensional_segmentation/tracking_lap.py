"""Link objects from frame to frame by linear assignment with gap closing and division, with laptrack.

The method is that of Jaqaman et al., Nature Methods 2008, as `laptrack` implements it. All lengths are measured in typical
object radii, and how far objects may move is learned from the series, so that there is no parameter in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from micro_sam.multi_dimensional_segmentation.tracking_objects import FrameObjects, shape_coordinates

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
        division_cost: The largest cost of a division: squared distance of the pair of daughters to the mother, and the
            squared logarithms of the two ratios of area below, weighted.
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
    division_cost: float = 2.5
    growth_weight: float = 4.0
    symmetry_weight: float = 1.0
    division_offset: float = 0.3
    border_offset: float = 1.0
    least_life: int = 2


def link_objects(frames: Sequence[FrameObjects], settings: LinkSettings | None = None) -> list[Link]:
    """Link the objects of a time series.

    Args:
        frames: The objects of every frame.
        settings: How to link; the defaults suit cells and nuclei.

    Returns:
        Links between an object and what it is later: one to the next time it is seen, two if it divides.
    """
    problem = _Problem(frames, settings or LinkSettings())
    return problem.solve() if sum(len(frame) > 0 for frame in frames) > 1 else []


class _Problem:
    """The objects of a series in a frame of reference that moves with them, and the costs of linking them."""

    def __init__(self, frames: Sequence[FrameObjects], settings: LinkSettings) -> None:
        self.frames, self.settings = frames, settings
        self.unit = float(np.median(np.concatenate([frame.radii for frame in frames])))
        self.coordinates = [shape_coordinates(f.centres / self.unit, f.moments / self.unit**2) for f in frames]
        self._remove_drift()
        self.cutoff = self._cutoff()
        self.next: dict[Node, Node] = {}

    def solve(self) -> list[Link]:
        from laptrack import LapTrack

        links = LapTrack(
            metric="sqeuclidean",
            cutoff=self.cutoff,
            track_start_cost=self.cutoff,
            track_end_cost=self.cutoff,
            gap_closing_cutoff=False,
            splitting_cutoff=False,
        ).predict(self.coordinates)
        self.next = {tuple(earlier): tuple(later) for earlier, later in links.edges}
        settings = self.settings
        if settings.gap_closing < 1 and not settings.divisions:
            return sorted(self.next.items())
        most = max(self.cutoff, settings.division_cost)
        graph = LapTrack(
            metric="sqeuclidean",
            cutoff=0,  # frames are linked already, by the edges below
            gap_closing_metric=self.gap_cost,
            gap_closing_cutoff=self.cutoff if settings.gap_closing > 0 else False,
            gap_closing_max_frame_count=settings.gap_closing + 1,
            splitting_metric=self.division_cost,
            splitting_cutoff=settings.division_cost if settings.divisions else False,
            segment_start_cost=most,
            segment_end_cost=most,
            no_splitting_cost=most,
            no_merging_cost=most,
        ).predict(self._numbered(), connected_edges=list(self.next.items()))
        return sorted((_node(earlier), _node(later)) for earlier, later in graph.edges)

    def gap_cost(self, last: np.ndarray, first: np.ndarray) -> float:
        """What it costs that the last object of a track is the first one of a later track."""
        (frame, i), (later, j) = _node(last), _node(first)
        offset = self.coordinates[later][j] - self.coordinates[frame][i]
        # A random walk gets as far as the square root of the time.
        return float(offset @ offset) / (later - frame)

    def division_cost(self, first: np.ndarray, mother: np.ndarray) -> float:
        """What it costs that the first object of a track comes from a division of an object in the frame before."""
        born, before = _node(first), _node(mother)
        sister = self.next.get(before)
        if sister is None or not (self._lives(born) and self._lives(sister)):
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
        united = shape_coordinates(centre[None], np.einsum("i,ijk->jk", share, moments)[None])[0]
        united[: len(centre)] -= self.drift[frame]
        return united

    def _lives(self, node: Node) -> bool:
        for _ in range(self.settings.least_life - 1):
            if node[0] == len(self.frames) - 1:
                return True
            if node not in self.next:
                return False
            node = self.next[node]
        return True

    def _remove_drift(self) -> None:
        """Subtract the motion that all objects share, as of a stage that drifts."""
        ndim = self.frames[0].centres.shape[1]
        self.drift = np.zeros((len(self.frames), ndim))
        for frame in range(1, len(self.frames)):
            before, now = self.coordinates[frame - 1], self.coordinates[frame]
            now[:, :ndim] -= self.drift[frame - 1]
            pairs = _mutual_neighbours(before, now)
            moved = now[pairs[:, 1], :ndim] - before[pairs[:, 0], :ndim]
            common = np.median(moved, axis=0) if len(pairs) >= _ENOUGH_PAIRS else 0.0
            self.drift[frame] = self.drift[frame - 1] + common
            now[:, :ndim] -= common

    def _cutoff(self) -> float:
        """The largest squared distance of two objects that may be one."""
        distances = [
            np.linalg.norm(now[pairs[:, 1]] - before[pairs[:, 0]], axis=1)
            for before, now in zip(self.coordinates[:-1], self.coordinates[1:], strict=True)
            if len(pairs := _mutual_neighbours(before, now))
        ]
        least, most = self.settings.least_reach, self.settings.most_reach
        moved = np.concatenate(distances) if distances else np.zeros(0)
        reach = self.settings.reach * float(np.quantile(moved, 0.9)) if len(moved) >= _ENOUGH_PAIRS else most
        return float(np.clip(reach, least, most)) ** 2

    def _numbered(self) -> list[np.ndarray]:
        """Frame and index of every object, which the costs look up."""
        return [
            np.stack([np.full(len(objects), frame), np.arange(len(objects))], axis=1).astype(float)
            for frame, objects in enumerate(self.frames)
        ]


_ENOUGH_PAIRS = 5


def _node(values: Any) -> Node:
    return int(values[0]), int(values[1])


def _mutual_neighbours(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Pairs of indices (n, 2) of objects that are each other's nearest."""
    if not len(before) or not len(now):
        return np.zeros((0, 2), dtype=int)
    forth = cKDTree(now).query(before)[1]
    back = cKDTree(before).query(now)[1]
    index = np.flatnonzero(back[forth] == np.arange(len(before)))
    return np.stack([index, forth[index]], axis=1)
