"""Objects as COCO annotations (https://cocodataset.org/#format-data): one image, or one image for every plane.

Masks are runs of pixels ("counts" as a list, the form of annotation files), which keep everything, or polygons, which keep no
holes. The label of an object is its "object_id"; its class is its category.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingDependencyError, MissingInputError
from micro_sam.exports.content import LabelledImage
from micro_sam.exports.outlines import outlines
from micro_sam.exports.settings import ExportSettings
from micro_sam.exports.shapes import Painter, PlaneObject, plane_objects
from micro_sam.exports.texts import read_json, write_json
from micro_sam.progress import Progress

_UNCLASSIFIED = "object"


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Iterator[Progress]:
    """Write one document."""
    names = sorted(
        set(content.classes.values()) | ({_UNCLASSIFIED} if set(content.ids) - set(content.classes) else set())
    )
    categories = {name: k for k, name in enumerate(names or [_UNCLASSIFIED], start=1)}
    height, width = content.labels.shape[-2:]
    images, annotations = [], []
    for done, (number, plane) in enumerate(content.planes()):
        yield Progress(done, content.n_planes, "Describe objects")
        images.append(
            {"id": done + 1, "file_name": _plane_name(content, number), "height": height, "width": width}
            | ({} if number is None else {content.axes[0].lower(): number})
        )
        for found in plane_objects(plane, number):
            category = categories[content.classes.get(found.label, _UNCLASSIFIED)]
            identity = {"id": len(annotations) + 1, "image_id": done + 1, "category_id": category}
            annotations.append(identity | _annotation(found, plane.shape, settings))
    document = {
        "info": {"description": f"Objects in {content.name}, written by micro_sam"},
        "images": images,
        "categories": [{"id": k, "name": name, "supercategory": ""} for name, k in categories.items()],
        "annotations": annotations,
    }
    write_json(path, document)


def _plane_name(content: LabelledImage, number: int | None) -> str:
    return content.name if number is None else f"{content.name}_{content.axes[0].lower()}{number:04d}"


def _annotation(found: PlaneObject, shape: Sequence[int], settings: ExportSettings) -> dict[str, Any]:
    (y, x), (height, width) = found.origin_yx, found.mask.shape
    if settings.coco_masks == "rle":
        segmentation: Any = {"size": list(shape), "counts": _runs(found, shape)}
    else:
        exteriors = [polygon[0] for polygon in outlines(found.mask, found.origin_yx)]
        segmentation = [exterior.ravel().tolist() for exterior in exteriors]
    return {
        "segmentation": segmentation,
        "area": int(found.mask.sum()),
        "bbox": [x, y, width, height],
        "iscrowd": 0,
        "object_id": found.label,
    }


def _runs(found: PlaneObject, shape: Sequence[int]) -> list[int]:
    """Lengths of runs of background and object in turns, column by column, beginning with background."""
    column, row = np.nonzero(found.mask.T)
    pixels = (column + found.origin_yx[1]) * shape[0] + row + found.origin_yx[0]
    breaks = np.flatnonzero(np.diff(pixels) > 1)
    starts, stops = pixels[np.append(0, breaks + 1)], pixels[np.append(breaks, -1)] + 1
    edges = np.column_stack([starts, stops]).ravel()
    return np.diff(np.concatenate([[0], edges, [shape[0] * shape[1]]])).tolist()


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read a document; of several images one is named by ``key`` (file name or id), else they are the planes of a stack.

    Returns:
        The `ImportedLabels`.
    """
    document = read_json(path)
    if not isinstance(document, Mapping) or not all(
        isinstance(document.get(k), list) for k in ("images", "annotations")
    ):
        raise InputError(f"'{path}' is no COCO document with images and annotations; choose another file.")
    images = _chosen_images(document["images"], key, path)
    painter = Painter(_shape(images, shape, scale, path), scale)
    plane_of = {image["id"]: k for k, image in enumerate(images)}
    names = {category["id"]: str(category.get("name", "")) for category in document.get("categories") or ()}
    mine = [found for found in document["annotations"] if found.get("image_id") in plane_of]
    for done, found in enumerate(mine):
        yield Progress(done, len(mine), "Read objects")
        name = names.get(found.get("category_id"))
        _add(painter, found, plane_of[found["image_id"]], None if name in (None, "", _UNCLASSIFIED) else name, path)
    return painter.paint()


def _chosen_images(images: Sequence[Mapping[str, Any]], key: str | None, path: Path) -> list[Mapping[str, Any]]:
    if key is not None:
        found = [image for image in images if key in (str(image["id"]), image.get("file_name"))]
        if not found:
            raise MissingInputError(f"'{path}' has no image '{key}'; there are: {_names(images)}.")
        return found[:1]
    return sorted(images, key=lambda image: (image.get("z", image.get("t", 0)), image["id"]))


def _names(images: Sequence[Mapping[str, Any]]) -> str:
    names = [str(image.get("file_name", image["id"])) for image in images]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _shape(
    images: Sequence[Mapping[str, Any]], shape: Sequence[int] | None, scale: float, path: Path
) -> tuple[int, ...]:
    """The shape of the labels; the images must fit them."""
    sizes = {(int(image["height"]), int(image["width"])) for image in images}
    if len(sizes) != 1:
        raise InputError(
            f"'{path}' holds {len(images)} images of different sizes; name one with a key: {_names(images)}."
        )
    height, width = (round(size * scale) for size in sizes.pop())
    if shape is None:
        return (height, width) if len(images) == 1 else (len(images), height, width)
    n_planes = 1 if len(shape) == 2 else shape[0]
    if len(images) != n_planes:
        raise InputError(
            f"'{path}' holds {len(images)} images, but the image has {n_planes} planes; name one with a key: {_names(images)}."
        )
    from micro_sam.exports.fitting import check_size

    check_size((height, width), shape[-2:], scale, path)
    return tuple(shape)


def _add(painter: Painter, found: Mapping[str, Any], plane: int, class_name: str | None, path: Path) -> None:
    segmentation, number = found.get("segmentation"), found.get("object_id")
    if not segmentation:
        painter.note("Annotations without a mask, such as boxes alone, are left out.")
    elif isinstance(segmentation, Mapping):
        mask, origin = _mask(segmentation, path)
        painter.add_mask(plane, mask, origin, number, class_name)
    else:
        polygons = [[np.asarray(points, float).reshape(-1, 2)] for points in segmentation]
        painter.add_polygons(plane, polygons, number, class_name)


def _mask(segmentation: Mapping[str, Any], path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask from its runs, in its window."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        mask = _decompressed(segmentation)
    else:
        flat = np.zeros(height * width, bool)
        for start, stop in list(pairwise(np.cumsum([0, *counts]).tolist()))[1::2]:
            flat[start:stop] = True
        mask = flat.reshape(width, height).T
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return mask[:0, :0], (0, 0)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def _decompressed(segmentation: Mapping[str, Any]) -> np.ndarray:
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise MissingDependencyError(
            "Compressed COCO masks need the package pycocotools, which is not installed; run pip install 'micro_sam[export]'."
        ) from error
    return coco_mask.decode(dict(segmentation)).astype(bool)
