"""Segment one object from points, a box, a mask, or several of these.

All coordinates here are ``(y, x)``, boxes are ``[min_y, min_x, max_y, max_x]``. With tiled embeddings the tile that
fits the prompts best is used, and the result is returned in the shape of the whole image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from micro_sam import embedding_access
from micro_sam.embeddings.tiling import Tile, Tiling
from micro_sam.errors import PromptError
from micro_sam.mask_decoding import Prompts, Upscaler, decode
from micro_sam.prompts import (
    check_box,
    check_mask,
    check_point_labels,
    check_points,
    extend_box,
    mask_to_box,
    mask_to_logits,
    mask_to_points,
)

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

logger = logging.getLogger(__name__)

Result = np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]
_OUTSIDE_LOGIT = -32.0


@dataclass(frozen=True)
class _Prompt:
    """Prompts of one object in the coordinates of the image (or of a tile), checked."""

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class _Output:
    """Which masks to return, and how."""

    multimask: bool = False
    best: bool = False
    everything: bool = False
    logits: bool = False


def segment_from_points(
    predictor: SamPredictor,
    points: np.ndarray,
    labels: np.ndarray,
    image_embeddings: ImageEmbeddings | None = None,
    i: int | None = None,
    multimask_output: bool = False,
    return_all: bool = False,
    use_best_multimask: bool | None = None,
) -> Result:
    """Segment an object from points.

    Args:
        predictor: The model; without ``image_embeddings`` its image must be set.
        points: (n, 2) in (y, x).
        labels: (n,), 1 for positive and 0 for negative points.
        image_embeddings: Embeddings of the image, volume or time series, possibly tiled.
        i: The slice, for embeddings of a volume or time series.
        multimask_output: Return three masks.
        return_all: Also return predicted IoUs and low resolution logits.
        use_best_multimask: Predict three masks and return the one with the best predicted IoU. By default this is done
            for a single positive point, which often is ambiguous.

    Returns:
        Bool mask (1 or 3, Y, X); with ``return_all`` also predicted IoUs (1 or 3) and logits (1 or 3, 256, 256).

    Raises:
        PromptError: Points or labels are malformed or outside the image, or no point is positive.
    """
    shape = _image_shape(predictor, image_embeddings)
    points = check_points(points, shape)
    labels = check_point_labels(labels, len(points))
    if not labels.any():
        raise PromptError("All points are negative, at least one positive point is needed.")
    if use_best_multimask is None:
        use_best_multimask = len(points) == 1 and not multimask_output
    output = _Output(multimask_output or use_best_multimask, use_best_multimask, return_all)
    return _segment(predictor, _Prompt(points, labels), image_embeddings, i, shape, output)


def segment_from_box(
    predictor: SamPredictor,
    box: np.ndarray,
    image_embeddings: ImageEmbeddings | None = None,
    i: int | None = None,
    multimask_output: bool = False,
    return_all: bool = False,
    box_extension: float = 0.0,
) -> Result:
    """Segment an object from the box around it.

    Args:
        predictor: The model; without ``image_embeddings`` its image must be set.
        box: [min_y, min_x, max_y, max_x].
        image_embeddings: Embeddings of the image, volume or time series, possibly tiled.
        i: The slice, for embeddings of a volume or time series.
        multimask_output: Return three masks.
        return_all: Also return predicted IoUs and low resolution logits.
        box_extension: Enlarge the box on every side; below 1 a fraction of the side, from 1 on pixels.

    Returns:
        As `segment_from_points`.

    Raises:
        PromptError: The box is malformed or outside the image.
    """
    shape = _image_shape(predictor, image_embeddings)
    box = extend_box(check_box(box, shape), shape, box_extension)
    output = _Output(multimask_output, everything=return_all)
    return _segment(predictor, _Prompt(box=box), image_embeddings, i, shape, output)


def segment_from_box_and_points(
    predictor: SamPredictor,
    box: np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
    image_embeddings: ImageEmbeddings | None = None,
    i: int | None = None,
    multimask_output: bool = False,
    return_all: bool = False,
) -> Result:
    """Segment an object from the box around it and points, which may all be negative.

    Args:
        predictor: The model; without ``image_embeddings`` its image must be set.
        box: [min_y, min_x, max_y, max_x].
        points: (n, 2) in (y, x).
        labels: (n,), 1 for positive and 0 for negative points.
        image_embeddings: Embeddings of the image, volume or time series, possibly tiled.
        i: The slice, for embeddings of a volume or time series.
        multimask_output: Return three masks.
        return_all: Also return predicted IoUs and low resolution logits.

    Returns:
        As `segment_from_points`.

    Raises:
        PromptError: A prompt is malformed or outside the image.
    """
    shape = _image_shape(predictor, image_embeddings)
    points = check_points(points, shape)
    prompt = _Prompt(points, check_point_labels(labels, len(points)), check_box(box, shape))
    return _segment(predictor, prompt, image_embeddings, i, shape, _Output(multimask_output, everything=return_all))


def segment_from_mask(
    predictor: SamPredictor,
    mask: np.ndarray,
    image_embeddings: ImageEmbeddings | None = None,
    i: int | None = None,
    use_box: bool = True,
    use_mask: bool = True,
    use_points: bool = False,
    original_size: tuple[int, ...] | None = None,
    multimask_output: bool = False,
    return_all: bool = False,
    return_logits: bool = False,
    box_extension: float = 0.0,
    box: np.ndarray | None = None,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    use_single_point: bool = False,
) -> Result:
    """Segment an object from a rough mask of it, for example that of a neighbouring slice.

    Args:
        predictor: The model; without ``image_embeddings`` its image must be set.
        mask: Where the object is (YX); anything but 0 counts.
        image_embeddings: Embeddings of the image, volume or time series, possibly tiled.
        i: The slice, for embeddings of a volume or time series.
        use_box: Prompt with the box around the mask.
        use_mask: Prompt with the mask.
        use_points: Prompt with points derived from the mask.
        original_size: Height and width of the image, if the mask was downscaled.
        multimask_output: Return three masks.
        return_all: Also return predicted IoUs and low resolution logits.
        return_logits: Return logits instead of bool masks.
        box_extension: Enlarge the box on every side; below 1 a fraction of the side, from 1 on pixels.
        box: Use this box [min_y, min_x, max_y, max_x] instead of the mask's.
        points: Use these points (n, 2) in (y, x) instead of derived ones.
        labels: Their labels.
        use_single_point: Derive only one positive point.

    Returns:
        As `segment_from_points`.

    Raises:
        PromptError: A prompt is malformed, the mask is empty, or no kind of prompt is to be used.
    """
    shape = _image_shape(predictor, image_embeddings)
    mask = check_mask(mask if original_size is None else _resampled(mask, original_size), shape)
    use_points = use_points or use_single_point or points is not None
    if not (use_box or use_mask or use_points or box is not None):
        raise PromptError("No prompt would be left: set use_box, use_mask or use_points.")
    if box is not None:
        box = extend_box(check_box(box, shape), shape, box_extension)
    elif use_box:
        box = mask_to_box(mask, box_extension)
    if points is not None:
        points = check_points(points, shape)
        labels = check_point_labels(labels, len(points))
    elif use_points:
        points, labels = mask_to_points(mask, box_extension, single=use_single_point)
    else:
        labels = None
    prompt = _Prompt(points, labels, box, mask if use_mask else None)
    output = _Output(multimask_output, everything=return_all, logits=return_logits)
    return _segment(predictor, prompt, image_embeddings, i, shape, output, around=mask_to_box(mask))


def _image_shape(predictor: SamPredictor, image_embeddings: ImageEmbeddings | None) -> tuple[int, int]:
    if image_embeddings is not None:
        return embedding_access.image_shape(image_embeddings)
    if not predictor.is_image_set:
        raise PromptError("The predictor has no image: set one, or pass image_embeddings.")
    return tuple(predictor.original_size)


def _resampled(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The mask at another size, by nearest neighbours."""
    mask = np.asarray(mask)
    indices = (np.minimum((np.arange(t) + 0.5) * s / t, s - 1).astype(int) for s, t in zip(mask.shape, shape))
    return mask[np.ix_(*indices)]


