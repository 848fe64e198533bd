"""Non-maximum suppression: of masks that overlap, the best one stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.instances import Instance, boxes_of, from_record

_ROWS = 512


def box_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes to keep, best score first.

    Args:
        boxes: (n, 4) as x0, y0, x1, y1; areas are (x1 - x0) * (y1 - y0), as in torchvision.
        scores: (n,).
        threshold: A box is dropped if its IoU with a better one that is kept is above this.
    """
    import torch
    from torchvision.ops import nms

    if len(boxes) == 0:
        return np.zeros(0, dtype=np.int64)
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32))
    return nms(boxes, torch.as_tensor(np.asarray(scores, dtype=np.float32)), threshold).numpy()


def mask_nms(
    instances: Sequence[Instance], threshold: float, over_min: bool = False, scores: np.ndarray | None = None
) -> np.ndarray:
    """Indices of the masks to keep, best score first; like `box_nms`, with the overlap counted in pixels.

    Args:
        instances: The masks.
        threshold: A mask is dropped if its overlap with a better one that is kept is above this.
        over_min: Divide the intersection by the smaller mask's area instead of by the union.
        scores: (n,); by default the predicted IoUs.
    """
    scores = np.array([i.score for i in instances]) if scores is None else np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    boxes = boxes_of(instances)[order]
    areas = np.array([instances[i].area for i in order], dtype=np.int64)
    dropped = np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _ROWS):
        stop = min(start + _ROWS, len(order))
        bounds = _overlap_bounds(boxes[start:stop], boxes, areas[start:stop], areas, over_min)
        for i in range(start, stop):
            if dropped[i]:
                continue
            for j in np.flatnonzero((bounds[i - start] > threshold) & ~dropped):
                if j > i and overlap(instances[order[i]], instances[order[j]], over_min) > threshold:
                    dropped[j] = True
    return order[~dropped]


def overlap(a: Instance, b: Instance, over_min: bool = False) -> float:
    """IoU of two masks, or their intersection over the smaller area."""
    both = intersection(a, b)
    return both / (min(a.area, b.area) if over_min else a.area + b.area - both)


def intersection(a: Instance, b: Instance) -> int:
    """Number of pixels in both masks."""
    windows = []
    begins = [max(p, q) for p, q in zip(a.origin, b.origin)]
    ends = [min(p + s, q + t) for p, s, q, t in zip(a.origin, a.mask.shape, b.origin, b.mask.shape)]
    if any(begin >= end for begin, end in zip(begins, ends)):
        return 0
    for instance in (a, b):
        window = tuple(slice(begin - o, end - o) for begin, end, o in zip(begins, ends, instance.origin))
        windows.append(instance.mask[window])
    return int(np.count_nonzero(windows[0] & windows[1]))


def _overlap_bounds(
    boxes: np.ndarray, others: np.ndarray, areas: np.ndarray, other_areas: np.ndarray, over_min: bool
) -> np.ndarray:
    """Upper bounds of the overlaps, from the boxes' intersections and the areas alone: (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) + 1
    both = np.clip(high - low, 0, None).prod(axis=2)
    smaller = np.minimum(areas[:, None], other_areas[None])
    both = np.minimum(both, smaller)
    return both / (smaller if over_min else areas[:, None] + other_areas[None] - both)


def apply_nms(
    predictions: Sequence[Mapping[str, Any]],
    min_size: int,
    shape: tuple[int, int] | None = None,
    perform_box_nms: bool = False,
    nms_thresh: float = 0.9,
    max_size: int | None = None,
    intersection_over_min: bool = False,
) -> np.ndarray:
    """Merge overlapping mask predictions to a label image.

    Args:
        predictions: Mask records with the entries "segmentation" and "predicted_iou" (as `batched_inference` returns).
        min_size: Objects smaller than this, in pixels, are left out.
        shape: Height and width of the result; needed only when there are no predictions.
        perform_box_nms: Compare boxes instead of masks, which is faster.
        nms_thresh: Of two masks that overlap more than this, the one with the higher predicted IoU is kept.
        max_size: Objects larger than this are left out.
        intersection_over_min: Measure overlap by the smaller mask's area, which also removes parts of other objects.

    Returns:
        Label image (YX), uint32, 0 is background; where kept masks overlap, the better one lies on top.

    Raises:
        ParameterError: There are no predictions and no shape, or nms_thresh is not in [0, 1].
    """
    from micro_sam.instance_segmentation.masks import paint, record_shape

    if shape is None:
        if len(predictions) == 0:
            raise ParameterError("Pass shape: without predictions the size of the image is unknown.")
        shape = record_shape(predictions[0])
    instances = [i for i in map(from_record, predictions) if i is not None]
    kept = filter_and_suppress(
        instances, min_size, nms_thresh, max_size=max_size, over_min=intersection_over_min, boxes_only=perform_box_nms
    )
    return paint(kept, shape, min_size=min_size)


def filter_and_suppress(
    instances: Sequence[Instance],
    min_size: int,
    threshold: float,
    max_size: int | None = None,
    over_min: bool = False,
    boxes_only: bool = False,
) -> list[Instance]:
    """The instances of allowed size that are not suppressed, best first; arguments as in `apply_nms`."""
    if not 0 <= threshold <= 1:
        raise ParameterError(f"The overlap threshold of the suppression is between 0 and 1, got {threshold}.")
    largest = np.inf if max_size is None else max_size
    instances = [i for i in instances if min_size <= i.area <= largest]
    if not boxes_only:
        keep = mask_nms(instances, threshold, over_min)
    elif over_min:
        solid = [Instance(np.ones_like(i.mask), i.origin, i.score, area=i.mask.size) for i in instances]
        keep = mask_nms(solid, threshold, over_min)
    else:
        keep = box_nms(boxes_of(instances) + [0, 0, 1, 1], np.array([i.score for i in instances]), threshold)
    return [instances[i] for i in keep]
