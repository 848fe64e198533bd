"""From links between objects to tracks, lineages and tracked labels."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

from micro_sam.io.track_tables import families_of
from micro_sam.labels import object_windows
from micro_sam.multi_dimensional_segmentation.tracking_objects import FrameObjects
from micro_sam.progress import Progress

logger = logging.getLogger(__name__)

Node = tuple[int, int]
Lineages = list[dict[int, list[int]]]


@dataclass(frozen=True)
class Track:
    """One object from its first frame to its division or last frame.

    Attributes:
        nodes: Frame and index in the frame, in the order of time; a frame is absent where the object was not found.
        children: Positions of the daughters in the list of tracks.
    """

    nodes: tuple[Node, ...]
    children: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """The first frame."""
        return self.nodes[0][0]

    @property
    def last(self) -> int:
        """The last frame."""
        return self.nodes[-1][0]


def tracks_from_links(
    frames: Sequence[FrameObjects], links: Sequence[tuple[Node, Node]], min_time_extent: int | None = None
) -> list[Track]:
    """Put linked objects together to tracks, which end where an object divides.

    Args:
        frames: The objects of every frame.
        links: Links from an object to what it is later.
        min_time_extent: How many frames a track must span, from its first to its last ancestor or descendant. A
            daughter that vanishes sooner than that was no daughter: its sister goes on as the mother.

    Returns:
        The tracks, ordered by their first frame.
    """
    following: dict[Node, list[Node]] = {}
    preceding: dict[Node, Node] = {}
    for earlier, later in sorted(links):
        following.setdefault(earlier, []).append(later)
        preceding[later] = earlier
    kept = {(frame, index) for frame, objects in enumerate(frames) for index in range(len(objects))}
    if min_time_extent is not None and min_time_extent > 1:
        _remove_short(kept, following, preceding, min_time_extent, last_frame=len(frames) - 1)
    starts = [node for node in sorted(kept) if len(following.get(preceding.get(node), ())) != 1]
    position = {node: number for number, node in enumerate(starts)}
    tracks = []
    for start in starts:
        nodes = [start]
        while len(following.get(nodes[-1], ())) == 1:
            nodes += following[nodes[-1]]
        tracks.append(Track(tuple(nodes), tuple(position[node] for node in following.get(nodes[-1], ()))))
    return tracks


def _remove_short(
    kept: set[Node], following: dict[Node, list[Node]], preceding: dict[Node, Node], least: int, last_frame: int
) -> None:
    """Remove branches that end too early, then families that are too short; all three collections are changed."""
    for end in sorted(node for node in kept if not following.get(node) and node[0] < last_frame):
        branch = [end]
        while branch[-1] in preceding and len(following[preceding[branch[-1]]]) == 1:
            branch.append(preceding[branch[-1]])
        mother = preceding.get(branch[-1])
        if mother is not None and end[0] - branch[-1][0] + 1 < least:
            following[mother].remove(branch[-1])
            kept.difference_update(branch)
    for root in sorted(node for node in kept if node not in preceding):
        family = [root]
        for node in family:
            family += following.get(node, ())
        if max(frame for frame, _ in family) - root[0] + 1 < least:
            kept.difference_update(family)


def lineages_of(tracks: Sequence[Track]) -> Lineages:
    """One dict per family, from its oldest track on: label -> labels of the daughters; a track's label is its place + 1."""
    return families_of(
        {number: [child + 1 for child in track.children] for number, track in enumerate(tracks, start=1)}
    )


def iter_paint(
    segmentation: Any, frames: Sequence[FrameObjects], tracks: Sequence[Track], fill_gaps: bool = True
) -> Generator[Progress, None, np.ndarray]:
    """Give every object the label of its track, its place in the list + 1.

    Args:
        segmentation: The label stack, TYX or TZYX.
        frames: Its objects.
        tracks: The tracks.
        fill_gaps: Draw an object that was missed in some frames there, in a shape between those before and after,
            unless more than half of it would lie under others.

    Returns:
        Labels of the shape of the segmentation, uint32.
    """
    labels = np.zeros(tuple(segmentation.shape), np.uint32)
    new_ids = [np.zeros(len(objects), np.uint32) for objects in frames]
    for number, track in enumerate(tracks, start=1):
        for frame, index in track.nodes:
            new_ids[frame][index] = number
    for frame, objects in enumerate(frames):
        yield Progress(frame, len(frames), "Write tracks")
        plane = np.asarray(segmentation[frame])
        inside = plane > 0
        labels[frame][inside] = new_ids[frame][np.searchsorted(objects.ids, plane[inside])]
    if fill_gaps:
        for number, track in enumerate(tracks, start=1):
            _fill_gaps(labels, number, track)
    yield Progress(len(frames), len(frames), "Write tracks")
    return labels


def _fill_gaps(labels: np.ndarray, number: int, track: Track) -> None:
    seen = [frame for frame, _ in track.nodes]
    for before, after in pairwise(seen):
        for frame in range(before + 1, after):
            share = (frame - before) / (after - before)
            window, mask = _shape_between(labels[before] == number, labels[after] == number, share)
            free = mask & (labels[frame][window] == 0)
            if 2 * free.sum() > mask.sum():  # else it is hidden, or was segmented as a part of what is there
                labels[frame][window][free] = number
            else:
                logger.info("Track %d is hidden in frame %d.", number, frame)


def _shape_between(first: np.ndarray, second: np.ndarray, share: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """A shape between two masks and between their places.

    Args:
        first: The mask before.
        second: The mask after.
        share: How far from the first to the second, between 0 and 1.

    Returns:
        The window of the array that holds the shape, and the shape in it.
    """
    (first_window,), (second_window,) = (object_windows(mask).values() for mask in (first, second))
    size = [max(a.stop - a.start, b.stop - b.start) + 4 for a, b in zip(first_window, second_window, strict=True)]
    distances, corners = [], []
    for mask, window in ((first, first_window), (second, second_window)):
        cut = mask[window]
        before = [(s - c) // 2 for s, c in zip(size, cut.shape, strict=True)]
        cut = np.pad(cut, [(b, s - c - b) for b, s, c in zip(before, size, cut.shape, strict=True)])
        distances.append(ndimage.distance_transform_edt(cut) - ndimage.distance_transform_edt(~cut))
        corners.append(np.array([w.start - b for w, b in zip(window, before, strict=True)]))
    shape = (1 - share) * distances[0] + share * distances[1] > 0
    corner = np.round((1 - share) * corners[0] + share * corners[1]).astype(int)
    low = np.maximum(corner, 0)
    high = np.minimum(corner + size, first.shape)
    inner = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), shape[inner]
