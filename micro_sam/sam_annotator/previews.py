"""Masks for prompts: in a thread, where the latest question wins, or at once where that is quick enough to go unnoticed."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from micro_sam.errors import MicroSamError, StoreError
from micro_sam.sam_annotator.jobs import LatestOnly, sentence
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation

logger = logging.getLogger(__name__)

_QUICK_SECONDS = 0.15

Run = Callable[[Request], Segmentation]


class Previews:
    """Answers requests one after another in a thread; see `InlinePreviews` for one that answers at once."""

    def __init__(self) -> None:
        self._worker: LatestOnly | None = None
        self._run: Run | None = None
        self._on_answer: Callable[[Segmentation, str], None] | None = None
        self._on_error: Callable[[str, str, bool], None] | None = None
        self._waiting: tuple[Request, str] | None = None
        self._open = 0
        self._recent: deque[float] = deque(maxlen=2)

    def start(
        self,
        run: Run,
        on_answer: Callable[[Segmentation, str], None],
        on_error: Callable[[str, str, bool], None],
    ) -> None:
        """Say who answers, and who is told.

        Args:
            run: Answers a request, in the thread.
            on_answer: Called with the answer and the purpose, in the thread of the window.
            on_error: Called with a sentence, the purpose, and whether embeddings are missing that may come.
        """
        self._run, self._on_answer, self._on_error = run, on_answer, on_error
        self._worker = self._make_worker()

    def _make_worker(self) -> LatestOnly:
        return LatestOnly(self._answer, self._told, lambda error: None)

    def ask(self, request: Request, purpose: str) -> None:
        """Ask for a segmentation.

        Args:
            request: What.
            purpose: "live" (prompts changed), "drag" (a prompt is being dragged) or "asked" (the person asked for it).
        """
        self._waiting = None
        if not request.prompts.has_positive and request.start is None and purpose != "asked":
            self.drop()
            self._on_answer(Segmentation(request, ()), purpose)
            return
        self._put((request, purpose))

    def _put(self, question: tuple[Request, str]) -> None:
        is_drag = question[1] == "drag"
        self._open = 0 if is_drag else 1
        if self._is_quick and not is_drag and not self._worker.is_busy:
            self._told(self._answer(question))
        else:
            self._worker.put(question)

    @property
    def _is_quick(self) -> bool:
        """Whether an answer takes no longer than a frame or two: then it is given at once, before anything is drawn."""
        return len(self._recent) == self._recent.maxlen and max(self._recent) < _QUICK_SECONDS

    def _answer(self, question: tuple[Request, str]) -> tuple[Any, Request, str, bool]:
        begin = time.perf_counter()
        answer = _answer(self._run, *question)
        self._recent.append(time.perf_counter() - begin)
        return answer

    def _told(self, answer: tuple[Any, Request, str, bool]) -> None:
        result, request, purpose, waiting = answer
        if purpose != "drag":
            self._open = 0
        if isinstance(result, Segmentation):
            self._on_answer(result, purpose)
            return
        if waiting and purpose != "drag":
            self._waiting = (request, purpose)
        self._on_error(result, purpose, waiting)

    def retry(self) -> None:
        """More embeddings are there: ask again what could not be answered."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._put(waiting)

    def drop(self) -> None:
        """Forget what was asked."""
        self._waiting, self._open = None, 0
        if self._worker is not None:
            self._worker.drop()

    @property
    def is_busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._open)

    def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._run = self._on_answer = self._on_error = self._waiting = None


class InlinePreviews(Previews):
    """Answers at once, for scripts and tests."""

    def _make_worker(self) -> Any:
        return None

    def _put(self, question: tuple[Request, str]) -> None:
        self._told(self._answer(question))


def _answer(run: Run, request: Request, purpose: str) -> tuple[Any, Request, str, bool]:
    try:
        return run(request), request, purpose, False
    except Exception as error:
        if not isinstance(error, MicroSamError):
            logger.exception("Unexpected error")
        return sentence(error), request, purpose, isinstance(error, StoreError)
