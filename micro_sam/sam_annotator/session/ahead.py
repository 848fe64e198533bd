"""The next image of a series: read and encoded while the current one is annotated, and never in its way."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, Ready, iter_prepare

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.sam_annotator.session.series import Opened, Series

_POLL_SECONDS = 0.05
_NICE = 10

Work = Generator["Progress | Ready", None, Any]


class Ahead:
    """Prepares one image in a thread of low priority. It waits while something is computed for the current image.

    Args:
        series: The images.
        index: Which of them.
        choice: How embeddings are computed.
        predictor: The model.
        is_busy: Whether something is computed for the current image; asked from the thread.
        focus: Tells what is looked at, once the image is the current one.
    """

    def __init__(
        self,
        series: Series,
        index: int,
        choice: EmbeddingChoice,
        predictor: SamPredictor,
        is_busy: Callable[[], bool],
        focus: Callable[[], tuple[float, ...] | None],
    ) -> None:
        self.index, self.choice, self.predictor = index, choice, predictor
        self._series, self._is_busy, self._focus = series, is_busy, focus
        self.opened: Opened | None = None
        self.was_read = False
        self.embeddings: ImageEmbeddings | None = None
        self._store: ImageEmbeddings | None = None
        self._progress = Progress(0, 0, "Compute embeddings")
        self._wanted, self._stop = threading.Event(), threading.Event()
        self._started, self._ended = threading.Event(), threading.Event()

    def fits(self, index: int, choice: EmbeddingChoice, predictor: Any) -> bool:
        """Whether this is what is needed now."""
        return self.index == index and self.choice == choice and self.predictor is predictor

    def stop(self) -> None:
        """End at the next step; what is on disk can be resumed."""
        self._stop.set()

    @property
    def is_running(self) -> bool:
        """Whether the thread is at work."""
        return self._started.is_set() and not self._ended.is_set()

    def iter_run(self) -> Work:
        """Read the image and compute its embeddings."""
        self._started.set()
        _lower_priority()
        try:
            yield from self._iter_wait()
            if self._stop.is_set():
                return
            self.opened = opened = yield from self._series.iter_open(self.index)
            self.was_read = True
            yield from self._iter_encode(opened)
        finally:
            self._ended.set()

    def take_opened(self) -> Opened | None:
        """The image, if it is read; it is handed out once, because what is known of it changes from then on."""
        opened, self.opened = self.opened, None
        return opened

    def _iter_encode(self, opened: Opened) -> Work:
        work = iter_prepare(opened.image, self.choice, self.predictor, self._where)
        try:
            while not self._stop.is_set():
                yield from self._iter_wait()
                try:
                    value = next(work)
                except StopIteration as stop:
                    self.embeddings = stop.value
                    return
                if isinstance(value, Ready):
                    self._store = value.embeddings
                else:
                    self._progress = value
                yield value
        finally:
            work.close()

    def _where(self) -> tuple[float, ...] | None:
        return self._focus() if self._wanted.is_set() else None

    def _iter_wait(self) -> Work:
        while self._is_busy() and not self._wanted.is_set() and not self._stop.is_set():
            time.sleep(_POLL_SECONDS)
            yield Progress(0, 0)

    def iter_take(self, otherwise: Callable[[], Work]) -> Work:
        """Wait for the embeddings, because the image is the current one now; a part of them is handed out before.

        Args:
            otherwise: Computes them, if that went wrong here.
        """
        self._wanted.set()
        told = False
        try:
            while self.is_running:
                if self._store is not None and not told:
                    told = True
                    yield Ready(self.predictor, self._store)
                yield self._progress
                self._ended.wait(_POLL_SECONDS)
        except GeneratorExit:
            self.stop()
            raise
        if self.embeddings is None:
            return (yield from otherwise())
        yield Ready(self.predictor, self.embeddings)
        return self.embeddings

    def iter_end(self) -> Work:
        """Stop, and wait until nothing is computed any more."""
        self.stop()
        while self.is_running:
            yield Progress(0, 0, "Wait for the work on another image to stop")
            self._ended.wait(_POLL_SECONDS)


def _lower_priority() -> None:
    """Let this thread, and those that it starts, compute with what others leave; where the system knows such a thing."""
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        except OSError:
            pass
