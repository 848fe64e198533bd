"""Follow objects through a time series from some annotated frames, with a simple model of their motion."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.multi_dimensional_segmentation.annotations import Annotations
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.propagation import PropagationStep, iter_propagate
from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult
from micro_sam.multi_dimensional_segmentation.volume import iter_segment_masks_in_volume
from micro_sam.progress import drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

MOTION_SMOOTHING = 0.5


def iter_track_masks(
    annotations: Annotations | np.ndarray,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    settings: PropagationSettings | None = None,
    *,
    stop_frames: Mapping[int, int] | None = None,
    occupied: Any | None = None,
    out: Any | None = None,
) -> Generator[PropagationStep, None, PropagationResult]:
    """Follow objects from their first annotated frame on; frames between annotated ones are filled from both sides.

    The displacement of each object from frame to frame is smoothed exponentially, and its prompts are moved on by it.
    Divisions are the caller's: stop the mother at the frame of the division and annotate the daughters there.

    Args:
        annotations: For each track id its masks (YX) by frame; or labels (TYX), in which every frame that is not empty
            is annotated.
        predictor: The model.
        image_embeddings: Embeddings of the time series, with or without tiles.
        settings: Projection, IoU threshold (of the mask and the moved mask of the frame before), box extension, and
            ``motion_smoothing``, the share of the earlier displacement that is kept; None means 0.5.
        stop_frames: For a track the first frame in which it is not any more.
        occupied: Labels (TYX) of other tracks, whose pixels are not taken.
        out: Array (TYX) to write into.

    Yields:
        A `PropagationStep` after each frame.

    Returns:
        The tracks; ``ended`` says in which frame a track was lost, ``scores`` which frames are doubtful.

    Raises:
        PromptError: There is no annotation, or one does not fit.
        ParameterError: A setting, stop frame or ``out`` does not fit.
    """
    settings = settings or PropagationSettings()
    if settings.motion_smoothing is None:
        settings = replace(settings, motion_smoothing=MOTION_SMOOTHING)
    stops: dict[int, list[int]] = {int(label): [int(t)] for label, t in (stop_frames or {}).items()}
    options = {"below": False, "stops": stops, "occupied": occupied}
    if isinstance(annotations, Mapping):
        return (yield from iter_propagate(annotations, predictor, image_embeddings, settings, out=out, **options))
    return (
        yield from iter_segment_masks_in_volume(annotations, predictor, image_embeddings, None, settings, **options)
    )


def track_mask_through_time(
    segmentation: np.ndarray,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    segmented_frames: Sequence[int],
    stop_upper: bool = False,
    iou_threshold: float = 0.5,
    projection: str | dict = "mask",
    motion_smoothing: float = MOTION_SMOOTHING,
    update_progress: Callable[[int], None] | None = None,
    box_extension: float = 0.0,
    stop_frame: int | None = None,
    verbose: bool = False,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Follow an object through a time series from some frames in which it is segmented.

    Args:
        segmentation: The time series (TYX) with the object; with several labels all are followed together.
        predictor: The model.
        image_embeddings: Embeddings of the time series, with or without tiles.
        segmented_frames: The frames in which it is segmented.
        stop_upper: Do not go on after the last of them.
        iou_threshold: The object ends where its mask overlaps the moved mask of the frame before by less than this.
        projection: See `segment_mask_in_volume`.
        motion_smoothing: Which share of its earlier displacement is kept when the object moves on, 0 to 1.
        update_progress: Called with the number of frames finished since the last call.
        box_extension: How much to enlarge boxes on every side; below 1 a fraction of the side, from 1 on pixels.
        stop_frame: The first frame in which the object is not any more, for example that of its division.
        verbose: Show a progress bar.

    Returns:
        The segmentation (a copy with the frames filled in), and its first and last frame, both inclusive.
    """
    settings = PropagationSettings(projection, iou_threshold, box_extension, motion_smoothing=motion_smoothing)
    labels = [int(label) for label in np.unique(segmentation) if label != 0]
    work = iter_segment_masks_in_volume(
        segmentation,
        predictor,
        image_embeddings,
        segmented_frames,
        settings,
        below=False,
        above=not stop_upper,
        stops={} if stop_frame is None else {label: [stop_frame] for label in labels},
    )
    result = drain(work, verbose, None, update_progress)
    ranges = np.array(list(result.z_ranges.values()))
    return result.segmentation, (int(ranges[:, 0].min()), int(ranges[:, 1].max()))
