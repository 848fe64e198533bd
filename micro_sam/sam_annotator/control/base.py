"""What all parts of a controller share: who it knows, what is shown, and starting long work."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from micro_sam.errors import MicroSamError
from micro_sam.progress import Progress
from micro_sam.sam_annotator.jobs import Job, JobRunner, sentence
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import AnnotatorLayers
from micro_sam.sam_annotator.previews import Previews
from micro_sam.sam_annotator.session.automatic import AutomaticSegmentation
from micro_sam.sam_annotator.session.loading import ModelChoice, iter_prepare
from micro_sam.sam_annotator.session.recovery import Unfinished
from micro_sam.sam_annotator.session.session import AnnotationSession

if TYPE_CHECKING:
    from napari import Viewer

    from micro_sam.sam_annotator.tools import CanvasTools
    from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

logger = logging.getLogger(__name__)

EMBEDDINGS, AUTOMATIC, SAVING, RECOVERY, MODEL = "embeddings", "automatic", "saving", "recovery", "model"
EXPORTING, IMPORTING, REVIEW = "exporting", "importing", "review"
_OTHER_SLOTS = (SAVING, MODEL, EXPORTING, IMPORTING)


def shown(method: Callable) -> Callable:
    """What goes wrong in a handler is shown in the window, in a sentence."""

    @functools.wraps(method)
    def guarded(self: Control, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            if not isinstance(error, MicroSamError):
                logger.exception("Unexpected error")
            self.show_error(sentence(error))
            return None

    return guarded


class Control:
    """One annotator in one viewer: everything that a controller knows. Its parts are mixed in."""

    viewer: Viewer
    panel: AnnotatorPanel
    layers: AnnotatorLayers
    tools: CanvasTools
    session: AnnotationSession
    jobs: JobRunner
    previews: Previews
    automatic: AutomaticSegmentation
    keys: Keys
    unfinished: Unfinished | None
    _loaded: ModelChoice | None
    _commit_when_answered: bool
    _mode_wanted: str | None
    _settings_wanted: Mapping[str, Any]
    _message: tuple[str, str] | None
    _closed: bool

    #: Embeddings are complete.
    embeddings_ready = Signal()
    #: The annotator is about to let go of everything.
    closing = Signal()
    #: Loads the model and computes embeddings.
    prepare: Callable = staticmethod(iter_prepare)
    #: The image is chosen, and earlier work on it taken up, by something that leads through several images.
    is_guided: bool = False

    #: Jobs that work on the image.
    image_slots: tuple[str, ...] = (EMBEDDINGS, AUTOMATIC, REVIEW)

    def journal_beside(self) -> str | os.PathLike | None:
        """What the journal is kept beside; None for the cache."""
        return self.panel.embedding.embedding_choice().path

    def update_hint(self) -> None:
        """Show what to do next, unless there is a message."""
        raise NotImplementedError

    def _start(self, slot: str, work: Callable, on_done: Callable | None = None, on_item: Callable | None = None,
               on_end: Callable | None = None) -> None:  # fmt: skip
        def ended() -> None:
            self.panel.status.show_progress(None)
            if on_end is not None:
                on_end()
            self.update_hint()

        self._message = None
        self.panel.status.show_progress(Progress(0, 0))
        self.jobs.start(Job(slot, work, self._on_progress, on_item, on_done, self.show_error, ended))

    def _on_progress(self, progress: Progress) -> None:
        self.panel.status.show_progress(progress)
        if self._message is None and progress.text:
            count = f" ({progress.done} of {progress.total})" if progress.total > 1 else ""
            self.panel.status.say(f"{progress.text}{count} …")
        if progress.done:
            self.previews.retry()

    @shown
    def cancel(self) -> None:
        """Cancel what is running."""
        cancelled = [slot for slot in (*self.image_slots, *_OTHER_SLOTS) if self.jobs.cancel(slot)]
        if cancelled:
            self.say("Cancelled. What was finished is kept.")

    def say(self, text: str, kind: str = "hint") -> None:
        """Show a sentence until the next thing happens."""
        self._message = (text, kind)
        self.panel.status.say(text, kind)

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self.say(text, "error")
