"""Segment objects in a volume from some annotated slices."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.multi_dimensional_segmentation.annotations import annotations_of
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.propagation import PropagationStep, iter_propagate
from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult
from micro_sam.progress import drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings


def segment_mask_in_volume(
    segmentation: np.ndarray,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    segmented_slices: np.ndarray,
    stop_lower: bool,
    stop_upper: bool,
    iou_threshold: float,
    projection: str | dict,
    update_progress: Callable[[int], None] | None = None,
    box_extension: float = 0.0,
    verbose: bool = False,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Segment an object in a volume from some slices where it is segmented.

    Args:
        segmentation: The volume (ZYX) with the object; with several labels each is an object of its own, and all are
            followed together.
        predictor: The model.
        image_embeddings: Embeddings of the volume, with or without tiles.
        segmented_slices: The slices in which it is segmented.
        stop_lower: Do not go on below the lowest segmented slice.
        stop_upper: Do not go on above the highest segmented slice.
        iou_threshold: The object ends where masks of neighbouring slices overlap by less than this (IoU).
        projection: Which prompts are made from the mask of the neighbouring slice: "box", "mask", "points",
            "points_and_mask", "single_point", or a dict with ``use_box``, ``use_mask``, ``use_points`` and
            ``use_single_point``.
        update_progress: Called with the number of slices finished since the last call.
        box_extension: How much to enlarge boxes on every side; below 1 a fraction of the side, from 1 on pixels.
        verbose: Show a progress bar.

    Returns:
        The segmentation (a copy with the slices filled in), and its first and last slice, both inclusive.

    Raises:
        PromptError: Nothing is segmented in the slices, or shapes do not fit the embeddings.
        ParameterError: A setting is out of range, or the embeddings are of an image.
    """
    settings = PropagationSettings(projection, iou_threshold, box_extension)
    work = iter_segment_masks_in_volume(
        segmentation,
        predictor,
        image_embeddings,
        segmented_slices,
        settings,
        below=not stop_lower,
        above=not stop_upper,
    )
    result = drain(work, verbose, None, update_progress)
    ranges = np.array(list(result.z_ranges.values()))
    return result.segmentation, (int(ranges[:, 0].min()), int(ranges[:, 1].max()))


def iter_segment_masks_in_volume(
    segmentation: np.ndarray,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    segmented_slices: Sequence[int] | None = None,
    settings: PropagationSettings | None = None,
    *,
    below: bool = True,
    above: bool = True,
    z_limits: tuple[int | None, int | None] = (None, None),
    stops: Mapping[int, Sequence[int]] | None = None,
    occupied: Any | None = None,
) -> Generator[PropagationStep, None, PropagationResult]:
    """`iter_propagate` for objects that are painted into a volume.

    Args:
        segmentation: Labels (ZYX); it is not changed. What is in slices that are not entered is in the result, too.
        predictor: The model.
        image_embeddings: Embeddings of the volume.
        segmented_slices: The annotated slices; by default all that are not empty.
        settings: Projection, IoU threshold, box extension.
        below: Go on below the lowest annotated slice of each object.
        above: Go on above the highest annotated slice of each object.
        z_limits: The first and the last slice to enter, both inclusive; None leaves a side open.
        stops: For object ids the slices they must not enter.
        occupied: Labels (ZYX) of other objects, whose pixels are not taken.

    Yields:
        A `PropagationStep` after each slice.
    """
    segmentation = np.asarray(segmentation)
    if segmentation.ndim != 3 or segmentation.dtype.kind not in "buif":
        raise PromptError(f"Expected labels of a volume (ZYX), got {segmentation.dtype} of shape {segmentation.shape}.")
    slices = None if segmented_slices is None else [int(z) for z in segmented_slices]
    annotations = annotations_of(segmentation, slices)
    if not annotations:
        raise PromptError("Nothing is segmented in the given slices; segment the object in at least one slice.")
    out = segmentation.astype(np.uint8 if segmentation.dtype.kind == "b" else segmentation.dtype, copy=True)
    return (
        yield from iter_propagate(
            annotations,
            predictor,
            image_embeddings,
            settings,
            below=below,
            above=above,
            z_limits=z_limits,
            stops=stops,
            occupied=occupied,
            out=out,
        )
    )
