"""Follow objects from annotated slices through a volume, or through time: the core that windows and scripts share.

From every annotated slice an object is followed slice by slice: its mask becomes prompts in the next slice. All objects
go together, one batch of prompts for each slice. Slices between two annotated ones are entered from both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings.access import n_slices
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.multi_dimensional_segmentation.annotations import Annotations, checked, reach_of
from micro_sam.multi_dimensional_segmentation.fronts import DOWN, UP, Front, Reach, plan_fronts, visits
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult, SliceScore
from micro_sam.multi_dimensional_segmentation.shapes import between, center, cut, iou, shifted
from micro_sam.multi_dimensional_segmentation.slice_decoding import SliceDecoder
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

_TEXT = "Propagate objects"


@dataclass(frozen=True)
class PropagationStep(Progress):
    """Progress after one slice.

    Attributes:
        z: The slice that is finished, None before the first.
        result: The result so far. It goes on being filled; after closing the generator it is what has been reached.
    """

    z: int | None = None
    result: PropagationResult | None = None


def iter_propagate(
    annotations: Annotations,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    settings: PropagationSettings | None = None,
    *,
    below: bool = True,
    above: bool = True,
    z_limits: tuple[int | None, int | None] = (None, None),
    stops: Mapping[int, Sequence[int]] | None = None,
    occupied: Any | None = None,
    out: Any | None = None,
) -> Generator[PropagationStep, None, PropagationResult]:
    """Follow one or several objects from their annotated slices through a volume or time series.

    Args:
        annotations: For each object id (at least 1) its masks (YX, anything but 0 is inside) by slice. They are kept as
            they are.
        predictor: The model.
        image_embeddings: Embeddings of the volume or time series, with or without tiles.
        settings: Projection, IoU threshold, box extension, motion.
        below: Go on below (before) the lowest annotated slice of each object.
        above: Go on above (after) the highest annotated slice of each object.
        z_limits: The first and the last slice to enter, both inclusive; None leaves a side open.
        stops: For object ids the slices they must not enter; an object ends before them.
        occupied: Labels (ZYX) of other objects, whose pixels are not taken; read slice by slice.
        out: Array (ZYX, integer) to write into, where other values than 0 and the object's id are not overwritten; by
            default a new one, uint32.

    Yields:
        A `PropagationStep` after each slice, with the result so far. Closing the generator keeps what there is.

    Returns:
        The segmentation, the range of each object, and a score for each of its slices.

    Raises:
        PromptError: There is no annotation, one is empty, has another shape than the slices, or lies outside.
        ParameterError: The embeddings are of an image, or limits, stops or ``out`` do not fit.
    """
    work = _Propagation(predictor, image_embeddings, settings or PropagationSettings(), occupied)
    reach = reach_of(work.n_slices, z_limits, below, above, stops or {}, annotations)
    shapes = checked(annotations, work.n_slices, work.decoder.plane)
    work.start(shapes, out)
    return (yield from work.run(shapes, reach))


def propagate(
    annotations: Annotations,
    predictor: SamPredictor,
    image_embeddings: ImageEmbeddings,
    settings: PropagationSettings | None = None,
    *,
    verbose: bool = False,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
    **options: Any,
) -> PropagationResult:
    """`iter_propagate`, run to its end.

    Args:
        annotations: For each object id its masks by slice.
        predictor: The model.
        image_embeddings: Embeddings of the volume or time series.
        settings: Projection, IoU threshold, box extension, motion.
        verbose: Show a progress bar.
        pbar_init: Called with (total, description).
        pbar_update: Called with the number of slices finished since the last call.
        **options: The keyword arguments of `iter_propagate`.
    """
    work = iter_propagate(annotations, predictor, image_embeddings, settings, **options)
    return drain(work, verbose, pbar_init, pbar_update)


class _Propagation:
    """The state of one run."""

    def __init__(
        self,
        predictor: SamPredictor,
        image_embeddings: ImageEmbeddings,
        settings: PropagationSettings,
        occupied: Any | None,
    ) -> None:
        depth = n_slices(image_embeddings)
        if depth is None:
            raise ParameterError("Expected embeddings of a volume or time series, these are of one image.")
        self.n_slices, self.settings = depth, settings
        self.decoder = SliceDecoder(predictor, image_embeddings, settings)
        shape = (depth, *self.decoder.plane)
        if occupied is not None and tuple(occupied.shape) != shape:
            raise ParameterError(f"occupied must have the shape of the volume {shape}, got {tuple(occupied.shape)}.")
        self._occupied = occupied
        self.result = PropagationResult(None)
        self._annotated: Mapping[int, Mapping[int, Instance]] = {}
        self._met: dict[tuple[int, int], tuple[Instance, SliceScore]] = {}
        self._lost: list[Front] = []
        self._may_be_there = False

    def start(self, shapes: Mapping[int, Mapping[int, Instance]], out: Any | None) -> None:
        """Write the annotations into the result."""
        shape = (self.n_slices, *self.decoder.plane)
        self._may_be_there = out is not None
        if out is None:
            out = np.zeros(shape, dtype=np.uint32 if max(shapes) <= np.iinfo(np.uint32).max else np.uint64)
        if (
            tuple(out.shape) != shape
            or not np.issubdtype(out.dtype, np.integer)
            or max(shapes) > np.iinfo(out.dtype).max
        ):
            raise ParameterError(
                f"out must be an integer array of shape {shape} that holds the id {max(shapes)}, got {out.dtype} of "
                f"shape {tuple(out.shape)}."
            )
        self.result = PropagationResult(out, {label: {} for label in shapes}, {label: [] for label in shapes})
        self._annotated = shapes
        for label, by_slice in shapes.items():
            for z, annotation in by_slice.items():
                self._write(z, label, annotation)
                self.result.scores[label][z] = SliceScore()

    def run(
        self, shapes: Mapping[int, Mapping[int, Instance]], reach: Reach
    ) -> Generator[PropagationStep, None, PropagationResult]:
        """Sweep upwards, downwards, and once more where fronts were lost between annotations."""
        fronts = [front for label, by_slice in shapes.items() for front in plan_fronts(label, by_slice, reach)]
        total = sum(len(visits(fronts, step)) for step in (UP, DOWN))
        done = 0
        yield PropagationStep(0, total, _TEXT, None, self.result)
        for step in (UP, DOWN):
            moving = [front for front in fronts if front.step == step]
            for z in visits(moving, step):
                if not moving:
                    break
                moving = self._enter(z, moving)
                done += 1
                yield PropagationStep(done, total, _TEXT, z, self.result)
            if step == UP:
                self._extend_partners(fronts)
                total = done + len(visits(fronts, DOWN))
        for z in self._fill_holes(fronts):
            yield PropagationStep(done, total, _TEXT, z, self.result)
        yield PropagationStep(total, total, _TEXT, None, self.result)
        return self._finished()

    def _finished(self) -> PropagationResult:
        for label, by_slice in self.result.scores.items():
            self.result.scores[label] = dict(sorted(by_slice.items()))
            self.result.ended[label].sort()
        return self.result

    def _enter(self, z: int, fronts: list[Front]) -> list[Front]:
        """Move the fronts that come to a slice into it; returns the fronts that are still on their way."""
        coming = [front for front in fronts if front.target == z]
        expected = [self._expected(front) for front in coming]
        here = [k for k, shape in enumerate(expected) if shape is not None]
        found: list[Instance | None] = [None] * len(coming)
        if here:
            for k, shape in zip(here, self.decoder(z, [expected[k] for k in here])):
                found[k] = self._free(z, coming[k].label, shape)
        for front, before, shape in zip(coming, expected, found):
            overlap = iou(before, shape)
            if shape is None or overlap < self.settings.iou_threshold:
                self._lose(front, z)
            else:
                self._accept(front, z, shape, overlap)
        lost = {id(front) for front in self._lost}
        return [front for front in fronts if front.target is not None and id(front) not in lost]

    def _expected(self, front: Front) -> Instance | None:
        """Where the object should be in the next slice: where it is now, moved on as it has been moving."""
        if front.motion is None:
            return front.shape
        return shifted(front.shape, front.motion, self.decoder.plane)

    def _lose(self, front: Front, z: int) -> None:
        self._lost.append(front)
        if front.gap is None:
            self.result.ended[front.label].append(z)

    def _accept(self, front: Front, z: int, shape: Instance, overlap: float) -> None:
        if self.settings.motion_smoothing is not None:
            moved = center(shape) - center(front.shape)
            share = self.settings.motion_smoothing
            front.motion = moved if front.motion is None else share * front.motion + (1 - share) * moved
        front.z, front.shape = z, shape
        score = SliceScore(shape.score, overlap, None, "propagated")
        key = front.label, z
        if key in self._met:
            shape, score = self._meeting(self._met.pop(key), (shape, score))
        elif front.gap is not None and front.step == UP and z >= front.end - 1:
            self._met[key] = shape, score
        self._write(z, front.label, shape)
        self.result.scores[front.label][z] = score

    def _meeting(self, a: tuple[Instance, SliceScore], b: tuple[Instance, SliceScore]) -> tuple[Instance, SliceScore]:
        """One mask from those that came from below and above: what both say, and the middle way where they differ."""
        middle = between(a[0], b[0], 0.5, self.decoder.plane) or a[0]
        predicted, overlap = (min(getattr(s, name) for _, s in (a, b)) for name in ("predicted_iou", "overlap"))
        return middle, SliceScore(predicted, overlap, iou(a[0], b[0]), "propagated")

    def _extend_partners(self, fronts: list[Front]) -> None:
        """Where a front from below was lost between two annotations, the one from above goes on in its place."""
        for lost in self._lost:
            for partner in fronts:
                same_gap = partner.label == lost.label and partner.gap == lost.gap is not None
                if same_gap and partner.step == DOWN:
                    partner.end = lost.z + 1

    def _fill_holes(self, fronts: list[Front]) -> Generator[int, None, None]:
        """Slices between annotations that no front reached: shapes in between, which the model may improve."""
        gaps = {(front.label, front.gap) for front in fronts if front.gap is not None}
        holes: dict[int, list[tuple[int, Instance]]] = {}
        for label, (lower, upper) in sorted(gaps):
            known = {z: s for z, s in self.result.scores[label].items() if lower <= z <= upper}
            for z in range(lower + 1, upper):
                if z not in known:
                    below, above = max(k for k in known if k < z), min(k for k in known if k > z)
                    shape = self._in_between(label, z, below, above)
                    if shape is not None:
                        holes.setdefault(z, []).append((label, shape))
        for z, entries in sorted(holes.items()):
            self._fill(z, entries)
            yield z

    def _in_between(self, label: int, z: int, below: int, above: int) -> Instance | None:
        ends = [make_instance(np.asarray(self.result.segmentation[k]) == label) for k in (below, above)]
        if ends[0] is None or ends[1] is None:
            return ends[0] or ends[1]
        return between(*ends, (z - below) / (above - below), self.decoder.plane)

    def _fill(self, z: int, entries: Sequence[tuple[int, Instance]]) -> None:
        for (label, expected), found in zip(entries, self.decoder(z, [shape for _, shape in entries])):
            found = self._free(z, label, found)
            overlap = iou(expected, found)
            if found is not None and overlap >= self.settings.iou_threshold:
                shape, score = found, SliceScore(found.score, overlap, None, "propagated")
            else:
                shape, score = self._free(z, label, expected), SliceScore(0.0, overlap, None, "interpolated")
            if shape is not None:
                self._write(z, label, shape)
                self.result.scores[label][z] = score

    def _free(self, z: int, label: int, shape: Instance | None) -> Instance | None:
        """The part of a mask that no other object has."""
        if shape is None:
            return None
        taken = np.asarray(self.result.segmentation[(z, *shape.window)])
        free = (taken == 0) | (taken == label)
        if self._occupied is not None:
            others = np.asarray(self._occupied[(z, *shape.window)])
            free &= (others == 0) | (others == label)
        return cut(shape, free)

    def _write(self, z: int, label: int, shape: Instance) -> None:
        """Replace the object's mask in a slice, leaving all other objects."""
        labels = self.result.segmentation
        if self._may_be_there or z in self.result.scores[label]:
            plane = np.asarray(labels[z])
            if (plane == label).any():
                labels[z] = np.where(plane == label, 0, plane)
        window = (z, *shape.window)
        target = np.array(labels[window])
        target[shape.mask & (target == 0)] = label
        labels[window] = target
