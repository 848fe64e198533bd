"""Objects as ROIs of ImageJ and Fiji (.zip, .roi), with roifile.

Every object in a plane is a ROI with its label as name, at its position in the stack. An object with holes or of several
pieces is a composite ROI. The class is the property "class", and classes also have a group number each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import InputError
from micro_sam.exports.content import LabelledImage
from micro_sam.exports.outlines import Polygon, outlines
from micro_sam.exports.settings import ExportSettings
from micro_sam.exports.shapes import Painter, PlaneObject, plane_objects
from micro_sam.io.paths import replacing
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from roifile import ImagejRoi

_MOVE_TO, _LINE_TO, _CLOSE = 0.0, 1.0, 4.0  # of java.awt.geom.PathIterator
_OUR_NAME = re.compile(r"(\d+)(?:_[zt]\d+)?")
_WITHOUT_AREA = ("LINE", "FREELINE", "POLYLINE", "NOROI", "ANGLE", "POINT")
_MOST_GROUPS = 255
_LARGEST = 32767


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Iterator[Progress]:
    """Write a zip file of ROIs."""
    import roifile

    classes = sorted(set(content.classes.values()))
    rois: list[ImagejRoi] = []
    for done, (number, plane) in enumerate(content.planes()):
        yield Progress(done, content.n_planes, "Outline objects")
        rois += [_roi(found, content, classes) for found in plane_objects(plane, number)]
    with replacing(path) as temporary:
        roifile.roiwrite(temporary, rois, mode="w")


def _roi(found: PlaneObject, content: LabelledImage, classes: Sequence[str]) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    polygons = outlines(found.mask, found.origin_yx)
    rings = [ring for polygon in polygons for ring in polygon]
    (top, left), (height, width) = found.origin_yx, found.mask.shape
    is_simple = len(rings) == 1 and max(top + height, left + width) <= _LARGEST
    if is_simple:
        roi = ImagejRoi.frompoints(rings[0].astype(np.int32))
        roi.roitype = ROI_TYPE.TRACED
    else:
        path = [_path(ring) for ring in rings]
        roi = ImagejRoi(roitype=ROI_TYPE.RECT, multi_coordinates=np.concatenate(path).astype(np.float32))
        roi.shape_roi_size = len(roi.multi_coordinates)
    roi.top, roi.left, roi.bottom, roi.right = top, left, top + height, left + width
    _describe(roi, found, content, classes)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    steps = np.column_stack([np.full(len(ring), _LINE_TO), ring])
    steps[0, 0] = _MOVE_TO
    return np.append(steps.ravel(), _CLOSE)


def _describe(roi: ImagejRoi, found: PlaneObject, content: LabelledImage, classes: Sequence[str]) -> None:
    roi.name = str(found.label)
    if found.plane is not None:
        axis = "t" if content.is_timeseries else "z"
        roi.name = f"{found.label}_{axis}{found.plane:04d}"
        has_channels = content.image is not None and len(content.image.shape) > content.labels.ndim
        setattr(roi, f"{axis}_position" if has_channels else "position", found.plane + 1)
    class_name = content.classes.get(found.label)
    if class_name is not None:
        roi.properties = {"class": class_name}
        roi.group = min(classes.index(class_name) + 1, _MOST_GROUPS)


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read ROIs, of ImageJ, StarDist, Cellpose or of another program; lines and points are left out.

    Returns:
        The `ImportedLabels`.
    """
    if shape is None:
        raise InputError(f"'{path}' does not say how large its image is; give the image, too.")
    rois, painter = _rois(path), Painter(shape, scale)
    for done, roi in enumerate(rois):
        yield Progress(done, len(rois), "Read ROIs")
        if roi.roitype.name in _WITHOUT_AREA and not roi.composite:
            painter.note(f"ROIs of the type {roi.roitype.name.lower()} have no area and are left out.")
            continue
        _add(painter, roi, path)
    return painter.paint()


def _rois(path: Path) -> list[ImagejRoi]:
    import roifile

    try:
        found = roifile.roiread(path)
    except Exception as error:  # what it raises for damaged files differs
        raise InputError(
            f"'{path}' holds no ImageJ ROIs ({error}); save them with the ROI Manager: More, Save."
        ) from error
    return found if isinstance(found, list) else [found]


def _add(painter: Painter, roi: ImagejRoi, path: Path) -> None:
    try:
        rings = [np.asarray(ring, float) for ring in roi.coordinates(multi=True)]
    except NotImplementedError as error:
        raise InputError(
            f"The ROI '{roi.name}' in '{path}' has curves; in Fiji turn it into a polygon with Edit, Selection, Interpolate."
        ) from error
    found = _OUR_NAME.fullmatch(roi.name.removesuffix(".roi"))
    number = int(found[1]) if found and int(found[1]) > 0 else None
    polygon: Polygon = rings
    class_name: Any = roi.properties.get("class")
    painter.add_polygons(_plane(roi, painter, path), [polygon], number, None if class_name is None else str(class_name))


def _plane(roi: ImagejRoi, painter: Painter, path: Path) -> int:
    if painter.n_planes == 1:
        return 0
    position = max(roi.t_position, roi.z_position) or roi.position
    if position == 0:
        raise InputError(
            f"The ROI '{roi.name}' in '{path}' has no position in the stack; in Fiji's ROI Manager set it under Properties."
        )
    if position > painter.n_planes:
        painter.note(f"ROIs at position {position} are left out, because the image has {painter.n_planes} planes.")
    return position - 1
