"""Leads an annotator through a series of images: saves, opens the next, and prepares the one after it."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFormLayout, QWidget

from micro_sam.errors import MicroSamError, PromptError
from micro_sam.sam_annotator.control.base import shown
from micro_sam.sam_annotator.control.series_ahead import SeriesAhead
from micro_sam.sam_annotator.control.series_saving import SeriesSaving
from micro_sam.sam_annotator.jobs import Job, JobRunner
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import POSITIVE, add_image, free_name
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT, LAYER_PREFIX

if TYPE_CHECKING:
    from micro_sam.sam_annotator.annotator import AnnotatorWidget
    from micro_sam.sam_annotator.session.ahead import Ahead
    from micro_sam.sam_annotator.session.series import Opened, Series
    from micro_sam.sam_annotator.session.series_record import State
    from micro_sam.sam_annotator.widgets.series_widget import SeriesWidget

OPEN = "series open"


class SeriesController(SeriesSaving, SeriesAhead):
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
        name = free_name(viewer, self.series.items[opened.index].name)
        units = None if opened.unit is None else [opened.unit] * self.series.ndim
        layer = add_image(viewer, opened.array, self.series.ndim, name, opened.scale, units)
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
