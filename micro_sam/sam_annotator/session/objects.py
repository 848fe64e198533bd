"""Changing objects that exist: correct, delete, merge, split, fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError, PromptError
from micro_sam.sam_annotator.session import edits
from micro_sam.sam_annotator.session.diff import Diff, Window, bounding_window
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.state import CURRENT, START, Correction, SessionState, count


class ObjectEdits(SessionState):
    """Changing objects that exist: correct, delete, merge, split, fill."""

    def window(self, key: str) -> Window | None:
        """The block that holds everything in a label array; None if it is empty."""
        return bounding_window(self.labels[key])

    def has(self, key: str) -> bool:
        """Whether there is anything in a label array."""
        return key in self.labels and bool(self.labels[key].any())

    def correct(self, key: str, label: int) -> None:
        """Take an object out of its labels and make it the current object, to be corrected with prompts.

        Raises:
            PromptError: Another object is not committed yet, or there is no such object.
        """
        if self.correcting is not None:
            self.commit()
        if self.has(CURRENT):
            raise PromptError("There is a current object: commit it with C or clear it with Shift+C first.")
        window = edits.window_of(self.labels[key], label)
        block = self.labels[key][window]
        mask = (block == label).astype(np.uint8)
        taken = self._edit(key, edits.delete(self.labels[key], label))
        made = [self._edit(name, (window, mask.astype(self.labels[name].dtype))) for name in (CURRENT, START)]
        values = {"correcting": Correction(key, int(label)), "prompts": Prompts()}
        self.do(
            "correct",
            f"Took object {label} to correct it",
            values,
            [taken, *made],
            {"labels": key, "label": int(label)},
        )

    def delete(self, key: str, label: int) -> None:
        """Delete an object."""
        self._edited("delete", f"Deleted object {label}", key, edits.delete(self.labels[key], label), label=int(label))

    def merge(self, key: str, ids: Sequence[int]) -> None:
        """Make several objects one, with the id of the first."""
        edit = edits.merge(self.labels[key], ids)
        text = f"Merged objects {', '.join(str(int(label)) for label in ids)}"
        self._edited("merge", text, key, edit, merged=[int(label) for label in ids])

    def merge_along(self, key: str, stroke_yx: np.ndarray, i: int | None = None) -> None:
        """Merge the objects that a stroke touches."""
        self.merge(key, edits.along(self.labels[key], stroke_yx, i))

    def split_along(self, key: str, stroke_yx: np.ndarray, i: int | None = None) -> None:
        """Cut the objects that a stroke crosses.

        Raises:
            PromptError: It crosses none.
        """
        labels, error = self.labels[key], None
        diffs, parts = [], []
        for label in edits.along(labels, stroke_yx, i):
            try:
                edit, new = edits.split(labels, label, stroke_yx, self.next_id(key) + len(parts))
            except PromptError as refused:
                error = refused
                continue
            diffs.append(self._edit(key, edit))
            parts += new
        if not diffs:
            raise error or PromptError("The stroke touches no object: draw it across the object to split.")
        self.do("split", f"Split {count(len(diffs), 'object')}", diffs=diffs, details={"labels": key, "new": parts})

    def fill(self, key: str, position: Sequence[int]) -> None:
        """Fill the holes of the object at a position, or the hole there."""
        self._edited("fill", "Filled holes", key, edits.fill(self.labels[key], position))

    def next_id(self, key: str) -> int:
        """The id for a new object.

        Raises:
            ParameterError: The array's type has no larger number.
        """
        labels = self.labels[key]
        lifted = self.correcting.label if self.correcting is not None and self.correcting.key == key else 0
        number = max(self._largest(key), lifted) + 1
        if number > np.iinfo(labels.dtype).max:
            raise ParameterError(f"There are no more ids in labels of type {labels.dtype}; convert them to uint32.")
        return number

    def _largest(self, key: str) -> int:
        return int(self.labels[key].max())

    def _edit(self, key: str, edit: edits.Edit) -> Diff | None:
        window, block = edit
        return Diff.between(key, window, self.labels[key][window], block)

    def _edited(self, kind: str, text: str, key: str, edit: edits.Edit, **details: Any) -> None:
        self.do(kind, text, diffs=[self._edit(key, edit)], details={"labels": key, **details})
