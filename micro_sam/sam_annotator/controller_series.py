"""Leads an annotator through a series of images: saves, opens the next, and prepares the one after it."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFormLayout, QWidget

from micro_sam.errors import MicroSamError, PromptError
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import shown
from micro_sam.sam_annotator.jobs import Job, JobRunner
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import POSITIVE, add_image
from micro_sam.sam_annotator.session.ahead import Ahead, Work
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, Ready, iter_prepare
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT, LAYER_PREFIX

if TYPE_CHECKING:
    from micro_sam.sam_annotator.annotator import AnnotatorWidget
    from micro_sam.sam_annotator.session.series import Opened, Series
    from micro_sam.sam_annotator.session.series_record import State
    from micro_sam.sam_annotator.widgets.series_widget import SeriesWidget

logger = logging.getLogger(__name__)

SAVE, OPEN, AHEAD = "series save", "series open", "series ahead"
_KEPT_ITEMS = 64  # planes or tiles whose embeddings are kept in memory, 4 MB each


class SeriesController:
    """One series in one annotator.

    Args:
        annotator: The annotator that works on the images.
        strip: Shows the series.
        series: The images.
        jobs: Runs saving, reading and what is computed ahead; not the runner of the annotator.
        only_open: Next goes to images that are not done yet.
        with_state: Also compute for each image what automatic segmentation needs.
    """

    def __init__(
        self,
        annotator: AnnotatorWidget,
        strip: SeriesWidget,
        series: Series,
        jobs: JobRunner,
        only_open: bool = True,
        with_state: bool = False,
    ) -> None:
        self.annotator, self.strip, self.series, self.jobs = annotator, strip, series, jobs
        self.controller = annotator.controller
        self.only_open, self.with_state = only_open, with_state
        self.index: int | None = None
        self.ahead: Ahead | None = None
        self._opened: Opened | None = None
        self._kept: OrderedDict[tuple, Any] = OrderedDict()
        self._saved: int | None = None
        self._asked: tuple | None = None
        self._problems: list[str] = []
        self._news: list[str] = []
        self._moving = self._closed = False
        self._guide()
        self.keys = Keys({"N": self.next, "Shift-N": self.previous})
        self.keys.bind([self.controller.viewer])

    def _guide(self) -> None:
        """Take over what the annotator does by itself for a single image."""
        controller, strip = self.controller, self.strip
        controller.is_guided = True
        controller.layers.keeps_committed = False
        controller.prepare = self._iter_prepare
        controller.journal_beside = lambda: self.series.journal_beside(self.index)
        controller.embeddings_ready.connect(self._on_ready)
        controller.closing.connect(self.close)
        _hide_row(self.annotator.embedding, self.annotator.embedding.image)
        _hide_row(self.annotator.commit, self.annotator.commit.path)  # one file cannot hold the labels of all images
        self.annotator.insert(strip, before=self.annotator.embedding)
        strip.set_images([self.series.file_name(k) for k in range(len(self.series))])
        strip.next_requested.connect(self.next)
        strip.previous_requested.connect(self.previous)
        strip.skip_requested.connect(self.skip)
        strip.jump_requested.connect(self.jump)
        strip.done_toggled.connect(self.set_done)

    def begin(self) -> None:
        """Open the first image, or the first that is not done."""
        self._set_moving(True)
        if self.only_open and self.series.count("open") == 0:
            self._news.append("All images of the series are done or skipped; click one to look at it again.")
        self._go(self.series.first(self.only_open), 1)

    # From image to image

    @shown
    def next(self) -> None:
        """Save, mark this image as done, and go to the next."""
        if self._can_move and not self._asks_first():
            self._leave("done", self.series.after(self.index, self.only_open), 1)

    @shown
    def skip(self) -> None:
        """Save, mark this image as skipped, and go to the next."""
        if self._can_move:
            self._leave("skipped", self.series.after(self.index, self.only_open), 1)

    @shown
    def previous(self) -> None:
        """Save, and go to the image before."""
        if not self._can_move:
            return
        target = self.series.after(self.index, False, -1)
        if target is None:
            raise PromptError("This is the first image of the series.")
        self._leave(None, target, -1)

    @shown
    def jump(self, index: int) -> None:
        """Save, and go to an image."""
        if not self._moving and index != self.index:
            self.series.unreadable.pop(index, None)
            self._leave(None, index, 0)

    @shown
    def set_done(self, done: bool) -> None:
        """Mark this image as done, or as open again, and stay."""
        if self._can_move:
            self._save("done" if done else "open", self._show_states)

    @property
    def _can_move(self) -> bool:
        return not self._moving and self.index is not None

    def _asks_first(self) -> bool:
        """Whether something is not committed, and this was not said before."""
        session, reason = self.controller.session, None
        if session.image is None:
            return False
        if session.has(CURRENT):
            reason = "The current object is not committed: commit it [C] or clear it [Shift+C]; or press N again."
        elif session.has(AUTO):
            reason = "The automatic segmentation is not committed: press Commit all; or press N again to go on without."
        elif not session.has(COMMITTED):
            reason = (
                "No object is committed here: press N again if there is none, or Skip to leave the image for later."
            )
        asked = (self.index, session.generation, reason)
        if reason is None or asked == self._asked:
            return False
        self._asked = asked
        self.controller.say(reason)
        return True

    def _leave(self, state: State | None, target: int | None, step: int) -> None:
        self._set_moving(True)
        self._save(state, functools.partial(self._go, target, step))

    def _go(self, target: int | None, step: int) -> None:
        """Open an image; the current one stays until it is read."""
        if target is None:
            self._say_end()
            self._stay()
            return
        opened = self.ahead.take_opened() if self.ahead is not None and self.ahead.index == target else None
        if opened is not None:
            self._show(opened)
            return
        self.jobs.start(
            Job(
                OPEN,
                lambda: self.series.iter_open(target),
                on_progress=self._on_progress,
                on_done=self._show,
                on_error=functools.partial(self._on_unreadable, target, step),
            )
        )

    def _on_progress(self, progress: Progress) -> None:
        self.controller.say(f"{progress.text} …")

    def _on_unreadable(self, target: int, step: int, sentence: str) -> None:
        """An image cannot be read: say so, and go to the one behind it."""
        self.series.unreadable[target] = sentence
        self._problems.append(sentence)
        following = self.series.after(target, step > 0 and self.only_open, step) if step else None
        if following is not None:
            self._go(following, step)
            return
        if step > 0 and self.index is not None:
            self._say_end()
        else:
            self.controller.show_error(sentence)
        self._stay()

    def _stay(self) -> None:
        self._set_moving(False)
        self._show_states()
        self._say_problems()

    @shown
    def _show(self, opened: Opened) -> None:
        """Put an image in the place of the one that was annotated."""
        controller, viewer = self.controller, self.controller.viewer
        before = controller.layers.image
        controller.previews.drop()
        if controller.session.image is not None:
            controller.close_image()
        if before is not None and before in viewer.layers:
            viewer.layers.remove(before)
        self.index, self._opened = opened.index, opened
        self.series.note_opened(opened.index)
        choice = replace(self._choice(), path=self.series.embedding_path(opened.index))
        self.annotator.embedding.set_embedding(choice)
        name = _free_name(viewer, self.series.items[opened.index].name)
        layer = add_image(viewer, opened.array, self.series.ndim, name, opened.scale)
        viewer.layers.move(viewer.layers.index(layer), 0)  # below the labels, which stay for all images
        controller.choose_image(layer)
        self._take_up(opened)
        self._begin_with_points()
        viewer.reset_view()
        controller.compute_with(self.annotator.embedding.model_choice(), choice, self.with_state)
        self._stay()

    def _begin_with_points(self) -> None:
        """An image begins with positive points, whatever the last one ended with."""
        controller = self.controller
        if controller.layers.point_label != POSITIVE:
            controller.toggle_label()
        controller.use_prompt_tool("point")

    def _take_up(self, opened: Opened) -> None:
        """Bring back earlier work on the image."""
        session, labels = self.controller.session, opened.labels
        notes, self._news = [*self._news, *opened.notes], []
        if opened.journal is not None:
            try:
                session.resume(opened.journal)
            except MicroSamError as error:
                notes.append(str(error))
                labels = self.series.read_labels(opened.index, opened.image.shape) if labels is None else labels
            else:
                self._show_layers()
                if opened.crashed:
                    notes.append("Your work on this image was interrupted; all of it is back, with its undo history.")
        if labels is not None:
            session.put(COMMITTED, labels, opened.labels_text or "Loaded labels")
        self._saved = session.generation if opened.saved else None
        self.strip.say(" ".join(notes))

    def _show_layers(self) -> None:
        self.controller.show_layers()
        for key, array in self.controller.session.labels.items():
            if key.startswith(LAYER_PREFIX):
                self.controller.layers.add_foreign(key.removeprefix(LAYER_PREFIX), array)

    # Saving

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

    # Embeddings

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

    def _choice(self) -> EmbeddingChoice:
        return self.annotator.embedding.embedding_choice()

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

    # What is shown

    def _set_moving(self, moving: bool) -> None:
        self._moving = moving
        self.strip.set_moving(moving)

    def _show_states(self) -> None:
        series = self.series
        states = ["unreadable" if k in series.unreadable else series.state(k) for k in range(len(series))]
        self.strip.show_state(states, self.index, [self._detail(k) for k in range(len(series))])

    def _detail(self, index: int) -> str:
        entry = self.series.entry(index)
        if index in self.series.unreadable:
            return self.series.unreadable[index]
        return "" if entry.n_objects is None else f"Objects: {entry.n_objects}."

    def _say_problems(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            self.strip.say(" ".join(problems), is_problem=True)

    def _say_end(self) -> None:
        """Say that this was the last image, and what is left."""
        series = self.series
        left = [k for k in range(len(series)) if series.state(k) == "open" and k not in series.unreadable]
        if left:
            text = f"The end of the series; {len(left)} not done yet: click '{series.file_name(left[0])}' in the list."
        else:
            parts = [f"{series.count('done')} of {len(series)} images are done"]
            parts += [f"{series.count('skipped')} skipped"] if series.count("skipped") else []
            parts += [f"{len(series.unreadable)} cannot be read"] if series.unreadable else []
            text = f"The end of the series: {', '.join(parts)}. Labels lie in '{series.folder.name}'."
        self.controller.say(text, "done")
        self.strip.say(text)
        if self._problems:
            self._problems.insert(0, text)

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        if self._moving:
            self._set_moving(False)
        self.controller.show_error(text)

    def close(self) -> None:
        """Save, and let go of everything."""
        if self._closed:
            return
        self._closed = True
        self._save_now()
        if self.ahead is not None:
            self.ahead.stop()
        self.jobs.close()
        self.keys.close()
        self.series.close()


def _hide_row(section: QWidget, widget: QWidget) -> None:
    for form in section.findChildren(QFormLayout):
        if form.indexOf(widget) >= 0:
            form.setRowVisible(widget, False)


def _free_name(viewer: Any, name: str) -> str:
    taken, number, found = {layer.name for layer in viewer.layers}, 1, name
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found
