"""How sure the model is where it followed the current object, slice by slice or frame by frame, and where to look."""

from __future__ import annotations

import numpy as np

from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.follow_settings import DOUBTFUL
from micro_sam.sam_annotator.session.state import CURRENT, REACHED, SessionState

_LEVELS = 254  # how finely it is noted


class Certainty(SessionState):
    """How sure the model is where it followed the current object; undone and restored with the object itself."""

    def _certainty_diff(self, i: int, certainty: float | None) -> Diff | None:
        """Note for a slice or frame how sure the model is, from 0 to 1; None where a person said what is there."""
        rows = slice(i, i + 1)
        noted = self.labels[REACHED][rows]
        level = 0 if certainty is None else 1 + round(_LEVELS * certainty)
        return Diff.between(REACHED, (rows,), noted, np.full_like(noted, level))

    def doubtful(self, below: float = DOUBTFUL) -> list[tuple[int, float]]:
        """Slices or frames to look at, the most doubtful first: (slice, certainty), where nobody corrected it since."""
        noted, corrected = self.labels[REACHED], self._corrected_slices()
        there = [int(i) for i in np.flatnonzero(noted) if i not in corrected and self.labels[CURRENT][i].any()]
        scored = [(i, (int(noted[i]) - 1) / _LEVELS) for i in there]
        return sorted((pair for pair in scored if pair[1] < below), key=lambda pair: pair[1])

    def _corrected_slices(self) -> set[int]:
        """Slices or frames in which a person said what is there."""
        return set(self.prompts.slices())
