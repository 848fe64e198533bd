"""Objects as GeoJSON (RFC 7946), as QuPath writes and reads it: File > Export objects as GeoJSON, File > Import objects.

Every object in a plane is a feature, with its label as name, its class as classification, and its plane. Coordinates are
pixels from the upper left corner of the image.
"""

from __future__ import annotations

import colorsys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError
from micro_sam.exports.content import LabelledImage
from micro_sam.exports.outlines import Polygon, outlines
from micro_sam.exports.settings import ExportSettings
from micro_sam.exports.shapes import Painter, PlaneObject, closed, plane_objects
from micro_sam.exports.texts import read_json, write_json
from micro_sam.progress import Progress

_GOLDEN = 0.618033988749895  # steps of this size around the circle of hues never come near each other


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Iterator[Progress]:
    """Write a feature collection."""
    colors = {name: _color(k) for k, name in enumerate(sorted(set(content.classes.values())))}
    features = []
    for done, (number, plane) in enumerate(content.planes()):
        yield Progress(done, content.n_planes, "Outline objects")
        features += [_feature(found, content, settings, colors) for found in plane_objects(plane, number)]
    write_json(path, {"type": "FeatureCollection", "features": features})


def _feature(
    found: PlaneObject, content: LabelledImage, settings: ExportSettings, colors: Mapping[str, Any]
) -> dict[str, Any]:
    polygons = [[closed(ring) for ring in polygon] for polygon in outlines(found.mask, found.origin_yx)]
    one = len(polygons) == 1
    geometry: dict[str, Any] = {
        "type": "Polygon" if one else "MultiPolygon",
        "coordinates": polygons[0] if one else polygons,
    }
    if found.plane is not None:
        z, t = (0, found.plane) if content.is_timeseries else (found.plane, 0)
        geometry["plane"] = {"c": -1, "z": z, "t": t}
    properties: dict[str, Any] = {"objectType": settings.qupath_object, "name": str(found.label)}
    class_name = content.classes.get(found.label)
    if class_name is not None:
        properties["classification"] = {"name": class_name, "color": colors[class_name]}
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{content.name}/{found.plane}/{found.label}")
    return {"type": "Feature", "id": str(identity), "geometry": geometry, "properties": properties}


def _color(k: int) -> list[int]:
    return [round(255 * part) for part in colorsys.hsv_to_rgb(k * _GOLDEN % 1, 0.75, 0.9)]


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read polygons, of QuPath or of another program; other geometries are left out.

    Returns:
        The `ImportedLabels`.
    """
    features = _features(read_json(path), path)
    if shape is None:
        raise InputError(f"'{path}' does not say how large its image is; give the image, too.")
    painter = Painter(shape, scale)
    for done, feature in enumerate(features):
        yield Progress(done, len(features), "Read objects")
        _add(painter, feature, path)
    return painter.paint()


def _features(document: Any, path: Path) -> list[Mapping[str, Any]]:
    if isinstance(document, Mapping) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, Mapping):
        document = [document]
    if isinstance(document, list) and all(isinstance(found, Mapping) for found in document):
        features = [found if found.get("type") == "Feature" else {"geometry": found} for found in document]
        if all("geometry" in found for found in features):
            return features
    raise InputError(f"'{path}' holds no GeoJSON features; export the objects as GeoJSON once more.")


def _add(painter: Painter, feature: Mapping[str, Any], path: Path) -> None:
    geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        painter.note(f"Objects of the type {kind} have no area and are left out.")
        return
    try:
        polygons = [_polygon(rings) for rings in ([coordinates] if kind == "Polygon" else coordinates)]
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"'{path}' holds a {kind} whose coordinates are not numbers x, y; export it again.") from error
    plane = _plane(geometry.get("plane") or {}, painter, path)
    name = str(properties.get("name") or "")
    number = int(name) if name.isdecimal() and int(name) > 0 else None
    painter.add_polygons(plane, polygons, number, _class_name(properties))


def _polygon(rings: Any) -> Polygon:
    return [np.array([[float(point[0]), float(point[1])] for point in ring]).reshape(-1, 2) for ring in rings]


def _plane(plane: Mapping[str, Any], painter: Painter, path: Path) -> int:
    z, t = int(plane.get("z") or 0), int(plane.get("t") or 0)
    if z and t:
        raise InputError(f"'{path}' has objects in several slices and frames; export one of the two axes only.")
    if not 0 <= z + t < painter.n_planes:
        painter.note(f"Objects in plane {z + t} are left out, because the image has {painter.n_planes} (from 0).")
    return z + t


def _class_name(properties: Mapping[str, Any]) -> str | None:
    found = properties.get("classification")
    if isinstance(found, Mapping):
        found = found.get("name") or ": ".join(map(str, found.get("names") or ()))
    return str(found) if found else None
