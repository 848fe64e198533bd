"""Which slices propagation visits: from every annotated slice outwards, and towards each other where two enclose slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from micro_sam.instance_segmentation.instances import Instance

UP, DOWN = 1, -1


@dataclass(frozen=True)
class Reach:
    """Which slices objects may enter.

    Attributes:
        first: The lowest slice.
        last: The highest slice.
        below: Whether they may go on below their lowest annotated slice.
        above: Whether they may go on above their highest annotated slice.
        stops: For an object the slices it must not enter.
    """

    first: int
    last: int
    below: bool = True
    above: bool = True
    stops: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass
class Front:
    """One end of an object, on its way through the slices.

    Attributes:
        label: The object.
        step: `UP` or `DOWN`.
        z: The slice of ``shape``.
        end: The last slice it may enter.
        shape: The mask there.
        gap: The annotated slices (lower, upper) it goes between, None for outwards.
        motion: Its smoothed displacement (y, x) per slice, None before it has moved.
    """

    label: int
    step: int
    z: int
    end: int
    shape: Instance
    gap: tuple[int, int] | None = None
    motion: np.ndarray | None = None

    @property
    def target(self) -> int | None:
        """The slice it enters next, None if it has arrived."""
        return None if self.z == self.end else self.z + self.step


def plan_fronts(label: int, annotated: Mapping[int, Instance], reach: Reach) -> list[Front]:
    """The fronts of one object. Two that enclose slices meet: both enter the one or two slices in the middle."""
    stops = reach.stops.get(label, ())
    slices = sorted(annotated)
    fronts = []
    for lower, upper in pairwise(slices):
        ends = {UP: -(-(lower + upper) // 2), DOWN: (lower + upper) // 2}
        blocked = [z for z in stops if lower < z < upper]
        if blocked:
            ends = {UP: min(blocked) - 1, DOWN: max(blocked) + 1}
        gap = None if blocked else (lower, upper)
        if upper > lower + 1:
            fronts.append(Front(label, UP, lower, ends[UP], annotated[lower], gap))
            fronts.append(Front(label, DOWN, upper, ends[DOWN], annotated[upper], gap))
    if reach.above:
        end = min([reach.last, *(z - 1 for z in stops if z > slices[-1])])
        fronts.append(Front(label, UP, slices[-1], max(end, slices[-1]), annotated[slices[-1]]))
    if reach.below:
        end = max([reach.first, *(z + 1 for z in stops if z < slices[0])])
        fronts.append(Front(label, DOWN, slices[0], min(end, slices[0]), annotated[slices[0]]))
    return [front for front in fronts if front.target is not None]


def visits(fronts: Iterable[Front], step: int) -> list[int]:
    """The slices that fronts of one direction may enter, in that order."""
    entered: set[int] = set()
    for front in fronts:
        if front.step == step:
            entered.update(range(front.z + step, front.end + step, step))
    return sorted(entered, reverse=step == DOWN)
