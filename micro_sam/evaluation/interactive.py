"""How well prompts are answered: a simulated user clicks on annotated objects and corrects what comes back."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ..errors import ParameterError


def interactive_ious(
    predictor,
    labels: np.ndarray,
    start: str = "box",
    n_corrections: int = 3,
    batch_size: int = 32,
    min_size: int = 10,
    max_objects: int | None = None,
) -> np.ndarray:
    """IoU of every annotated object after the first prompt and after each correction.

    The first prompt is the bounding box or the object's most interior pixel. A correction is the most interior pixel
    of the largest region in which the answer is wrong; the mask logits of the last answer go in as well (Sofiiuk et
    al., "Reviving iterative training with mask guidance", 2022). One mask is predicted each time.

    Args:
        predictor: A SamPredictor in which the image (or its embedding) is set.
        labels: Annotated instances (height, width), 0 is background.
        start: "box" or "point".
        n_corrections: Number of corrections.
        batch_size: Objects decoded at once.
        min_size: Objects with fewer pixels are left out.
        max_objects: With more objects than this, every k-th of them is taken.

    Returns:
        (n_objects, 1 + n_corrections) float.

    Raises:
        ParameterError: If ``start`` is neither, or the labels do not have the image's shape.
    """
    if start not in ("box", "point"):
        raise ParameterError(f"The first prompt is 'box' or 'point', got {start!r}.")
    if tuple(labels.shape) != tuple(predictor.original_size):
        raise ParameterError(f"Labels of shape {labels.shape} do not fit an image of {predictor.original_size}.")
    ids, counts = np.unique(labels, return_counts=True)
    ids = ids[(ids > 0) & (counts >= min_size)]
    if max_objects is not None:
        ids = ids[:: max(1, -(-len(ids) // max_objects))]
    batches = [
        _run_batch(predictor, labels, ids[i : i + batch_size], start, n_corrections)
        for i in range(0, len(ids), batch_size)
    ]
    return np.concatenate(batches) if batches else np.zeros((0, 1 + n_corrections))


def _run_batch(predictor, labels: np.ndarray, ids: np.ndarray, start: str, n_corrections: int) -> np.ndarray:
    targets = labels[None] == ids[:, None, None]
    boxes = np.array([_box(t) for t in targets], np.float32) if start == "box" else None
    points = np.zeros((len(ids), 0, 2), np.float32)
    point_labels = np.zeros((len(ids), 0), np.int64)
    if start == "point":
        points = np.array([[most_interior_pixel(t)[::-1]] for t in targets], np.float32)
        point_labels = np.ones((len(ids), 1), np.int64)
    logits, ious = None, []
    for _ in range(1 + n_corrections):
        masks, logits = _predict(predictor, points, point_labels, boxes, logits)
        ious.append((masks & targets).sum((1, 2)) / np.maximum((masks | targets).sum((1, 2)), 1))
        clicks = np.array([_correction(m ^ t) for m, t in zip(masks, targets)])
        positive = targets[np.arange(len(ids)), clicks[:, 0], clicks[:, 1]]
        points = np.concatenate([points, clicks[:, None, ::-1].astype(np.float32)], axis=1)
        point_labels = np.concatenate([point_labels, positive[:, None].astype(np.int64)], axis=1)
    return np.stack(ious, axis=1)


@torch.no_grad()
def _predict(predictor, points, point_labels, boxes, logits) -> tuple[np.ndarray, torch.Tensor]:
    size = predictor.original_size
    device = predictor.device
    has_points = points.shape[1] > 0
    masks, _, low_res = predictor.predict_torch(
        torch.as_tensor(predictor.transform.apply_coords(points, size), device=device).float() if has_points else None,
        torch.as_tensor(point_labels, device=device) if has_points else None,
        boxes=None if boxes is None else torch.as_tensor(predictor.transform.apply_boxes(boxes, size), device=device),
        mask_input=logits,
        multimask_output=False,
    )
    return masks[:, 0].cpu().numpy(), low_res


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """[min_x, min_y, max_x, max_y], the maxima one past the last pixel."""
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return x[0], y[0], x[-1] + 1, y[-1] + 1


def _correction(error: np.ndarray) -> tuple[int, int]:
    """(y, x) of the most interior pixel of the largest region that is wrong; (0, 0) if nothing is."""
    if not error.any():
        return 0, 0
    x0, y0, x1, y1 = _box(error)
    components, _ = ndimage.label(error[y0:y1, x0:x1])
    y, x = most_interior_pixel(components == 1 + np.argmax(np.bincount(components.ravel())[1:]))
    return y0 + y, x0 + x


def most_interior_pixel(mask: np.ndarray) -> tuple[int, int]:
    """(y, x) of the pixel farthest from the outline; (0, 0) for an empty mask."""
    if not mask.any():
        return 0, 0
    x0, y0, x1, y1 = _box(mask)
    distance = ndimage.distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return int(y + y0 - 1), int(x + x0 - 1)
