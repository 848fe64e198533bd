"""Segment many objects at once from prompts for each.

Coordinates follow Segment Anything: points ``(x, y)``, boxes ``[min_x, min_y, max_x, max_y]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from micro_sam import embedding_access
from micro_sam.errors import ParameterError, PromptError
from micro_sam.instance_segmentation.apg_tiled import assign_to_tiles, shifted
from micro_sam.instance_segmentation.instances import Instance
from micro_sam.instance_segmentation.masks import LABEL_DTYPE
from micro_sam.instance_segmentation.nms import filter_and_suppress
from micro_sam.instance_segmentation.prompted import DecodeOptions, decode_instances
from micro_sam.mask_decoding import LOW_RES, Prompts
from micro_sam.prompts import check_box, check_point_labels, check_points

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

Records = list[list[dict[str, Any]]]


@torch.no_grad()
def batched_inference(
    predictor: SamPredictor,
    image: np.ndarray | None,
    batch_size: int,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    point_labels: np.ndarray | None = None,
    multimasking: bool = False,
    embedding_path: str | os.PathLike | None = None,
    return_instance_segmentation: bool = True,
    segmentation_ids: list | None = None,
    reduce_multimasking: bool = True,
    logits_masks: torch.Tensor | None = None,
    verbose_embeddings: bool = True,
    mask_threshold: float | str | None = None,
    return_highres_logits: bool = False,
    i: int | None = None,
) -> Records | np.ndarray:
    """Segment many objects from prompts for each, decoded in batches.

    Args:
        predictor: The model.
        image: The image (YX or YXC), or with ``i`` a volume or time series. None if it is set in the predictor.
        batch_size: How many objects to decode at once.
        boxes: (n, 4) as [min_x, min_y, max_x, max_y].
        points: (n, n_points, 2) in (x, y).
        point_labels: (n, n_points), 1 for positive and 0 for negative points.
        multimasking: Predict three masks for each object.
        embedding_path: Where embeddings are kept or will be kept (zarr); or the embeddings themselves.
        return_instance_segmentation: Return a label image instead of mask records.
        segmentation_ids: Labels of the objects; by default 1 to n.
        reduce_multimasking: Keep only the best of three masks; a label image always does.
        logits_masks: Mask prompts as low resolution logits (n, 1, 256, 256).
        verbose_embeddings: Show a progress bar while embeddings are computed.
        mask_threshold: Where to cut the logits: a number, "auto" for each mask's sharpest cut, or None.
        return_highres_logits: Put logits of the image's size instead of 256 x 256 into the records.
        i: The slice, for a volume or time series.

    Returns:
        Label image (YX), uint32; where masks overlap, the one with the best predicted IoU lies on top. Or for each object
        a list of records with the entries of Segment Anything's mask generator and "logits".

    Raises:
        PromptError: There are no prompts, or one is malformed or outside the image; it says which.
        ParameterError: segmentation_ids do not fit, or there is no image.
    """
    _set_image(predictor, image, embedding_path, verbose_embeddings, i)
    shape = tuple(predictor.original_size)
    prompts = check_prompts(shape, boxes, points, point_labels, logits_masks)
    reduce = reduce_multimasking or return_instance_segmentation
    kept_logits = None if return_instance_segmentation else ("high" if return_highres_logits else "low")
    options = DecodeOptions(batch_size, multimasking, reduce, mask_threshold, kept_logits)
    ids = _segmentation_ids(segmentation_ids, len(prompts))
    found = list(decode_instances(predictor, prompts, options))
    if return_instance_segmentation:
        return _label_image([masks[0] for masks in found], ids, shape)
    return [[_record(instance, shape) for instance in masks] for masks in found]


@torch.no_grad()
def batched_tiled_inference(
    predictor: SamPredictor,
    image: np.ndarray | None,
    batch_size: int,
    image_embeddings: ImageEmbeddings | None = None,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    point_labels: np.ndarray | None = None,
    multimasking: bool = False,
    embedding_path: str | os.PathLike | None = None,
    return_instance_segmentation: bool = True,
    reduce_multimasking: bool = True,
    logits_masks: torch.Tensor | None = None,
    verbose_embeddings: bool = True,
    mask_threshold: float | str | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    optimize_memory: bool = False,
    i: int | None = None,
    **nms_kwargs: Any,
) -> Records | np.ndarray:
    """`batched_inference` for tiled images: each object is decoded in the tile in which its prompts lie.

    Args:
        predictor: The model.
        image: The image (YX or YXC), or with ``i`` a volume or time series. None if embeddings are given.
        batch_size: How many objects to decode at once.
        image_embeddings: Tiled embeddings; computed or read from ``embedding_path`` if not given.
        boxes: (n, 4) as [min_x, min_y, max_x, max_y].
        points: (n, n_points, 2) in (x, y).
        point_labels: (n, n_points), 1 for positive and 0 for negative points.
        multimasking: Predict three masks for each object.
        embedding_path: Where embeddings are kept or will be kept (zarr).
        return_instance_segmentation: Return a label image instead of mask records.
        reduce_multimasking: Keep only the best of three masks; a label image always does.
        logits_masks: Mask prompts as low resolution logits (n, 1, 256, 256) of the tiles.
        verbose_embeddings: Show a progress bar while embeddings are computed.
        mask_threshold: Where to cut the logits: a number, "auto" for each mask's sharpest cut, or None.
        tile_shape: Height and width of a tile, for computing embeddings.
        halo: How much a tile is enlarged on each side.
        optimize_memory: Remove duplicates after every tile and not only at the end; for label images.
        i: The slice, for a volume or time series.
        **nms_kwargs: "min_size", "max_size", "nms_thresh", "perform_box_nms" and "intersection_over_min" of `apply_nms`,
            for label images: without any, every object is kept.

    Returns:
        Label image (YX), uint32, in which object k of the prompts has the label k + 1; or the records for each object.
        Objects whose tile has no embeddings are missing, their list of records is empty.

    Raises:
        PromptError: There are no prompts, or one is malformed or outside the image; it says which.
        ParameterError: Neither embeddings nor an image with tile_shape and halo.
    """
    suppression = _suppression(nms_kwargs)
    image_embeddings = _tiled_embeddings(
        predictor, image, image_embeddings, embedding_path, tile_shape, halo, verbose_embeddings, i
    )
    tiling = embedding_access.tiling_of(image_embeddings)
    prompts = check_prompts(tiling.shape, boxes, points, point_labels, logits_masks)
    reduce = reduce_multimasking or return_instance_segmentation
    kept_logits = None if return_instance_segmentation else "low"
    found: list[list[Instance | None]] = [[] for _ in range(len(prompts))]
    computed = set(embedding_access.tile_ids(image_embeddings, i))
    for tile_id, which in assign_to_tiles(prompts, tiling, computed).items():
        tile = tiling.tile(tile_id)
        embedding_access.activate(predictor, image_embeddings, i, tile_id)
        options = DecodeOptions(batch_size, multimasking, reduce, mask_threshold, kept_logits, tile.offset)
        for k, masks in zip(which, decode_instances(predictor, shifted(prompts[which], tile), options)):
            found[k] = masks
        if optimize_memory and return_instance_segmentation:
            _suppress(found, which, suppression)
    if not return_instance_segmentation:
        return [[_record(instance, tiling.shape) for instance in masks] for masks in found]
    _suppress(found, np.arange(len(found)), suppression)
    ids = _segmentation_ids(None, len(found))
    return _label_image([masks[0] if masks else None for masks in found], ids, tiling.shape)


def check_prompts(
    shape: Sequence[int], boxes: Any, points: Any, point_labels: Any, logits_masks: Any = None
) -> Prompts:
    """Check prompts for n objects.

    Args:
        shape: Height and width of the image.
        boxes: (n, 4) or None.
        points: (n, n_points, 2) in (x, y), or None.
        point_labels: (n, n_points), needed with points.
        logits_masks: (n, 1, 256, 256) or None.

    Raises:
        PromptError: Which prompt is wrong, and why.
    """
    given = {"boxes": boxes, "points": points, "logits_masks": logits_masks}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise PromptError("There is no prompt: give boxes, points or logits_masks.")
    lengths = {name: len(value) for name, value in given.items()}
    if min(lengths.values()) == 0:
        raise PromptError(f"There is no prompt: {next(iter(lengths))} is empty.")
    if len(set(lengths.values())) > 1:
        raise PromptError(f"All kinds of prompts must be for the same objects, got {lengths}.")
    if boxes is not None:
        boxes = np.stack([check_box(box, shape, "xyxy", index) for index, box in enumerate(_listed(boxes))])
    if points is not None:
        points, point_labels = _check_all_points(points, point_labels, shape)
    elif point_labels is not None:
        raise PromptError("point_labels were given without points.")
    if logits_masks is not None and tuple(logits_masks.shape[1:]) != (1, LOW_RES, LOW_RES):
        raise PromptError(
            f"logits_masks must have the shape (n, 1, {LOW_RES}, {LOW_RES}), got {tuple(logits_masks.shape)}."
        )
    return Prompts(points, point_labels, boxes, logits_masks)


def _listed(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _check_all_points(points: Any, labels: Any, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    points, labels = _listed(points), _listed(labels)
    if labels is None or len(labels) != len(points):
        raise PromptError(f"point_labels must be given for each of the {len(points)} objects that have points.")
    checked = []
    for index, (object_points, object_labels) in enumerate(zip(points, labels)):
        try:
            coordinates = check_points(object_points, shape, "xy")
            checked.append((coordinates, check_point_labels(object_labels, len(coordinates))))
        except PromptError as error:
            raise PromptError(f"Object {index}: {error}") from None
    if len({len(coordinates) for coordinates, _ in checked}) > 1:
        raise PromptError("All objects must have the same number of points.")
    return tuple(np.stack(part) for part in zip(*checked))


def _segmentation_ids(ids: Sequence[int] | None, n: int) -> list[int]:
    if ids is None:
        return list(range(1, n + 1))
    ids = [int(label) for label in ids]
    if len(ids) != n or min(ids) < 1:
        raise ParameterError(f"segmentation_ids must be {n} positive labels, one for each prompt, got {len(ids)}.")
    return ids


def _label_image(instances: Sequence[Instance | None], ids: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    labels = np.zeros(tuple(shape), dtype=LABEL_DTYPE)
    there = [(instance, label) for instance, label in zip(instances, ids) if instance is not None]
    for instance, label in sorted(there, key=lambda pair: pair[0].score):
        labels[instance.window][instance.mask] = label
    return labels


def _record(instance: Instance | None, shape: Sequence[int]) -> dict[str, Any]:
    if instance is not None:
        return instance.record(shape)
    empty = Instance(np.zeros((0, 0), dtype=bool), (0, 0), score=0.0, stability=0.0)
    return empty.record(shape) | {"bbox": [0, 0, 0, 0]}


def _suppression(kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments for `filter_and_suppress` from those of `apply_nms`."""
    if not kwargs:
        return None
    names = {
        "min_size": "min_size",
        "max_size": "max_size",
        "nms_thresh": "threshold",
        "perform_box_nms": "boxes_only",
        "intersection_over_min": "over_min",
    }
    unknown = sorted(set(kwargs) - set(names))
    if unknown:
        raise ParameterError(f"Unknown argument {unknown[0]!r}; for merging there are {', '.join(names)}.")
    return {"min_size": 0, "threshold": 0.9} | {names[name]: value for name, value in kwargs.items()}


