"""Saving the labels of a series, image by image."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from micro_sam.errors import MicroSamError, PromptError
from micro_sam.sam_annotator.control.series_base import SeriesBase
from micro_sam.sam_annotator.jobs import Job

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.series_record import State

logger = logging.getLogger(__name__)

SAVE = "series save"


class SeriesSaving(SeriesBase):
    """Saving the labels of a series, image by image."""

    def _save(self, state: State | None, then: Callable[[], None]) -> None:
        """Save labels if something changed, or if the image is done; go on when that worked."""
        session, index = self.controller.session, self.index
        if self._opened is None or session.image is None:
            then()
            return
        if session.generation == self._saved and state in (None, self.series.state(index)):
            then()
            return
        if session.generation == self._saved and state != "done":
            self.series.mark(index, state)
            then()
            return
        generation, work = session.generation, self._saving(state)

        def saved(_: Any) -> None:
            session.note("saved", self.series.saved_note(index))
            self._saved = generation
            then()

        self.jobs.start(
            Job(SAVE, lambda: work, on_progress=self._on_progress, on_done=saved, on_error=self._on_unsaved)
        )

    def _saving(self, state: State | None = None) -> Any:
        session, opened = self.controller.session, self._opened
        labels = session.finished_labels()
        if labels.shape != opened.image.shape:
            raise PromptError(
                f"The labels have the shape {labels.shape}, but '{self.series.file_name(self.index)}' has "
                f"{opened.image.shape}, because its layer was given other data; undo that, or close the window."
            )
        unit = opened.unit or self.controller.layers.units()
        scale, origins = session.image.scale, dict(session.origins)
        return self.series.iter_save(self.index, labels, origins, scale, unit, session.journal_folder, state)

    def _on_unsaved(self, sentence: str) -> None:
        """Labels could not be saved: stay here."""
        self._set_moving(False)
        self._show_states()
        self.controller.show_error(f"{sentence} You are still at this image; nothing is lost.")

    def _save_now(self) -> None:
        """Save before the window goes."""
        session = self.controller.session
        if self._opened is None or session.image is None or session.generation == self._saved:
            return
        try:
            for _ in self._saving():
                pass
            session.note("saved", self.series.saved_note(self.index))
        except MicroSamError as error:
            logger.error("%s The work is kept in the journal '%s'.", error, session.journal_folder)
