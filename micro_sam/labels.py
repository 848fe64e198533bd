"""Small operations on label images and masks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import bioimage_cpp as bic
import numpy as np
from scipy import ndimage

from micro_sam.errors import ParameterError, PromptError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def compute_iou(mask1: np.ndarray, mask2: np.ndarray) -> float:
    """Intersection over union of two masks of the same shape; 0 when both are empty."""
    mask1, mask2 = np.asarray(mask1, dtype=bool), np.asarray(mask2, dtype=bool)
    if mask1.shape != mask2.shape:
        raise PromptError(f"Both masks must have the same shape, got {mask1.shape} and {mask2.shape}.")
    union = np.count_nonzero(mask1 | mask2)
    return np.count_nonzero(mask1 & mask2) / union if union else 0.0


def get_centers_and_bounding_boxes(
    segmentation: np.ndarray, mode: str = "v"
) -> tuple[dict[int, np.ndarray], dict[int, tuple[int, ...]]]:
    """Centres and bounding boxes of all objects.

    Args:
        segmentation: Integer labels, 0 is background; 2d (YX) or 3d (ZYX).
        mode: "v" for a centre that always lies inside the object (its most interior pixel), "p" for the centroid.

    Returns:
        The centre of each object (label -> array in axis order) and its bounding box (label -> all lower, then all
        upper coordinates; upper ones exclusive), as ``skimage.measure.regionprops`` gives them.

    Raises:
        ParameterError: An unknown mode.
    """
    if mode not in ("v", "p"):
        raise ParameterError(f"mode is 'v' (inside the object) or 'p' (centroid), got {mode!r}.")
    segmentation = np.asarray(segmentation)
    centers, boxes = {}, {}
    for label, window in object_windows(segmentation).items():
        mask = segmentation[window] == label
        center = interior_point(mask) if mode == "v" else np.array([axis.mean() for axis in np.nonzero(mask)])
        centers[label] = center + [s.start for s in window]
        boxes[label] = tuple(s.start for s in window) + tuple(s.stop for s in window)
    return centers, boxes


def object_windows(segmentation: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """The tight window of each object, by label in ascending order."""
    segmentation = np.asarray(segmentation)
    if segmentation.size == 0 or not segmentation.any():
        return {}
    if int(segmentation.max()) <= 4 * segmentation.size:
        windows = ndimage.find_objects(segmentation.astype(np.int64, copy=False))
        return {label: window for label, window in enumerate(windows, start=1) if window is not None}
    ids, compact = np.unique(segmentation, return_inverse=True)
    compact = compact.reshape(segmentation.shape) + (0 if ids[0] == 0 else 1)
    ids = ids[ids != 0]
    return {int(label): window for label, window in zip(ids, ndimage.find_objects(compact))}


def interior_point(mask: np.ndarray) -> np.ndarray:
    """The pixel farthest from the mask's boundary (everything outside the array is boundary), in axis order.

    Of several such pixels it is the one nearest to their mean, so that a long object is met in its middle.
    """
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    distances = bic.distance.distance_transform(padded)
    best = np.argwhere(distances >= distances.max() - 1e-3)
    nearest = np.argmin(((best - best.mean(axis=0)) ** 2).sum(axis=1))
    return best[nearest] - 1


def segmentation_to_one_hot(segmentation: np.ndarray, segmentation_ids: np.ndarray | None = None) -> torch.Tensor:
    """One binary channel per object.

    Args:
        segmentation: Integer labels (YX).
        segmentation_ids: The labels to take, in this order; by default all except 0.

    Returns:
        uint8 tensor of shape (n_objects, 1, Y, X).

    Raises:
        PromptError: An id that is not in the segmentation.
    """
    import torch

    segmentation = np.asarray(segmentation)
    present = np.unique(segmentation)
    if segmentation_ids is None:
        segmentation_ids = present[present != 0]
    segmentation_ids = np.asarray(segmentation_ids, dtype=segmentation.dtype)
    missing = np.setdiff1d(segmentation_ids, present)
    if missing.size:
        raise PromptError(f"The segmentation has no object {missing[0]}; it has {present.size} different values.")
    channels = segmentation[None, None] == segmentation_ids[:, None, None, None]
    return torch.from_numpy(channels.astype(np.uint8))
