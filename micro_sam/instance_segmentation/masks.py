"""From overlapping masks to a label image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bioimage_cpp as bic
import numpy as np

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.instances import Instance, from_record

LABEL_DTYPE = np.uint32


def record_shape(record: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the image a mask record belongs to."""
    segmentation = record["segmentation"]
    shape = segmentation["size"] if isinstance(segmentation, Mapping) else np.shape(segmentation)
    return int(shape[0]), int(shape[1])


def mask_data_to_segmentation(
    masks: Sequence[Mapping[str, Any]],
    shape: tuple[int, int] | None = None,
    min_object_size: int = 0,
    max_object_size: int | None = None,
    label_masks: bool = True,
    with_background: bool = False,
    merge_exclusively: bool = True,
) -> np.ndarray:
    """Paint mask records into one label image, the largest first.

    Args:
        masks: Records with the entry "segmentation", as the output modes other than "instance_segmentation" give.
        shape: Height and width of the result; needed only without masks.
        min_object_size: Objects smaller than this, in pixels, are left out.
        max_object_size: Objects larger than this are left out.
        label_masks: Give every connected component of the result its own label.
        with_background: The largest mask, if it is larger than all that no mask covers, is background.
        merge_exclusively: A mask only takes pixels that no earlier one has; otherwise later masks lie on top.

    Returns:
        Label image (YX), uint32, labels are consecutive and 0 is background.

    Raises:
        ParameterError: Neither masks nor a shape.
    """
    if shape is None:
        if len(masks) == 0:
            raise ParameterError("Pass shape: without masks the size of the image is unknown.")
        shape = record_shape(masks[0])
    instances = [i for i in map(from_record, masks) if i is not None]
    return instances_to_labels(
        instances, shape, min_object_size, max_object_size, label_masks, with_background, merge_exclusively
    )


def instances_to_labels(
    instances: Sequence[Instance],
    shape: Sequence[int],
    min_object_size: int = 0,
    max_object_size: int | None = None,
    label_masks: bool = True,
    with_background: bool = False,
    merge_exclusively: bool = True,
) -> np.ndarray:
    """`mask_data_to_segmentation` for instances."""
    instances = sorted(instances, key=lambda i: i.area, reverse=True)
    if with_background:
        instances = without_background(instances, shape)
    largest = np.inf if max_object_size is None else max_object_size
    instances = [i for i in instances if min_object_size <= i.area <= largest]
    labels = paint(instances, shape, exclusive=merge_exclusively)
    if label_masks:
        labels = connected_components(labels)
    return remove_small(labels, min_object_size)


def without_background(instances: Sequence[Instance], shape: Sequence[int]) -> list[Instance]:
    """Drop the first (largest) mask if it is larger than the part of the image that no mask covers."""
    if not instances:
        return []
    covered = np.zeros(tuple(shape), dtype=bool)
    for instance in instances:
        covered[instance.window] |= instance.mask
    rest = covered.size - int(np.count_nonzero(covered))
    return list(instances[1:] if instances[0].area > rest else instances)


def paint(instances: Sequence[Instance], shape: Sequence[int], exclusive: bool = True, min_size: int = 0) -> np.ndarray:
    """Label image (uint32) from masks in the given order.

    Args:
        instances: The masks.
        shape: Height and width.
        exclusive: Earlier masks keep their pixels; otherwise later ones lie on top.
        min_size: Objects of which less than this remains visible are removed.
    """
    labels = np.zeros(tuple(shape), dtype=LABEL_DTYPE)
    for number, instance in enumerate(instances, start=1):
        target = labels[instance.window]
        target[instance.mask & (target == 0) if exclusive else instance.mask] = number
    return remove_small(labels, min_size)


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Every connected part of a label (by edges) gets its own label."""
    if labels.size == 0:
        return labels.astype(LABEL_DTYPE)
    return bic.segmentation.label(np.ascontiguousarray(labels, dtype=LABEL_DTYPE), connectivity=1).astype(LABEL_DTYPE)


def remove_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    """Remove objects smaller than ``min_size`` pixels and number the others consecutively; uint32."""
    if labels.size == 0:
        return labels.astype(LABEL_DTYPE)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= max(min_size, 1)
    keep[0] = False
    numbers = np.zeros(len(sizes), dtype=LABEL_DTYPE)
    numbers[keep] = np.arange(1, np.count_nonzero(keep) + 1)
    return numbers[labels]
