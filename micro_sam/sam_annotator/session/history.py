"""Undo and redo: the steps that were made, as far back as memory allows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from micro_sam.sam_annotator.session.diff import Diff

MEMORY_LIMIT = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Step:
    """Something a person did, that can be undone as one.

    Attributes:
        number: Its number in the journal.
        kind: What it was: "prompts", "segment", "commit", "paint", ...
        text: The same for a person to read.
        values: Small values of the session that changed: name -> (before, after).
        diffs: How label arrays changed, in this order.
        details: Whatever else the journal should say: model, scores, parameters.
    """

    number: int
    kind: str
    text: str
    values: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    diffs: tuple[Diff, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return 500 + sum(diff.n_bytes for diff in self.diffs)

    def amended(self, diffs: tuple[Diff, ...]) -> Step:
        """The step with further changes that belong to it."""
        return replace(self, diffs=self.diffs + diffs)


class History:
    """The steps that can be undone and redone.

    Args:
        memory_limit: How many bytes steps may take; the oldest are forgotten (they stay in the journal).
    """

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self._limit = memory_limit
        self._done: deque[Step] = deque()
        self._undone: list[Step] = []

    @property
    def last(self) -> Step | None:
        """The step that `undo` would take back."""
        return self._done[-1] if self._done else None

    @property
    def next(self) -> Step | None:
        """The step that `redo` would make again."""
        return self._undone[-1] if self._undone else None

    def __len__(self) -> int:
        return len(self._done)

    def push(self, step: Step) -> None:
        """A new step was made; what was undone before cannot be redone any more."""
        self._done.append(step)
        self._undone.clear()
        self._forget_oldest()

    def amend(self, diffs: tuple[Diff, ...]) -> Step:
        """Further changes belong to the last step."""
        self._done[-1] = self._done[-1].amended(diffs)
        self._forget_oldest()
        return self._done[-1]

    def _forget_oldest(self) -> None:
        size = sum(step.n_bytes for step in self._done)
        while size > self._limit and len(self._done) > 1:
            size -= self._done.popleft().n_bytes

    def undo(self) -> Step | None:
        """The last step, which the caller takes back."""
        if not self._done:
            return None
        self._undone.append(self._done.pop())
        return self._undone[-1]

    def redo(self) -> Step | None:
        """The step that was undone last, which the caller makes again."""
        if not self._undone:
            return None
        self._done.append(self._undone.pop())
        return self._done[-1]
