"""Committing the current objects, and clearing them."""

from __future__ import annotations

from typing import Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.session import edits
from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.objects import ObjectEdits
from micro_sam.sam_annotator.session.options import Options
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.reviewing import Reviewing
from micro_sam.sam_annotator.session.state import COMMITTED, CURRENT, OF_CURRENT, START, count


class Committing(ObjectEdits, Reviewing):
    """Committing the current objects, and clearing them."""

    options: Options

    def commit(self, key: str = CURRENT) -> edits.Commit | None:
        """Commit the current objects, or those of another label array; a corrected object goes back where it was.

        Returns:
            What was committed and what not; None for a corrected object.

        Raises:
            PromptError: There is nothing to commit.
        """
        if key == CURRENT and self.correcting is not None:
            self._commit_correction()
            return None
        window = self.window(key)
        if window is None:
            raise PromptError("There is nothing to commit: segment an object first.")
        done = edits.commit(
            self.labels[COMMITTED],
            self.labels[key][window],
            window,
            self.options.preserve_mode,
            self.options.preservation_threshold,
            self._first_id(key),
        )
        if not done.ids:
            percent = round(100 * self.options.preservation_threshold)
            raise PromptError(
                f"Not committed: it lies on committed objects (by more than {percent} %); change it, or what is preserved."
            )
        written = Diff.between(COMMITTED, done.window, self.labels[COMMITTED][done.window], done.block)
        values = self._commit_values(key, done)
        details = {"ids": list(done.ids.values()), "refused": len(done.refused), "preserve": self.options.preserve_mode}
        text = f"Committed {count(len(done.ids), 'object')}"
        self.do("commit", text, values, [written, *self._all_emptied(key)], details)
        return done

    def _first_id(self, key: str) -> int:
        """The id of the first object of a label array when it is committed."""
        return self.next_id(COMMITTED)

    def _commit_values(self, key: str, done: edits.Commit) -> dict[str, Any]:
        """The values that change with a commit."""
        return {"prompts": Prompts()} if key == CURRENT else self._committed_values(key, done.ids)

    def _cleared_values(self) -> dict[str, Any]:
        """The values when there are no annotations."""
        return {"prompts": Prompts(), "correcting": None}

    def _commit_correction(self) -> None:
        key, label = self.correcting.key, self.correcting.label
        window = self.window(CURRENT)
        if window is None:
            raise PromptError("The corrected object is empty: add a prompt, clear it with Shift+C, or delete it.")
        mask = self.labels[CURRENT][window] != 0
        written = self._edit(key, edits.write_back(self.labels[key], label, mask, window))
        details = {"ids": [label] if key == COMMITTED else [], "labels": key, "label": label}
        self.do(
            "commit",
            f"Corrected object {label}",
            {**self._cleared_values(), **self._corrected_values(key, label)},
            [written, *self._all_emptied(CURRENT)],
            details,
        )

    def clear(self) -> None:
        """Remove prompts and current objects; an object that was being corrected goes back as it was."""
        back = self._put_back() if self.correcting is not None else None
        diffs = [back, *self._all_emptied(CURRENT)]
        if self.prompts or any(diffs):
            self.do("clear", "Cleared the annotations", self._cleared_values(), diffs)

    def _put_back(self) -> Diff | None:
        window = self.window(START)
        if window is None:
            return None
        mask = self.labels[START][window] != 0
        labels = self.labels[self.correcting.key]
        return self._edit(self.correcting.key, edits.write_back(labels, self.correcting.label, mask, window))

    def _all_emptied(self, key: str) -> list[Diff | None]:
        """What empties a label array, and for the current object all that belongs to it."""
        return [self._emptied(k) for k in (OF_CURRENT if key == CURRENT else (key,)) if k in self.labels]

    def _emptied(self, key: str) -> Diff | None:
        window = self.window(key)
        if window is None:
            return None
        block = self.labels[key][window]
        return Diff.between(key, window, block, np.zeros_like(block))

    def empty(self, key: str, text: str) -> None:
        """Remove everything from a label array."""
        diff = self._emptied(key)
        if diff is not None:
            self.do("clear", text, diffs=[diff])

    def finished_labels(self) -> np.ndarray:
        """The committed labels, with an object that is being corrected as it was before."""
        labels = self.labels[COMMITTED].copy()
        if self.correcting is not None and self.correcting.key == COMMITTED:
            labels[(self.labels[START] != 0) & (labels == 0)] = self.correcting.label
        return labels
