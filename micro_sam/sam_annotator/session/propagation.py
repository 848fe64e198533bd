"""Objects from the slices in which they are annotated into the others, beside a session that goes on being changed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embedding_access import image_shape
from micro_sam.errors import PromptError
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.propagation import PropagationStep, iter_propagate
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.diff import Window, bounding_window
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation, own_predictor, segment

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be propagated: a copy of what matters, so that the person can go on working beside it.

    Attributes:
        annotations: For each current object its masks (YX) by slice.
        unanswered: Prompts of slices whose masks were not asked for yet.
        stops: Slices that must not be entered.
        z_limits: The first and the last slice to enter, None for no limit.
        settings: How.
        occupied: The committed labels (ZYX) whose pixels are not taken, None to take them.
        offset: What is added to the numbers of objects, so that they differ from those of committed ones.
    """

    annotations: Mapping[int, Mapping[int, np.ndarray]]
    unanswered: Sequence[Request]
    stops: Sequence[int]
    z_limits: tuple[int | None, int | None]
    settings: PropagationSettings
    occupied: np.ndarray | None
    offset: int


@dataclass(frozen=True, eq=False)
class ReachedSlice:
    """What a slice holds after objects were propagated into it.

    Attributes:
        z: The slice.
        window: The block (rows, columns) that holds the objects.
        block: They.
        certainty: From 0 to 1; None where they come from prompts or were there before.
    """

    z: int
    window: Window
    block: np.ndarray
    certainty: float | None


def iter_run(
    plan: Plan, predictor: SamPredictor, embeddings: ImageEmbeddings
) -> Generator[Progress | ReachedSlice, None, list[int]]:
    """Propagate; nothing in a session is changed, so that it may run in a thread.

    Args:
        plan: What.
        predictor: The model.
        embeddings: The volume's embeddings.

    Yields:
        A `ReachedSlice` for each slice, and `Progress`.

    Returns:
        The slices that were reached.
    """
    predictor = own_predictor(predictor)
    annotations = {label: dict(masks) for label, masks in plan.annotations.items()}
    for done, request in enumerate(plan.unanswered):
        yield Progress(done, len(plan.unanswered), "Segment the annotated slices")
        found = _answered(segment(predictor, embeddings, request), image_shape(embeddings), annotations)
        if found is not None:
            yield found
    if not annotations:
        raise PromptError("Nothing was found in the annotated slices: add a prompt, or draw a box.")
    work = iter_propagate(
        {label + plan.offset: masks for label, masks in annotations.items()},
        predictor,
        embeddings,
        plan.settings,
        z_limits=plan.z_limits,
        stops={label + plan.offset: plan.stops for label in annotations},
        occupied=plan.occupied,
    )
    return (yield from _slices_of(work, plan.offset))


def _slices_of(
    work: Generator[PropagationStep, None, Any], offset: int
) -> Generator[Progress | ReachedSlice, None, list[int]]:
    try:
        while True:
            try:
                step = next(work)
            except StopIteration as stop:
                return sorted({z for by_slice in stop.value.scores.values() for z in by_slice})
            found = None if step.z is None else _reached(step, offset)
            if found is not None:
                yield found
            yield Progress(step.done, step.total, step.text)
    finally:
        work.close()


def _reached(step: PropagationStep, offset: int) -> ReachedSlice | None:
    plane = np.asarray(step.result.segmentation[step.z])
    window = bounding_window(plane)
    if window is None:
        return None
    block = plane[window]
    here = [by_slice[step.z] for by_slice in step.result.scores.values() if step.z in by_slice]
    annotated = any(score.origin == "annotated" for score in here)
    certainty = None if annotated else min(score.score for score in here)
    return ReachedSlice(step.z, window, np.where(block, block - offset, 0).astype(np.uint32), certainty)


def _answered(
    answer: Segmentation, shape: tuple[int, int], annotations: dict[int, dict[int, np.ndarray]]
) -> ReachedSlice | None:
    """The masks of a slice that was not segmented before; they are added to the annotations."""
    plane = np.zeros(shape, np.uint32)
    for label, found in enumerate(answer.objects, start=1):
        if found is not None:
            plane[found.window][found.mask] = label
            annotations.setdefault(label, {})[answer.request.i] = found.full(shape)
    window = bounding_window(plane)
    return None if window is None else ReachedSlice(answer.request.i, window, plane[window], None)