def _suppress(found: list[list[Instance | None]], which: np.ndarray, suppression: dict[str, Any] | None) -> None:
    """Empty the lists of the objects that are suppressed by better ones."""
    if suppression is None:
        return
    there = [int(k) for k in which if found[k] and found[k][0] is not None]
    kept = {id(instance) for instance in filter_and_suppress([found[k][0] for k in there], **suppression)}
    for k in there:
        if id(found[k][0]) not in kept:
            found[k] = []


def _set_image(
    predictor: SamPredictor, image: np.ndarray | None, embeddings: Any, verbose: bool, i: int | None
) -> None:
    if image is None and embeddings is None:
        if not predictor.is_image_set:
            raise ParameterError("There is no image: pass one, its embeddings, or set it in the predictor.")
        return
    if not isinstance(embeddings, Mapping):
        embeddings = _compute(predictor, image, embeddings, verbose, i)
    embedding_access.check_image(image, embeddings)
    embedding_access.activate(predictor, embeddings, i)


def _compute(
    predictor: SamPredictor, image: Any, path: Any, verbose: bool, i: int | None, **tiling: Any
) -> ImageEmbeddings:
    from micro_sam.embeddings import EmbeddingStore, precompute_image_embeddings

    if image is None:
        return EmbeddingStore.open(path, lazy_loading=True)
    ndim = 2 if i is None else 3
    return precompute_image_embeddings(
        predictor, image, path, lazy_loading=path is not None, ndim=ndim, verbose=verbose, **tiling
    )


def _tiled_embeddings(
    predictor: SamPredictor,
    image: Any,
    image_embeddings: ImageEmbeddings | None,
    path: Any,
    tile_shape: tuple[int, int] | None,
    halo: tuple[int, int] | None,
    verbose: bool,
    i: int | None,
) -> ImageEmbeddings:
    if image_embeddings is not None:
        return image_embeddings
    if image is None and path is None:
        raise ParameterError("There is no image: pass one with tile_shape and halo, or tiled image_embeddings.")
    if image is not None and (tile_shape is None or halo is None):
        raise ParameterError("Segmenting in tiles needs tile_shape and halo, or tiled image_embeddings.")
    return _compute(predictor, image, path, verbose, i, tile_shape=tile_shape, halo=halo)