def _segment(
    predictor: SamPredictor,
    prompt: _Prompt,
    image_embeddings: ImageEmbeddings | None,
    i: int | None,
    shape: tuple[int, int],
    output: _Output,
    around: np.ndarray | None = None,
) -> Result:
    """Decode in the whole image or in a tile; ``around`` is a box to choose the tile by."""
    tile = None
    if image_embeddings is not None and embedding_access.is_tiled(image_embeddings):
        tile = _choose_tile(prompt, image_embeddings, i, around)
        prompt = _in_tile(prompt, tile)
        embedding_access.activate(predictor, image_embeddings, i, tile.index)
    elif image_embeddings is not None:
        embedding_access.activate(predictor, image_embeddings, i)
    logits, ious = decode(predictor, _to_sam(prompt, predictor), output.multimask)
    if output.best:
        best = ious[0].argmax()
        logits, ious = logits[:, best : best + 1], ious[:, best : best + 1]
    values = Upscaler.of(predictor).full(logits)[0]
    masks = (values if output.logits else values > predictor.model.mask_threshold).cpu().numpy()
    if tile is not None:
        masks = _paste(masks, tile, shape)
    if not output.everything:
        return masks
    return masks, ious[0].cpu().numpy(), logits[0].cpu().numpy()


def _to_sam(prompt: _Prompt, predictor: SamPredictor) -> Prompts:
    """The prompts as a batch of one, in (x, y)."""
    logits = None
    if prompt.mask is not None:
        image_size = predictor.model.image_encoder.img_size
        logits = mask_to_logits(prompt.mask, predictor.input_size, image_size)[None]
    return Prompts(
        points=None if prompt.points is None else prompt.points[None, :, ::-1],
        labels=None if prompt.labels is None else prompt.labels[None],
        boxes=None if prompt.box is None else prompt.box[[1, 0, 3, 2]][None],
        masks=logits,
    )


