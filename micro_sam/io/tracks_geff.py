"""Tracks as a graph in the Graph Exchange File Format (GEFF, https://github.com/live-image-tracking-tools/geff).

Every object in every frame is a node with its place, every step from one frame to a later one an edge; where an object
divides there are two.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError, OutputError, TrackError
from micro_sam.io.paths import check_folder_of, replacing
from micro_sam.io.resolution import Resolution
from micro_sam.io.track_tables import Lineages, families_of, mothers_of, table_from_frames

_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class TrackGraph:
    """Tracks that were read from a GEFF file.

    Attributes:
        points: One row per object and frame, sorted by track and frame: label of the track, frame, and its place in the
            order of ``axes``; float (n, 2 + number of axes), as a tracks layer of napari takes it.
        lineages: The lineages, label -> labels of the daughters.
        axes: Names of the axes of the place.
        labels_path: The label stack that belongs to it, if the file names one.
    """

    points: np.ndarray
    lineages: list[dict[int, list[int]]]
    axes: tuple[str, ...] = ("y", "x")
    labels_path: Path | None = None

    @property
    def graph(self) -> dict[int, list[int]]:
        """Label -> labels of the mothers, as a tracks layer of napari takes it."""
        return {daughter: [mother] for daughter, mother in sorted(mothers_of(self.lineages).items())}


def write_geff(
    path: str | os.PathLike,
    labels: Any,
    lineages: Lineages,
    resolution: Resolution | None = None,
    labels_path: str | os.PathLike | None = None,
) -> None:
    """Write tracks as a GEFF file (a zarr folder); one that is there is replaced once the new one is complete.

    Nodes have the properties ``t``, ``z`` (3d), ``y``, ``x`` (centroid in pixels), ``area`` (pixels), ``track_id`` (the label)
    and ``lineage_id`` (the label of the first ancestor).

    Args:
        path: The output, such as ``tracks.geff``.
        labels: Tracked labels, TYX or TZYX; array or lazy array.
        lineages: The lineages, label -> labels of the daughters.
        resolution: The pixel size, kept as the scale of the axes.
        labels_path: The file that the labels are in, kept as a related object.

    Raises:
        TrackError: Labels and lineages do not fit each other.
        OutputError: It cannot be written, or there is something else.
    """
    import geff
    from geff_spec import GeffMetadata, RelatedObject

    path = Path(path)
    check_geff_path(path)
    graph, is_maximal = _make_graph(labels, lineages)
    names = ["t", *_AXES[-(len(labels.shape) - 1) :]]
    scale, unit = (None, None) if resolution is None else (resolution.scale("".join(names[1:])), resolution.unit)
    related = None
    if labels_path is not None:
        inside = os.path.relpath(Path(labels_path).absolute(), path.absolute())
        related = [RelatedObject(type="labels", path=Path(inside).as_posix(), node_prop="track_id")]
    metadata = GeffMetadata(
        directed=True,
        node_props_metadata={},
        edge_props_metadata={},
        track_node_props={"lineage": "lineage_id"} | ({"tracklet": "track_id"} if is_maximal else {}),
        related_objects=related,
    )
    with replacing(path) as temporary:
        geff.write(
            graph,
            temporary,
            metadata=metadata,
            axis_names=names,
            axis_units=["frame", *["pixel"] * (len(names) - 1)],
            axis_types=["time", *["space"] * (len(names) - 1)],
            axis_scales=None if scale is None or unit is None else [None, *scale],
            scaled_units=None if scale is None or unit is None else [None, *[unit] * len(scale)],
        )


def read_geff(path: str | os.PathLike) -> TrackGraph:
    """Read tracks from a GEFF file, of micro_sam or of another program.

    Tracks that the file does not name are numbered from 1.

    Raises:
        MissingInputError: There is no such file.
        InputError: It is damaged, has no axis of time, or its edges do not run forwards in time.
    """
    import geff

    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There is no file '{path}'; check the path.")
    try:
        graph, metadata = geff.read(path)
    except Exception as error:  # what zarr and pydantic raise for damaged files differs
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"'{path}' cannot be read as a GEFF file ({type(error).__name__}: {reason}).") from error
    time, space = _axes(metadata, path)
    tracklets = (metadata.track_node_props or {}).get("tracklet", "track_id")
    try:
        points, lineages = tracks_of_graph(graph, time, space, tracklets)
    except TrackError as error:
        raise InputError(f"The tracks in '{path}' cannot be used: {error}") from error
    return TrackGraph(points, lineages, tuple(space), _labels_path(metadata, path))


def check_geff_path(path: str | os.PathLike) -> None:
    """Raise an `OutputError` if a GEFF file cannot be written to a path; nothing is written yet."""
    path = Path(path)
    check_folder_of(path)
    if path.exists() and not _is_geff(path):
        raise OutputError(f"'{path}' exists and is no GEFF file, so it is not replaced; choose another output path.")


def _is_geff(path: Path) -> bool:
    from geff_spec import GeffMetadata

    try:
        GeffMetadata.read(path)
    except (OSError, ValueError, KeyError, TypeError):  # no zarr, no GEFF, or damaged
        return False
    return True


def _make_graph(labels: Any, lineages: Lineages) -> tuple[Any, bool]:
    """The graph, and whether no two of its tracks follow each other without a division."""
    import networkx as nx

    graph = nx.DiGraph()
    nodes_of: dict[int, list[int]] = {}
    for frame in range(labels.shape[0]):
        ids, areas, centres = _measure(np.asarray(labels[frame]))
        for label, area, centre in zip(ids.tolist(), areas.tolist(), centres.tolist(), strict=True):
            node = graph.number_of_nodes()
            place = dict(zip(_AXES[-len(centre) :], centre, strict=True))
            graph.add_node(node, t=frame, **place, area=area, track_id=label)
            nodes_of.setdefault(label, []).append(node)
    frames = {label: [graph.nodes[node]["t"] for node in nodes] for label, nodes in sorted(nodes_of.items())}
    table = table_from_frames(frames, lineages, labels.shape[0])
    mothers = dict(table[:, [0, 3]].tolist())
    for label, nodes in nodes_of.items():
        graph.add_edges_from(pairwise(nodes))
        if mothers[label]:
            graph.add_edge(nodes_of[mothers[label]][-1], nodes[0])
        ancestor = label
        while mothers[ancestor]:
            ancestor = mothers[ancestor]
        for node in nodes:
            graph.nodes[node]["lineage_id"] = ancestor
    n_daughters = Counter(mother for mother in mothers.values() if mother)
    return graph, 1 not in n_daughters.values()


def _measure(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, areas and centroids of the objects of a frame."""
    places = np.nonzero(plane)
    ids, index = np.unique(plane[places], return_inverse=True)
    areas = np.bincount(index, minlength=len(ids))
    centres = [np.bincount(index, axis, minlength=len(ids)) / np.maximum(areas, 1) for axis in places]
    return ids, areas, np.stack(centres, axis=1)


