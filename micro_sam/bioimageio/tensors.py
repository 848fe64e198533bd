"""The tensors of the two kinds of packages, described for BioImage.IO (bioimageio.spec 0.5), and test data for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bioimageio.spec.model import v0_5
from skimage.measure import regionprops

from micro_sam.errors import ImageError
from micro_sam.labels import interior_point
from micro_sam.mask_decoding import LOW_RES
from micro_sam.models.build_sam import EMBED_DIM, IMAGE_SIZE
from micro_sam.prompts import mask_to_logits

SMALLEST_IMAGE = 64
_TEST_OBJECTS = 3
_GRID = 64
MAP_CHANNELS = ("foreground", "center_distance", "boundary_distance")


def _any_number(least: int = 1) -> v0_5.ParameterizedSize:
    return v0_5.ParameterizedSize(min=least, step=1)


def _objects() -> v0_5.IndexInputAxis:
    return v0_5.IndexInputAxis(id=v0_5.AxisId("object"), size=_any_number())


def _found_objects() -> v0_5.IndexOutputAxis:
    return v0_5.IndexOutputAxis(id=v0_5.AxisId("object"), size=v0_5.DataDependentSize())


def _batch() -> v0_5.BatchAxis:
    return v0_5.BatchAxis(size=1)


def _channels(*names: str) -> v0_5.ChannelAxis:
    return v0_5.ChannelAxis(channel_names=[v0_5.Identifier(name) for name in names])


def _plane(height: Any, width: Any, output: bool = False) -> list[Any]:
    axis = v0_5.SpaceOutputAxis if output else v0_5.SpaceInputAxis
    return [axis(id=v0_5.AxisId("y"), size=height), axis(id=v0_5.AxisId("x"), size=width)]


def _plane_of_image() -> list[Any]:
    sizes = (v0_5.SizeReference(tensor_id=v0_5.TensorId("image"), axis_id=v0_5.AxisId(axis)) for axis in "yx")
    return _plane(*sizes, output=True)


def _embedding_axes(output: bool) -> list[Any]:
    names = [f"feature{i}" for i in range(EMBED_DIM)]
    return [_batch(), _channels(*names), *_plane(_GRID, _GRID, output)]


def _image() -> dict[str, Any]:
    plane = _plane(_any_number(SMALLEST_IMAGE), _any_number(SMALLEST_IMAGE))
    return {
        "axes": [_batch(), _channels("red", "green", "blue"), *plane],
        "data": v0_5.IntervalOrRatioDataDescr(type="float32"),
        "description": "Any intensities; scaled to their minimum and maximum. Repeat the channel of a grey image.",
    }


def _number(dtype: str) -> v0_5.IntervalOrRatioDataDescr:
    return v0_5.IntervalOrRatioDataDescr(type=dtype)


def prompt_inputs() -> dict[str, dict[str, Any]]:
    """The inputs of a package for prompts: name -> arguments of ``InputTensorDescr``."""
    points = v0_5.IndexInputAxis(id=v0_5.AxisId("point"), size=_any_number())
    inputs = {
        "image": _image(),
        "box_prompts": {
            "axes": [_batch(), _objects(), _channels("min_x", "min_y", "max_x", "max_y")],
            "data": _number("float32"),
            "description": "A box for each object, in pixels.",
        },
        "point_prompts": {
            "axes": [_batch(), _objects(), points, _channels("x", "y")],
            "data": _number("float32"),
            "description": "Points for each object, in pixels.",
        },
        "point_labels": {
            "axes": [_batch(), _objects(), points],
            "data": _number("int64"),
            "description": "1 for a point in the object, 0 for one outside, -1 for none.",
        },
        "mask_prompts": {
            "axes": [_batch(), _objects(), _channels("logits"), *_plane(LOW_RES, LOW_RES)],
            "data": _number("float32"),
            "description": "A mask for each object as logits at low resolution.",
        },
        "embeddings": {
            "axes": _embedding_axes(output=False),
            "data": _number("float32"),
            "description": "What the model returned as embeddings of the same image before.",
        },
    }
    return {name: {**entry, "optional": name != "image"} for name, entry in inputs.items()}


def prompt_outputs() -> dict[str, dict[str, Any]]:
    """The outputs of a package for prompts: name -> arguments of ``OutputTensorDescr``."""
    binary = v0_5.NominalOrOrdinalDataDescr(values=[0, 1], type="uint8")
    return {
        "masks": {
            "axes": [_batch(), _found_objects(), _channels("mask"), *_plane_of_image()],
            "data": binary,
            "description": "The mask of each object.",
        },
        "scores": {
            "axes": [_batch(), _found_objects(), _channels("iou")],
            "data": _number("float32"),
            "description": "How good the model believes each mask is (IoU).",
        },
        "embeddings_out": {
            "axes": _embedding_axes(output=True),
            "data": _number("float32"),
            "description": "The image embeddings, to pass in for further prompts.",
        },
    }


def automatic_inputs() -> dict[str, dict[str, Any]]:
    """The input of a package for automatic segmentation."""
    return {"image": _image()}


def automatic_outputs() -> dict[str, dict[str, Any]]:
    """The outputs of a package for automatic segmentation."""
    return {
        "labels": {
            "axes": [_batch(), _channels("labels"), *_plane_of_image()],
            "data": _number("int32"),
            "description": "A number for each object, 0 is background.",
        },
        "maps": {
            "axes": [_batch(), _channels(*MAP_CHANNELS), *_plane_of_image()],
            "data": _number("float32"),
            "description": "Foreground probability; distance to the object's centre and boundary, 0 inside, 1 outside.",
        },
    }


def image_tensor(image: np.ndarray) -> np.ndarray:
    """An image (YX or YXC) as (1, 3, H, W) in its own type; one channel is repeated.

    Raises:
        ImageError: It is not such an image, or too small.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ImageError(f"The test image has axes YX, or YXC with 3 channels, got the shape {image.shape}.")
    if min(image.shape[:2]) < SMALLEST_IMAGE:
        raise ImageError(f"The test image is at least {SMALLEST_IMAGE} pixels high and wide, got {image.shape[:2]}.")
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def prompts_from_labels(labels: np.ndarray, shape: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """Prompts for some of the objects in a label image: boxes, a point in each, and their masks.

    Raises:
        ImageError: The labels have another shape than the image, or no object.
    """
    labels = np.asarray(labels)
    if labels.shape != shape or labels.dtype.kind not in "iub":
        raise ImageError(
            f"The label image has integers of the image's shape {shape}, got {labels.dtype} {labels.shape}."
        )
    regions = sorted(regionprops(labels.astype(np.int64)), key=lambda region: -region.area)[:_TEST_OBJECTS]
    if not regions:
        raise ImageError("The label image has no object: give one with at least one, from which test prompts are made.")
    masks = [labels == region.label for region in regions]
    height, width = (max(1, round(s * IMAGE_SIZE / max(shape))) for s in shape)
    boxes = [[region.bbox[i] for i in (1, 0, 3, 2)] for region in regions]
    points = [[interior_point(mask)[::-1]] for mask in masks]
    return {
        "box_prompts": np.array(boxes, dtype=np.float32)[None],
        "point_prompts": np.array(points, dtype=np.float32)[None],
        "point_labels": np.ones((1, len(points), 1), dtype=np.int64),
        "mask_prompts": np.stack([mask_to_logits(mask, (height, width)) for mask in masks])[None].astype(np.float32),
    }
