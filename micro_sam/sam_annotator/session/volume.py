"""A session on a volume: the current object in its slices, and through all of them. No window is needed.

session = VolumeSession()
session.open(AnnotatedImage.from_array(volume, ndim=3))
session.predictor, session.embeddings = predictor, embeddings
session.set_prompts(Prompts(points=(Point(120, 88, i=7),)))
session.segment(7)
session.propagate()
session.commit()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from micro_sam.errors import PromptError
from micro_sam.multi_dimensional_segmentation.annotations import annotations_of
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.sam_annotator.session.certainty import Certainty
from micro_sam.sam_annotator.session.diff import Diff, Window, bounding_window, united
from micro_sam.sam_annotator.session.propagation import Plan, ReachedSlice, iter_run
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation
from micro_sam.sam_annotator.session.session import AnnotationSession
from micro_sam.sam_annotator.session.state import BY_HAND, COMMITTED, CURRENT, LAYER_PREFIX, REACHED, START

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.prompts import Prompts

PROPAGATE = "propagate"


@dataclass(eq=False)
class VolumeSession(Certainty, AnnotationSession):
    """A volume that is being annotated.

    What it looks up often is remembered slice by slice, so that a click costs a slice and not the volume.

    Attributes:
        propagation: How objects are propagated.
        z_limits: The first and the last slice to enter, None for no limit.
    """

    kind: str = "annotator_3d"
    propagation: PropagationSettings = field(default_factory=PropagationSettings)
    z_limits: tuple[int | None, int | None] = (None, None)

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._forget_slices()
        self.labels_changed.connect(self._on_labels_changed)

    def _forget_slices(self) -> None:
        self._largest_of: dict[str, np.ndarray] = {}
        self._stale: dict[str, set[int]] = {}
        self._answers: dict[int | None, Prompts] = {}
        self._touched: set[int] = set()
        self._step: int | None = None
        self._is_own = False

    def start(self, shape: Sequence[int]) -> None:
        """Begin with empty labels of a shape (ZYX)."""
        self._forget_slices()
        super().start(shape)

    # What is in which slice

    def _on_labels_changed(self, key: str, window: Window) -> None:
        self._stale.setdefault(key, set()).update(range(window[0].start, window[0].stop))

    def largest_by_slice(self, key: str) -> np.ndarray:
        """The largest id in each slice of a label array; 0 where there is nothing."""
        array, known = self.labels[key], self._largest_of.get(key)
        stale = self._stale.pop(key, set())
        if known is None or len(known) != len(array):
            known, stale = np.zeros(len(array), np.int64), set(range(len(array)))
        for z in stale:
            known[z] = array[z].max()
        self._largest_of[key] = known
        return known

    def filled_slices(self, key: str) -> list[int]:
        """The slices in which there is something."""
        return [int(z) for z in np.flatnonzero(self.largest_by_slice(key))]

    def has(self, key: str) -> bool:
        """Whether there is anything in a label array."""
        return key in self.labels and bool(self.largest_by_slice(key).any())

    def window(self, key: str) -> Window | None:
        """The block that holds everything in a label array; None if it is empty."""
        slices = self.filled_slices(key)
        if not slices:
            return None
        low, high = slices[0], slices[-1] + 1
        return (slice(low, high), *united([bounding_window(self.labels[key][z]) for z in slices]))

    def _largest(self, key: str) -> int:
        if key.startswith(LAYER_PREFIX):  # others may write there without telling
            return super()._largest(key)
        return int(self.largest_by_slice(key).max())

    def with_own_ids(self, key: str, labels: np.ndarray, i: int) -> np.ndarray:
        """The labels of a slice with ids that no other slice has."""
        others = np.delete(self.largest_by_slice(key), i)
        return np.where(labels, labels + np.uint32(others.max(initial=0)), 0).astype(np.uint32)

    # Propagating

    def accept(self, segmentation: Segmentation, live: bool = False) -> bool:
        """Make a segmentation the current object in its slice."""
        accepted = super().accept(segmentation, live)
        if accepted:
            self._answers[segmentation.request.i] = segmentation.request.prompts
        return accepted

    def annotated_slices(self) -> list[int]:
        """The slices in which the current object was segmented by prompts, painted, or corrected."""
        reached = self.labels[REACHED]
        return [z for z in self.filled_slices(CURRENT) if not reached[z] or self.prompts.in_slice(z).has_positive]

    def _unanswered(self) -> list[Request]:
        """Slices with prompts whose masks are missing or out of date, and that nobody painted in."""
        painted = set(self.filled_slices(BY_HAND))
        found = []
        for z in self.prompts.slices():
            here = self.prompts.in_slice(z)
            if z in painted or self._answers.get(z) == here:
                continue
            request = self.request(z)
            if here.has_positive or request.start is not None:
                found.append(request)
        return found

    def plan_propagation(self) -> Plan:
        """What `iter_run` is to do now; `reach` takes what it finds.

        Raises:
            PromptError: The object is in no slice yet.
        """
        unanswered = self._unanswered()
        again = {request.i for request in unanswered}
        annotated = [z for z in self.annotated_slices() if z not in again]
        if not annotated and not unanswered:
            raise PromptError("There is nothing to propagate: segment the object in at least one slice first.")
        stops = [z for z in self.prompts.slices() if z not in again and z not in annotated]
        self._touched, self._step = set(), None
        keep = self.options.preserve_mode != "none"
        return Plan(
            annotations_of(self.labels[CURRENT], annotated),
            unanswered,
            [z for z in stops if 0 <= z < len(self.labels[CURRENT])],
            self.z_limits,
            self.propagation,
            self.labels[COMMITTED] if keep else None,
            self.next_id(COMMITTED) - 1,
        )

    def _announce(self, diffs: Sequence[Diff], shown: Diff | None) -> None:
        if not self._is_own:
            for diff in diffs:
                if diff.key == CURRENT:
                    self._touched.update(range(diff.window[0].start, diff.window[0].stop))
        super()._announce(diffs, shown)

    def reach(self, found: ReachedSlice) -> bool:
        """Take what propagation found in a slice. All slices of a run are one step.

        Returns:
            False if the person changed this slice meanwhile, so that nothing was taken.
        """
        if found.z in self._touched:
            return False
        self.show(None)
        self._go_on(self._slice_diffs(found.z, found.window, found.block, found.certainty), found.z)
        if found.certainty is None:
            self._answers[found.z] = self.prompts.in_slice(found.z)
        return True

    def finish_propagation(self, reached: Sequence[int]) -> None:
        """A run came to its end: what an earlier one had found elsewhere is out of date."""
        before = np.flatnonzero(self.labels[REACHED])
        for z in sorted({int(z) for z in before} - set(reached) - self._touched - set(self.annotated_slices())):
            nothing = np.zeros((0, 0), np.uint32)
            self._go_on(self._slice_diffs(z, (slice(0, 0), slice(0, 0)), nothing, None), z)

    def _go_on(self, diffs: list[Diff | None], z: int) -> None:
        last, self._is_own = self.history.last, True
        try:
            if self._step is not None and last is not None and last.number == self._step:
                self.amend(diffs, {"slice": z})
            elif any(diffs):
                self._step = self.do(PROPAGATE, "Propagated the object", diffs=diffs, details=self._details()).number
        finally:
            self._is_own = False

    def _slice_diffs(self, z: int, window: Window, block: np.ndarray, certainty: float | None) -> list[Diff | None]:
        """From what a slice of the current object holds to a new content; what was painted by hand stays."""
        plane, rows = self.labels[CURRENT][z], slice(z, z + 1)
        whole = united([bounding_window(plane), None if block.size == 0 else window])
        diffs = [self._certainty_diff(z, certainty)]
        if whole is not None:
            new = np.zeros([s.stop - s.start for s in whole], plane.dtype)
            if block.size:
                new[tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(window, whole))] = block
            new = np.where(self.labels[BY_HAND][z][whole], plane[whole], new)
            diffs.append(Diff.between(CURRENT, (rows, *whole), plane[whole][None], new[None]))
        return diffs

    def _details(self) -> dict[str, Any]:
        settings = asdict(self.propagation)
        return {
            "annotated": self.annotated_slices(),
            "z_limits": list(self.z_limits),
            "settings": settings,
            **self._model_name(),
        }

    def propagate(self) -> list[int]:
        """Propagate the current object at once; returns the slices it reached.

        Raises:
            PromptError: It is in no slice yet, or there are no embeddings.
        """
        if not self.can_segment:
            raise PromptError("There are no embeddings of this image yet: compute them first.")
        work = iter_run(self.plan_propagation(), self.predictor, self.embeddings)
        while True:
            try:
                item = next(work)
            except StopIteration as stop:
                self.finish_propagation(stop.value)
                return stop.value
            if isinstance(item, ReachedSlice):
                self.reach(item)

    def _noted_by_hand(self, window: Window, before: np.ndarray) -> list[Diff | None]:
        noted = [self._certainty_diff(z, None) for z in range(window[0].start, window[0].stop)]
        return [*super()._noted_by_hand(window, before), *noted]

    def _start_mask(self, i: int | None) -> Any:
        return super()._start_mask(i) if i is None or self.largest_by_slice(START)[i] else None