def _axes(metadata: Any, path: Path) -> tuple[str, list[str]]:
    axes = metadata.axes or []
    time = [axis.name for axis in axes if axis.type == "time"] or [axis.name for axis in axes if axis.name == "t"]
    space = [axis.name for axis in axes if axis.name not in time and axis.type in ("space", None)]
    if len(time) != 1 or len(space) not in (2, 3):
        names = ", ".join(axis.name for axis in axes) or "none"
        raise InputError(f"'{path}' must have one axis of time and two or three of space, its axes are: {names}.")
    return time[0], space


def tracks_of_graph(
    graph: Any, time: str, space: Sequence[str], tracklets: str
) -> tuple[np.ndarray, list[dict[int, list[int]]]]:
    """Points and lineages of a graph; nodes follow each other in a track until the graph branches or merges."""
    if not graph.is_directed():
        raise TrackError("Edges must run forwards in time, but the graph is not directed.")
    when = dict(graph.nodes(data=time))
    for earlier, later in graph.edges:
        if when[earlier] >= when[later]:
            raise TrackError(f"Edges must run forwards in time, but one goes from {when[earlier]} to {when[later]}.")
    names = dict(graph.nodes(data=tracklets))
    track_of: dict[Any, int] = {}
    lasts: dict[int, Any] = {}
    unused = max((int(name) for name in names.values() if name is not None), default=0)
    for node in sorted(graph, key=lambda node: (when[node], node)):
        before = list(graph.predecessors(node))
        alone = len(before) == 1 and graph.out_degree(before[0]) == 1
        if alone and names[node] == names[before[0]]:
            label = track_of[before[0]]
        elif names[node] is not None and int(names[node]) not in lasts and int(names[node]) > 0:
            label = int(names[node])
        else:
            unused += 1
            label = unused
        track_of[node] = label
        lasts[label] = node
    rows = [[label, when[node], *(graph.nodes[node][axis] for axis in space)] for node, label in track_of.items()]
    points = np.array(rows, dtype=float).reshape(-1, 2 + len(space))
    children: dict[int, list[int]] = {label: [] for label in sorted(lasts)}
    for earlier, later in graph.edges:
        if track_of[earlier] != track_of[later]:
            children[track_of[earlier]].append(track_of[later])
    mothers_of([children])  # refuses merges, which lineages cannot tell
    return points[np.lexsort((points[:, 1], points[:, 0]))], families_of(children)


def _labels_path(metadata: Any, path: Path) -> Path | None:
    for related in metadata.related_objects or ():
        if related.type == "labels":
            return Path(os.path.normpath(path.absolute() / related.path))
    return None
