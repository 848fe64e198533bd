"""Asking the model what the prompts mean, and taking its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.sam_annotator.session.diff import Diff, bounding_window, united
from micro_sam.sam_annotator.session.image import AnnotatedImage
from micro_sam.sam_annotator.session.options import Options
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation, own_predictor, segment
from micro_sam.sam_annotator.session.state import BY_HAND, CURRENT, START, SessionState, count

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings


class Asking(SessionState):
    """Asking the model what the prompts mean, and taking its answer."""

    image: AnnotatedImage | None
    predictor: SamPredictor | None
    embeddings: ImageEmbeddings | None
    options: Options

    @property
    def can_segment(self) -> bool:
        """Whether there are a model and embeddings."""
        return self.predictor is not None and self.embeddings is not None

    def request(self, i: int | None = None, prompts: Prompts | None = None) -> Request:
        """What is to be segmented in a plane now; `run` answers it, also in a thread, and `accept` takes the answer.

        Args:
            i: The slice, None in an image.
            prompts: Other prompts than the session's, for example while one is dragged.
        """
        chosen = (self.prompts if prompts is None else prompts).in_slice(i)
        return Request(chosen, i, self.options.batched, self._start_mask(i), self.options.tidy, self.generation)

    def run(self, request: Request) -> Segmentation:
        """Answer a request. It changes nothing in the session and may be called in another thread.

        Raises:
            PromptError: There are no prompts, no model or no embeddings.
        """
        if not self.can_segment:
            raise PromptError("There are no embeddings of this image yet: compute them first.")
        return segment(own_predictor(self.predictor), self.embeddings, request)

    def accept(self, segmentation: Segmentation, live: bool = False) -> bool:
        """Make a segmentation the current object (or objects).

        Args:
            segmentation: The answer to a request.
            live: It was computed because prompts changed, and is undone together with them.

        Returns:
            False if it is out of date and was dropped.
        """
        request = segmentation.request
        if request.generation != self.generation:
            return False
        diff = self._answer_diff(segmentation)
        last, found = self.history.last, len(segmentation.found)
        details = {"objects": found, "scores": [round(o.score, 3) for o in segmentation.found], **self._model_name()}
        if live and last is not None and last.kind == "prompts":
            self.amend([diff], details)
        elif diff is not None:
            self.do("segment", f"Segmented {count(found, 'object')}", diffs=[diff], details=details)
        return True

    def show_segmentation(self, segmentation: Segmentation) -> None:
        """Show a segmentation without making it a step, for example while a prompt is dragged."""
        if segmentation.request.generation == self.generation:
            self.show(None)
            self.show(self._answer_diff(segmentation))

    def segment(self, i: int | None = None) -> Segmentation:
        """Segment what the prompts in a plane say, at once."""
        answer = self.run(self.request(i))
        self.accept(answer)
        return answer

    def _answer_diff(self, segmentation: Segmentation) -> Diff | None:
        """What an answer changes in the current objects."""
        return self._current_diff(segmentation.objects, segmentation.request.i)

    def _current_diff(self, objects: Sequence[Instance | None], i: int | None) -> Diff | None:
        """From the current objects in a plane to these."""
        plane = self.labels[CURRENT] if i is None else self.labels[CURRENT][i]
        there = [instance.window for instance in objects if instance is not None]
        window = united([bounding_window(plane), *there])
        if window is None:
            return None
        origin = [s.start for s in window]
        block = np.zeros([s.stop - s.start for s in window], plane.dtype)
        ranked = sorted((o for o in enumerate(objects, start=1) if o[1] is not None), key=lambda pair: pair[1].score)
        for label, instance in ranked:
            inner = tuple(slice(s.start - o, s.stop - o) for s, o in zip(instance.window, origin))
            block[inner][instance.mask] = label
        old = plane[window]
        by_hand = self.labels[BY_HAND][window] if i is None else self.labels[BY_HAND][i][window]
        block = np.where(by_hand, old, block)  # what was painted by hand stays
        if i is not None:
            return Diff.between(CURRENT, (slice(i, i + 1), *window), old[None], block[None])
        return Diff.between(CURRENT, window, old, block)

    def _start_mask(self, i: int | None) -> Instance | None:
        if self.correcting is None:
            return None
        plane = self.labels[START] if i is None else self.labels[START][i]
        window = bounding_window(plane)
        return None if window is None else make_instance(plane[window] != 0, tuple(s.start for s in window))

    def _model_name(self) -> Mapping[str, Any]:
        return {} if self.predictor is None else {"model": getattr(self.predictor, "model_name", None)}
