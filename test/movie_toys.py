"""A short movie in which a cell divides, for tests of the tracking annotator."""

from __future__ import annotations

from functools import cache

import numpy as np

from micro_sam.labels import interior_point
from micro_sam.sample_data import synthetic_timeseries

#: The cell that divides: there in frames 0 and 1; its daughters in frames 2 and 3.
MOTHER, DAUGHTERS = 6, (16, 17)
#: A cell that is there in all frames and touches no other.
ALONE = 3


@cache
def movie() -> tuple[np.ndarray, np.ndarray, list[dict[int, list[int]]]]:
    """Images (TYX), tracked labels and lineages of four frames."""
    series = synthetic_timeseries((6, 192, 192), seed=5, diameter=30)
    labels = series.labels[1:5]
    there = set(np.unique(labels).tolist()) - {0}
    mothers = {d: m for family in series.lineages for m, some in family.items() for d in some}
    links = {d: m for d, m in mothers.items() if d in there and m in there}
    families = [{t: [d for d in links if links[d] == t] for t in [root, *links]} for root in [MOTHER]]
    assert links == dict.fromkeys(DAUGHTERS, MOTHER)
    return series.images[1:5], labels, families + [{t: []} for t in sorted(there - {MOTHER, *DAUGHTERS})]


def centre(track: int, frame: int) -> tuple[float, float]:
    """A pixel in the middle of a cell (y, x)."""
    y, x = interior_point(movie()[1][frame] == track)
    return float(y), float(x)
