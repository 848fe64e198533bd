"""Going through objects from the most to the least doubtful: the list, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.session.review import CORRECTED, KEPT, Doubt, Review
from micro_sam.sam_annotator.session.state import COMMITTED, Correction, SessionState, count

CORRECTING, DELETED = "being corrected", "deleted"


class Reviewing(SessionState):
    """Going through objects from the most to the least doubtful. Every decision is a step.

    The list and the decisions are the values `review` and `verdicts`. That an object was deleted is seen in the labels.
    """

    def list_doubts(self, key: str, doubts: Sequence[Doubt]) -> None:
        """Take a list for review, as `iter_doubts` makes it. What was decided about these labels earlier stays.

        Args:
            key: The labels.
            doubts: Their objects, the most doubtful first; those that were changed since then are left out.

        Raises:
            PromptError: There are none.
        """
        there = tuple(doubt for doubt in doubts if self._pixels(key, doubt) == doubt.area)
        if not there:
            raise PromptError("There are no objects to review: segment some first.")
        known = self.verdicts if self.review.key == key else {}
        verdicts = {doubt.label: known[doubt.label] for doubt in there if doubt.label in known}
        values = {"review": Review(key, there), "verdicts": verdicts}
        text = f"Listed {count(len(there), 'object')} by doubt"
        self.do("review", text, values, details={"labels": key, **self._reviewer()})

    def _reviewer(self) -> Mapping[str, Any]:
        """With which model."""
        return {}

    def keep(self, label: int) -> None:
        """An object is good as it is.

        Raises:
            PromptError: It is not in the list.
        """
        self._check_listed(label)
        values = {"verdicts": {**self.verdicts, label: KEPT}}
        self.do("keep", f"Kept object {label}", values, details={"labels": self.review.key, "label": label})

    def _check_listed(self, label: int) -> None:
        if self.review.place(label) is None:
            raise PromptError(f"Object {label} is not in the list for review: list the doubtful objects again.")

    def decided(self, doubt: Doubt) -> str | None:
        """What became of an object: "kept", "corrected", "being corrected" or "deleted"; None if it is open."""
        if self.correcting == Correction(self.review.key, doubt.label):
            return CORRECTING
        verdict = self.verdicts.get(doubt.label)
        if verdict != CORRECTED and not self._pixels(self.review.key, doubt):
            return DELETED
        return verdict

    def open_doubts(self) -> list[Doubt]:
        """The objects that nobody has decided about."""
        return [doubt for doubt in self.review.doubts if self.decided(doubt) is None]

    def _pixels(self, key: str, doubt: Doubt) -> int:
        """How many pixels an object has where it was found."""
        labels = self.labels.get(key)
        return 0 if labels is None else int(np.count_nonzero(labels[doubt.window] == doubt.label))

    # What other steps change in it

    def _corrected_values(self, key: str, label: int) -> dict[str, Any]:
        """An object was corrected."""
        listed = key == self.review.key and self.review.place(label) is not None
        return {"verdicts": {**self.verdicts, label: CORRECTED}} if listed else {}

    def _replaced_values(self, key: str) -> dict[str, Any]:
        """Labels were replaced by others: the list is out of date."""
        return {"review": Review(), "verdicts": {}} if key == self.review.key else {}

    def _committed_values(self, key: str, ids: Mapping[int, int]) -> dict[str, Any]:
        """Labels were committed under other ids: the list goes with them."""
        if key != self.review.key:
            return {}
        verdicts = {ids[label]: verdict for label, verdict in self.verdicts.items() if label in ids}
        return {"review": self.review.renamed(COMMITTED, ids), "verdicts": verdicts}
