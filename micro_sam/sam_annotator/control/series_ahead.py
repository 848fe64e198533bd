"""The embeddings of a series: those that are kept, and those of the next image, computed while one works."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from micro_sam.sam_annotator.control.series_base import SeriesBase
from micro_sam.sam_annotator.jobs import Job
from micro_sam.sam_annotator.session.ahead import Ahead, Work
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, Ready, iter_prepare

AHEAD = "series ahead"
_KEPT_ITEMS = 64  # planes or tiles whose embeddings are kept in memory, 4 MB each


class SeriesAhead(SeriesBase):
    """The embeddings of a series: those that are kept, and those of the next image, computed while one works."""

    def _iter_prepare(self, image: Any, choice: EmbeddingChoice, model: Any, focus: Any = None) -> Work:
        """Embeddings of the current image: those that were kept, those computed ahead, or new ones."""
        index, ahead = self.index, self.ahead
        kept = self._kept.get((index, choice, id(model)))
        if kept is not None:
            yield Ready(model, kept)
            return kept
        if ahead is not None and ahead.fits(index, choice, model):
            return (yield from ahead.iter_take(lambda: iter_prepare(image, choice, model, focus)))
        if ahead is not None:
            yield from ahead.iter_end()
        return (yield from iter_prepare(image, choice, model, focus))

    def _on_ready(self) -> None:
        self._keep()
        self.annotator.later(self._look_ahead)

    def _keep(self) -> None:
        """Keep embeddings that lie in memory only, as many as is reasonable, for when one comes back."""
        session, choice = self.controller.session, self._choice()
        items = getattr(getattr(session.embeddings, "metadata", None), "n_items", None)
        if choice.path is not None or items is None or items > _KEPT_ITEMS:
            return
        self._kept[(self.index, choice, id(session.predictor))] = session.embeddings
        while sum(store.metadata.n_items for store in self._kept.values()) > _KEPT_ITEMS:
            self._kept.popitem(last=False)

    def _look_ahead(self) -> None:
        """Prepare the next image."""
        target = None if self._closed or not self._can_move else self.series.after(self.index, self.only_open)
        predictor = self.controller.session.predictor
        if target is None or predictor is None:
            return
        choice = replace(self._choice(), path=self.series.embedding_path(target))
        if self.ahead is not None:
            if self.ahead.fits(target, choice, predictor):
                return
            self.ahead.stop()
        if (target, choice, id(predictor)) in self._kept:
            return
        controller = self.controller
        self.ahead = Ahead(self.series, target, choice, predictor, self._is_busy, controller.layers.focus)
        on_error = functools.partial(self._on_ahead_failed, self.ahead)
        self.jobs.start(Job(AHEAD, self.ahead.iter_run, on_error=on_error))

    def _on_ahead_failed(self, ahead: Ahead, sentence: str) -> None:
        """An image that cannot be read is known before one comes to it; other errors are shown when one does."""
        if self._closed or ahead.was_read:
            return
        self.series.unreadable[ahead.index] = sentence
        self._problems.append(sentence)
        self._show_states()
        if self._can_move:
            self._look_ahead()

    def _is_busy(self) -> bool:
        return self.controller.jobs.is_running() or self.controller.previews.is_busy