def _choose_tile(prompt: _Prompt, image_embeddings: ImageEmbeddings, i: int | None, around: np.ndarray | None) -> Tile:
    """The tile that fits the prompts best."""
    tiling = embedding_access.tiling_of(image_embeddings)
    box = prompt.box if prompt.box is not None else around
    index = tiling.tile_for_box(box) if box is not None else _tile_for_points(prompt, tiling)
    if index not in embedding_access.tile_ids(image_embeddings, i):
        raise PromptError(f"The prompts lie in tile {index}, which has no embeddings: it was masked out.")
    return tiling.tile(index)


def _tile_for_points(prompt: _Prompt, tiling: Tiling) -> int:
    """The tile that sees most of the points, positive ones first; among equals that of the positive points' centre."""
    points, weights = prompt.points, np.where(prompt.labels == 1, len(prompt.points), 1)
    home = tiling.tile_for_point(*points[prompt.labels == 1].mean(axis=0))

    def seen(index: int) -> tuple[float, bool]:
        return float(weights[~_outside(points, tiling.tile(index))].sum()), index == home

    candidates = {tiling.tile_for_point(*point) for point in points} | {home}
    return max(sorted(candidates), key=seen)


def _outside(points: np.ndarray, tile: Tile) -> np.ndarray:
    local = tile.to_local_points(points)
    return ((local < -0.5) | (local > np.array(tile.shape) - 0.5)).any(axis=1)


def _in_tile(prompt: _Prompt, tile: Tile) -> _Prompt:
    """The prompts in the tile's coordinates; says what the tile does not see."""
    result, unseen = prompt, []
    if prompt.points is not None:
        keep = ~_outside(prompt.points, tile)
        if not keep.all():
            unseen.append(f"{np.count_nonzero(~keep)} of {len(keep)} points are not used")
        points, labels = tile.to_local_points(prompt.points)[keep], prompt.labels[keep]
        result = replace(result, points=points if keep.any() else None, labels=labels if keep.any() else None)
    if prompt.box is not None:
        local = tile.to_local_box(prompt.box)
        if not np.array_equal(tile.to_global_box(local), prompt.box):
            unseen.append("the box is cut")
        result = replace(result, box=local)
    if prompt.mask is not None:
        local_mask = prompt.mask[tile.outer]
        if np.count_nonzero(local_mask) < np.count_nonzero(prompt.mask):
            unseen.append("the mask is cut")
        result = replace(result, mask=local_mask)
    if unseen:
        logger.warning("The prompts reach beyond tile %d with its halo: %s.", tile.index, " and ".join(unseen))
    return result


def _paste(masks: np.ndarray, tile: Tile, shape: tuple[int, int]) -> np.ndarray:
    background = False if masks.dtype == bool else _OUTSIDE_LOGIT
    full = np.full((len(masks), *shape), background, dtype=masks.dtype)
    full[(slice(None), *tile.outer)] = masks
    return full
