"""From masks to polygons and back, without losing a pixel.

Polygons run along the edges of pixels. Coordinates count from the upper left corner of the first pixel, whose centre is
(0.5, 0.5), as in ImageJ and QuPath. A pixel belongs to a polygon if its centre lies inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

#: One closed line, (n, 2), x and y; the last point is not the first again.
Ring = np.ndarray
#: Exterior, then holes.
Polygon = list[Ring]

#: How often the boundary turns at a vertex, by which of the four pixels around it are set (1, 2 above, 4, 8 below).
_TURNS = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0])
_FALLING, _RISING = 9, 6  # two pixels that touch with their corners: \ and /


def outlines(mask: np.ndarray, origin_yx: Sequence[int] = (0, 0)) -> list[Polygon]:
    """The polygons of a mask: one for each part whose pixels share edges, with its holes.

    All rings are simple, and polygons valid in the sense of OGC: rings touch in points at most.

    Args:
        mask: Boolean, YX.
        origin_yx: Where the mask's first pixel is in the image.

    Returns:
        The polygons, int64; exteriors have a positive, holes a negative signed area.
    """
    parts, _ = ndimage.label(mask)
    found = []
    for number, window in enumerate(ndimage.find_objects(parts), start=1):
        offset = np.array([origin_yx[1] + window[1].start, origin_yx[0] + window[0].start])
        rings = list(_simple_rings(parts[window] == number))
        areas = [signed_area(ring) for ring in rings]
        outer = int(np.argmax(np.abs(areas)))
        rings = [ring if (area > 0) == (k == outer) else ring[::-1] for k, (ring, area) in enumerate(zip(rings, areas))]
        found.append([ring + offset for ring in (rings[outer], *rings[:outer], *rings[outer + 1 :])])
    return found


def signed_area(ring: Ring) -> float:
    """The area inside a ring, negative if it runs the other way round."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def fill(rings: Sequence[Ring], shape: Sequence[int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels inside rings; what lies inside two of them is a hole.

    Args:
        rings: The rings of a polygon, which may reach beyond the image.
        shape: Height and width of the image.

    Returns:
        The mask of a window of the image, and where its first pixel is (y, x).
    """
    starts = np.concatenate(rings).astype(float)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]).astype(float)
    low = np.clip(np.floor(starts.min(axis=0)), 0, shape[::-1]).astype(int)
    high = np.clip(np.ceil(starts.max(axis=0)), low, shape[::-1]).astype(int)
    width, height = (high - low).tolist()
    rows, columns = _crossings(starts - low, ends - low, height)
    columns = np.clip(np.ceil(columns - 0.5), 0, width).astype(int)
    counts = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.cumsum(counts, axis=1)[:, :width] % 2 == 1, (int(low[1]), int(low[0]))


def _crossings(starts: np.ndarray, ends: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Where edges cross the lines through the centres of rows: the rows and the x coordinates."""
    y_low, y_high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (y_low, y_high))
    counts = last - first
    edges = np.repeat(np.arange(len(starts)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    (x, y), (dx, dy) = starts[edges].T, (ends - starts)[edges].T
    return rows, x + (rows + 0.5 - y) * dx / dy


def _simple_rings(mask: np.ndarray) -> Iterator[Ring]:
    """The boundaries of a part; one that touches itself is cut there."""
    vertices, across, along = _corners(mask)
    seen = np.zeros(len(vertices), bool)
    for start in range(len(vertices)):
        if seen[start]:
            continue
        ring, corner = [], start
        while not seen[corner]:
            partner = across[corner]
            seen[corner] = seen[partner] = True
            ring += [vertices[corner], vertices[partner]]
            corner = along[partner]
        yield from _cut_where_it_touches(ring)


def _corners(mask: np.ndarray) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """The corners of the boundary (x, y), and which of them each is joined to by a horizontal and a vertical line."""
    padded = np.pad(mask, 1).astype(np.uint8)
    code = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    y, x = np.nonzero(_TURNS[code])
    which = np.repeat(np.arange(len(y)), _TURNS[code[y, x]])
    second = np.diff(which, prepend=-1) == 0
    y, x = y[which], x[which]
    code = code[y, x]
    to_the_right = ((code & 2) > 0) != ((code & 8) > 0)
    downwards = ((code & 4) > 0) != ((code & 8) > 0)
    touching = (code == _FALLING) | (code == _RISING)  # each of the two pixels keeps its own corner
    downwards[touching] = second[touching]
    to_the_right[touching] = (second == (code == _FALLING))[touching]
    across = _paired(np.lexsort((to_the_right, x, y)))
    along = _paired(np.lexsort((downwards, y, x)))
    return list(zip(x.tolist(), y.tolist())), across.tolist(), along.tolist()


def _paired(order: np.ndarray) -> np.ndarray:
    """Along a line every second stretch is boundary: each corner's partner."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _cut_where_it_touches(ring: Sequence[tuple[int, int]]) -> Iterator[Ring]:
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for vertex in ring:
        if vertex not in place:
            place[vertex] = len(path)
            path.append(vertex)
            continue
        start = place[vertex]
        yield np.array(path[start:])
        for passed in path[start + 1 :]:
            del place[passed]
        del path[start + 1 :]
    yield np.array(path)
