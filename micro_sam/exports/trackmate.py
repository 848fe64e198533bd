"""Objects and tracks from TrackMate's own file (.xml), if its spots have contours (version 7 or later).

Contours are relative to their spots, in the physical unit, and TrackMate counts from the centre of the first pixel. Spots
that the filters of TrackMate hide, and tracks that they hide, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from micro_sam.errors import InputError
from micro_sam.exports.fitting import check_size
from micro_sam.exports.shapes import Painter
from micro_sam.io.resolution import Resolution, unit_name
from micro_sam.io.track_tables import families_of, frames_of_tracks, mothers_of
from micro_sam.io.tracks_geff import tracks_of_graph
from micro_sam.progress import Progress


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read spots and tracks.

    Returns:
        The `ImportedLabels`.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"'{path}' cannot be read as XML ({error}); was it written completely?") from error
    image, spots = root.find(".//ImageData"), _spots(root)
    if root.tag != "TrackMate" or image is None:
        raise InputError(f"'{path}' is no file of TrackMate; in TrackMate press Save and choose that file.")
    if not any(spot.text and spot.text.strip() for spot in spots.values()):
        raise InputError(
            f"The spots in '{path}' are points without contours; in TrackMate use a detector that finds outlines, such as the "
            "label image detector."
        )
    pixel = np.array([float(image.get("pixelwidth", 1)), float(image.get("pixelheight", 1))])
    painter = Painter(_shape(image, shape, scale, path), scale)
    tracks, lineages = _tracks(root, spots)
    for done, (spot, track) in enumerate(tracks.items()):
        if done % 100 == 0:
            yield Progress(done, len(tracks), "Read spots")
        _add(painter, spots[spot], track, pixel)
    unit = unit_name(root.find("Model").get("spatialunits")) if root.find("Model") is not None else None
    size = {"y": pixel[1] / scale, "x": pixel[0] / scale}
    return replace(
        _with_lineages(painter, lineages), resolution=Resolution(size, unit) if unit else None, is_timeseries=True
    )


def _spots(root: Any) -> dict[int, Any]:
    spots = root.iterfind(".//AllSpots/SpotsInFrame/Spot")
    return {int(spot.get("ID")): spot for spot in spots if spot.get("VISIBILITY", "1") != "0"}


def _shape(image: Any, shape: Sequence[int] | None, scale: float, path: Path) -> tuple[int, int, int]:
    height, width, frames = (int(image.get(name, 0)) for name in ("height", "width", "nframes"))
    if int(image.get("nslices", 1)) > 1:
        raise InputError(f"'{path}' belongs to a time series of volumes; only those of images can be imported.")
    scaled = (frames, round(height * scale), round(width * scale))
    if shape is None:
        return scaled
    if len(shape) != 3 or shape[0] != frames:
        raise InputError(
            f"'{path}' has {frames} frames, but the image has the shape {tuple(shape)}; choose another file."
        )
    check_size(scaled[1:], shape[1:], scale, path)
    return tuple(shape)


def _tracks(root: Any, spots: dict[int, Any]) -> tuple[dict[int, int], list[dict[int, list[int]]]]:
    """Spot -> track, and the lineages; spots without links are tracks of their own."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from((key, {"t": int(float(spot.get("FRAME"))), "spot": key}) for key, spot in spots.items())
    filtered = root.find(".//FilteredTracks")
    shown = None if filtered is None else {found.get("TRACK_ID") for found in filtered}
    for track in root.iterfind(".//AllTracks/Track"):
        ends = [{int(edge.get("SPOT_SOURCE_ID")), int(edge.get("SPOT_TARGET_ID"))} for edge in track.iterfind("Edge")]
        if shown is not None and track.get("TRACK_ID") not in shown:
            graph.remove_nodes_from(set().union(*ends))
            continue
        for pair in ends:
            if len(pair) == 2 and pair <= set(graph):
                graph.add_edge(*sorted(pair, key=lambda key: graph.nodes[key]["t"]))
    points, lineages = tracks_of_graph(graph, "t", ["spot"], "track")
    return {int(spot): int(track) for track, _, spot in points}, lineages


def _add(painter: Painter, spot: Any, track: int, pixel: np.ndarray) -> None:
    if not spot.text or not spot.text.strip():
        painter.note("Spots without a contour are left out.")
        return
    contour = np.array(spot.text.split(), float).reshape(-1, 2)
    centre = np.array([float(spot.get("POSITION_X")), float(spot.get("POSITION_Y"))])
    painter.add_polygons(int(float(spot.get("FRAME"))), [[(contour + centre) / pixel + 0.5]], track)


def _with_lineages(painter: Painter, lineages: Sequence[dict[int, list[int]]]) -> Any:
    """The painted labels with the lineages of the tracks that are left."""
    painted = painter.paint()
    there = frames_of_tracks(painted.labels)
    children: dict[int, list[int]] = {track: [] for track in there}
    for daughter, mother in mothers_of(lineages).items():
        if daughter in there and mother in there:
            children[mother].append(daughter)
    return replace(painted, lineages=families_of(children))
