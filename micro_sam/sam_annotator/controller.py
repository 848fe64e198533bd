"""Wires session, layers, widgets, jobs and keys of one annotator; the only place that knows all of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings import EmbeddingStore
from micro_sam.errors import MicroSamError, PromptError
from micro_sam.instance_segmentation.settings import SETTINGS, settings_for
from micro_sam.progress import Progress
from micro_sam.sam_annotator.hints import Situation, next_step
from micro_sam.sam_annotator.jobs import Job, JobRunner, sentence
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import NEGATIVE, POSITIVE, AnnotatorLayers, Hit
from micro_sam.sam_annotator.previews import Previews
from micro_sam.sam_annotator.session.automatic import AutomaticSegmentation, default_settings, modes_of
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice, Ready, iter_load_model, iter_prepare
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.recovery import Unfinished, find_unfinished, give_up
from micro_sam.sam_annotator.session.saving import iter_save
from micro_sam.sam_annotator.session.session import AnnotationSession, Options
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT, LAYER_PREFIX

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from micro_sam.sam_annotator.tools import CanvasTools
    from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

logger = logging.getLogger(__name__)

EMBEDDINGS, AUTOMATIC, SAVING, RECOVERY, MODEL = "embeddings", "automatic", "saving", "recovery", "model"


def shown(method: Callable) -> Callable:
    """What goes wrong in a handler is shown in the window, in a sentence."""

    @functools.wraps(method)
    def guarded(self: AnnotatorController, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            if not isinstance(error, MicroSamError):
                logger.exception("Unexpected error")
            self.show_error(sentence(error))
            return None

    return guarded


class AnnotatorController:
    """One annotator in one viewer.

    Args:
        viewer: The viewer.
        panel: The widgets.
        layers: The layers.
        tools: Clicks and strokes.
        session: What is annotated.
        jobs: Runs long work.
    """

    def __init__(
        self,
        viewer: Viewer,
        panel: AnnotatorPanel,
        layers: AnnotatorLayers,
        tools: CanvasTools,
        session: AnnotationSession,
        jobs: JobRunner,
        previews: Previews,
    ) -> None:
        self.viewer, self.panel, self.layers, self.tools = viewer, panel, layers, tools
        self.session, self.jobs, self.previews = session, jobs, previews
        self.automatic = AutomaticSegmentation()
        self.unfinished: Unfinished | None = None
        self._loaded: ModelChoice | None = None
        self._commit_when_answered = False
        self._mode_wanted: str | None = None
        self._message: tuple[str, str] | None = None
        self._closed = False
        self.keys = Keys(self._key_actions())
        self._links = self._table()
        for signal, slot in self._links:
            signal.connect(slot)
        previews.start(session.run, self._on_answer, self._on_preview_error)
        self._show_options()
        self._on_images_changed()
        self.keys.bind([viewer])
        self.update_hint()

    def _table(self) -> list[tuple[Any, Callable]]:
        """Who listens to what."""
        panel, layers, session = self.panel, self.layers, self.session
        return [
            (panel.status.cancel_requested, self.cancel),
            (panel.banner.restore_requested, self.restore),
            (panel.banner.discard_requested, self.discard),
            (panel.embedding.compute_requested, self.compute),
            (panel.embedding.cancel_requested, self.cancel),
            (panel.embedding.image_chosen, self._on_image_chosen),
            (panel.embedding.model_changed, self._on_model_changed),
            (panel.segment.tool_chosen, self.use_prompt_tool),
            (panel.segment.toggle_requested, self.toggle_label),
            (panel.segment.segment_requested, self.segment),
            (panel.segment.clear_requested, self.clear),
            (panel.segment.options_changed, self._on_options),
            (panel.automatic.run_requested, self.segment_automatically),
            (panel.automatic.commit_requested, self.commit_automatic),
            (panel.automatic.settings_changed, self._on_automatic_settings),
            (panel.automatic.mode_chosen, self._on_mode_chosen),
            (panel.commit.commit_requested, self.commit),
            (panel.commit.save_requested, self.save),
            (panel.commit.options_changed, self._on_options),
            (panel.edit.tool_chosen, self.use_edit_tool),
            (panel.edit.undo_requested, self.undo),
            (panel.edit.redo_requested, self.redo),
            (layers.prompts_changed, self._on_prompts),
            (layers.prompts_dragged, self._on_prompts_dragged),
            (layers.painted, self._on_painted),
            (layers.replaced, self._on_labels_replaced),
            (layers.lost, self._on_layers_lost),
            (layers.images_changed, self._on_images_changed),
            (layers.image_replaced, self._on_image_replaced),
            (self.tools.clicked, self._on_click),
            (self.tools.stroked, self._on_stroke),
            (session.labels_changed, self._on_labels),
            (session.stepped, self._on_stepped),
            (session.journal_failed, self.show_error),
            (session.events.prompts, layers.write_prompts),
        ]

    def _key_actions(self) -> dict[str, Callable[[], Any]]:
        actions = {
            "S": self.segment,
            "C": self.commit,
            "Shift-C": self.clear,
            "T": self.toggle_label,
            "Control-Z": self.undo,
            "Control-Shift-Z": self.redo,
            "Escape": self.leave_tool,
        }
        for key, tool in (("E", "correct"), ("D", "delete"), ("F", "fill")):
            actions[f"Shift-{key}"] = functools.partial(self.act_under_cursor, tool)
        for key, tool in (("X", "split"), ("M", "merge")):
            actions[f"Shift-{key}"] = functools.partial(self.use_edit_tool, tool)
        return actions

    # The image

    @shown
    def choose_image(self, layer: Image) -> None:
        """Annotate the image of a layer; labels of an earlier image stay as a layer."""
        image = self.layers.read_image(layer)
        if self.session.image is not None:
            self.close_image()
        beside = self.panel.embedding.embedding_choice().path
        self.layers.set_image(layer)
        self.session.open(image, beside)
        self.automatic.forget()
        self._show_whether_ready()
        self.show_layers()
        self._look_for_unfinished()
        self._on_images_changed()
        self.update_hint()

    def close_image(self) -> None:
        """End work on the image that is annotated: jobs are cancelled, committed labels stay as a layer."""
        for slot in (EMBEDDINGS, AUTOMATIC):
            self.jobs.cancel(slot)
        if self.session.correcting is not None:
            self.session.clear()
        self.session.close_journal()
        self.layers.retire()
        self.session.image = self.session.embeddings = None
        self.panel.banner.hide()

    def show_layers(self) -> None:
        """Make layers that are missing, and bind the keys in them."""
        self.layers.show(self.session.labels)
        self.layers.write_prompts(self.session.prompts)
        self.keys.bind([layer for layer in (*self.layers.own(), self.layers.image) if layer is not None])
        self._show_tool()

    def _on_images_changed(self) -> None:
        layers = self.layers.image_layers()
        current = self.layers.image
        if current is None and self.session.image is None and len(layers) == 1:
            self.panel.later(self._choose_only_image)
        self.panel.embedding.set_images([layer.name for layer in layers], None if current is None else current.name)
        self.update_hint()

    def _choose_only_image(self) -> None:
        layers = self.layers.image_layers()
        if self.layers.image is None and self.session.image is None and len(layers) == 1:
            self.choose_image(layers[0])

    def _on_image_chosen(self, name: str) -> None:
        layer = next((layer for layer in self.layers.image_layers() if layer.name == name), None)
        if layer is not None and layer is not self.layers.image:
            self.choose_image(layer)

    @shown
    def _on_image_replaced(self) -> None:
        """The data of the image layer was replaced: labels are kept where they fit, embeddings are not."""
        layer = self.layers.image
        layer.metadata.pop("micro_sam_array", None)
        image = self.layers.read_image(layer)
        self.jobs.cancel(EMBEDDINGS)
        self.jobs.cancel(AUTOMATIC)
        if image.shape != self.session.labels[COMMITTED].shape:
            self.choose_image(layer)
        else:
            self.session.image, self.session.embeddings = image, None
            self.automatic.forget()
            self._show_whether_ready()
        self.say("The image changed: compute its embeddings again.")

    @shown
    def _on_layers_lost(self, names: list[str]) -> None:
        self.panel.later(functools.partial(self._bring_back, names))

    def _bring_back(self, names: list[str]) -> None:
        if self._closed or self.layers.image is None or self.session.image is None:
            return
        self.show_layers()
        if not self.layers.read_prompts() and self.session.prompts:
            self.layers.write_prompts(self.session.prompts)
        self.say(f"The annotator needs the layer {', '.join(names)}, so it is back. Objects are removed with Shift+D.")

    # Model and embeddings

    @shown
    def compute(self) -> None:
        """Compute the embeddings of the image that is chosen."""
        if self.jobs.is_running(EMBEDDINGS):
            return
        if self.session.image is None:
            self._choose_named_image()
        if self.session.image is None:
            raise PromptError("There is no image: drag a file into the window first.")
        self.compute_with(self.panel.embedding.model_choice(), self.panel.embedding.embedding_choice())

    def _choose_named_image(self) -> None:
        layers = self.layers.image_layers()
        name = self.panel.embedding.image.currentText()
        layer = next((layer for layer in layers if layer.name == name), layers[0] if layers else None)
        if layer is not None:
            self.choose_image(layer)

    def compute_with(self, model: ModelChoice, choice: EmbeddingChoice, with_state: bool = False) -> None:
        """Load a model if it is not loaded, and compute embeddings, both beside the window.

        Args:
            model: The model.
            choice: How to compute.
            with_state: Then also compute what automatic segmentation needs.
        """
        session = self.session
        predictor = session.predictor if self._loaded == model else model
        self.automatic.forget()
        self.panel.embedding.set_running(True)
        self._start(
            EMBEDDINGS,
            lambda: iter_prepare(session.image, choice, predictor, self.layers.focus),
            on_item=functools.partial(self._on_ready, model),
            on_done=functools.partial(self._on_embeddings, with_state),
            on_end=self._on_embedding_end,
        )

    def _on_embedding_end(self) -> None:
        self.panel.embedding.set_running(False)
        self._show_whether_ready()

    def _show_whether_ready(self) -> None:
        complete = getattr(self.session.embeddings, "is_complete", self.session.embeddings is not None)
        current = self._loaded == self.panel.embedding.model_choice()
        self.panel.embedding.set_ready(bool(complete and current and not self.jobs.is_running(EMBEDDINGS)))

    def use_embeddings(self, embeddings: Any, model: ModelChoice, with_state: bool = False) -> None:
        """Use embeddings that are there already, and load the model for them."""

        def loaded(predictor: Any) -> None:
            self._on_ready(model, Ready(predictor))
            self._on_embeddings(with_state, embeddings)

        self._start(MODEL, lambda: iter_load_model(model), on_done=loaded)

    def _on_ready(self, model: ModelChoice, ready: Ready) -> None:
        if ready.predictor is not self.session.predictor:
            self._loaded = model
            self.session.predictor = ready.predictor
            self._show_modes()
        if ready.embeddings is not None:
            self.session.embeddings = ready.embeddings
        self.update_hint()

    @shown
    def _on_embeddings(self, with_state: bool, embeddings: Any) -> None:
        if isinstance(embeddings, EmbeddingStore):
            embeddings.check_model(self.session.predictor)
        self.session.embeddings = embeddings
        self._show_whether_ready()
        if with_state:
            self._prepare_automatic()
        self.say("The embeddings are ready: click an object, or draw a box around it.", "done")
        self.previews.retry()

    def _on_model_changed(self) -> None:
        self._show_whether_ready()
        if self.session.embeddings is not None and self._loaded != self.panel.embedding.model_choice():
            self.say("The model changed: compute embeddings to use it. Your labels stay.")

    # Prompts and previews

    @shown
    def _on_prompts(self, prompts: Prompts) -> None:
        self._message = None
        if self.session.image is None or self.session.set_prompts(prompts) is None:
            return
        if self.session.options.live and self.session.can_segment:
            self._preview(self.session.prompts)

    def _preview(self, prompts: Prompts) -> None:
        request = self.session.request(self.layers.current_slice(), prompts)
        self.previews.ask(request, "live")

    def _on_prompts_dragged(self, prompts: Prompts) -> None:
        if self.session.options.live and self.session.can_segment and prompts.has_positive:
            self.previews.ask(self.session.request(self.layers.current_slice(), prompts), "drag")

    @shown
    def segment(self) -> None:
        """Segment what the prompts in this plane say."""
        self._message = None
        if not self.session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        self.previews.ask(self.session.request(self.layers.current_slice()), "asked")

    @shown
    def _on_answer(self, answer: Any, purpose: str) -> None:
        if purpose == "drag":
            self.session.show_segmentation(answer)
            return
        self.session.accept(answer, live=purpose == "live")
        if self._commit_when_answered:
            self._commit_when_answered = False
            self.commit()
        self.update_hint()

    def _on_preview_error(self, error: str, purpose: str, waiting: bool) -> None:
        self._commit_when_answered = False
        if waiting and self.jobs.is_running(EMBEDDINGS):
            self.say("The model has not looked at this place yet; the mask appears as soon as it has.")
        elif purpose != "drag":
            self.show_error(error)

    @shown
    def toggle_label(self) -> None:
        """The next points are negative instead of positive, or the other way round."""
        self.layers.point_label = POSITIVE if self.layers.point_label == NEGATIVE else NEGATIVE
        self.panel.segment.set_label(self.layers.point_label)

    @shown
    def use_prompt_tool(self, tool: str) -> None:
        """Make a tool for prompts active."""
        self.tools.use(None)
        self.layers.use(tool)
        self._show_tool(tool)
        self.update_hint()

    def _show_tool(self, tool: str = "point") -> None:
        self.panel.segment.set_tool(None if self.tools.tool else tool)
        self.panel.edit.set_tool(self.tools.tool)

    # Commit, clear, undo

    @shown
    def commit(self) -> None:
        """Commit the current object; if its mask is still being computed, as soon as it is there."""
        self._message = None
        if self.previews.is_busy:
            self._commit_when_answered = True
            return
        done = self.session.commit(CURRENT)
        self._after_commit(done)

    @shown
    def commit_automatic(self) -> None:
        """Commit the automatic segmentation."""
        self._message = None
        self._after_commit(self.session.commit(AUTO))

    def _after_commit(self, done: Any) -> None:
        text = self.session.history.last.text
        left_out = 0 if done is None else len(done.refused)
        if left_out:
            text += f"; {left_out} left out because they lie on committed ones"
        self.say(f"{text}. Click the next object.", "done")
        if self.session.options.commit_path is not None:
            self.save(self.session.options.commit_path)

    @shown
    def clear(self) -> None:
        """Remove prompts and the current object."""
        self._message = None
        self.previews.drop()
        self.session.clear()

    @shown
    def undo(self) -> None:
        """Take back the last step."""
        self.previews.drop()
        step = self.session.undo()
        self.say(f"Taken back: {step.text.lower()}." if step else "There is nothing to undo.")

    @shown
    def redo(self) -> None:
        """Make the step again that was taken back last."""
        self.previews.drop()
        step = self.session.redo()
        self.say(f"Made again: {step.text.lower()}." if step else "There is nothing to redo.")

    # Automatic segmentation

    def _show_modes(self) -> None:
        predictor = self.session.predictor
        modes = modes_of(predictor)
        mode = self._mode_wanted if self._mode_wanted in modes else modes[0]
        self.panel.automatic.set_modes(modes, mode)
        self.panel.automatic.set_settings(default_settings(mode, predictor.model_name))

    def prefer_mode(self, mode: str | None) -> None:
        """The mode to begin with, if the model can do it."""
        self._mode_wanted = mode

    def _on_mode_chosen(self, mode: str) -> None:
        if mode in SETTINGS:
            name = getattr(self.session.predictor, "model_name", None)
            self.panel.automatic.set_settings(default_settings(mode, name) if name else settings_for(mode))

    @shown
    def segment_automatically(self) -> None:
        """Segment all objects of this plane."""
        session, i = self.session, self.layers.current_slice()
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        settings = self.panel.automatic.settings()
        self._start(
            AUTOMATIC,
            lambda: self.automatic.iter_segment(session.image, session.predictor, session.embeddings, settings, i),
            on_done=functools.partial(self._on_automatic, settings, i),
        )

    def _prepare_automatic(self) -> None:
        """Do the expensive part of automatic segmentation ahead of time."""
        session, settings = self.session, self.panel.automatic.settings()
        self._start(
            AUTOMATIC,
            lambda: self.automatic.iter_prepare(
                session.image, session.predictor, session.embeddings, settings, self.layers.current_slice()
            ),
        )

    @shown
    def _on_automatic(self, settings: Any, i: int | None, labels: np.ndarray) -> None:
        found = int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
        details = {
            "mode": settings.mode,
            "settings": {**settings.init_kwargs(), **settings.generate_kwargs()},
            "found": found,
        }
        self.session.put(AUTO, labels, f"Segmented automatically: {found} objects", i, kind="automatic", **details)
        self.say(f"{found} objects found. Commit all, change parameters, or correct single ones [Shift+E].", "done")

    def _on_automatic_settings(self) -> None:
        if self.session.labels and self.session.labels[AUTO].any():
            self.segment_automatically()

    # Objects that exist

    @shown
    def use_edit_tool(self, tool: str) -> None:
        """Make an edit tool active; the active one is ended."""
        self._message = None
        if self.tools.tool == tool:
            self.leave_tool()
            return
        self.tools.use(tool)
        self.layers.rest()
        self._show_tool()
        self.update_hint()

    @shown
    def leave_tool(self) -> None:
        """Go back to placing points."""
        if self.tools.tool is not None:
            self.use_prompt_tool("point")

    @shown
    def act_under_cursor(self, tool: str) -> None:
        """Use a click tool on the object under the mouse."""
        self._on_click(tool, tuple(self.viewer.cursor.position))

    @shown
    def _on_click(self, tool: str, position: Any) -> None:
        self._message = None
        hit = self._hit(position)
        if tool == "fill":
            self.session.fill(self._key(hit), hit.position)
        elif hit.label == 0:
            raise PromptError("There is no object here: click into one.")
        elif tool == "delete":
            self.session.delete(self._key(hit), hit.label)
        elif tool == "correct":
            self.previews.drop()
            self.session.correct(self._key(hit), hit.label)
            self.use_prompt_tool("point")
        self.update_hint()

    @shown
    def _on_stroke(self, tool: str, path: Any) -> None:
        self._message = None
        stroke, i = self.layers.to_plane(path)
        hits = [self._hit(position) for position in path]
        keys = [hit for hit in hits if hit.label]
        key = self._key(keys[0] if keys else hits[0])
        act = self.session.split_along if tool == "split" else self.session.merge_along
        act(key, stroke, i)
        self.update_hint()

    def _hit(self, position: Any) -> Hit:
        hit = self.layers.hit(position)
        if hit is None:
            raise PromptError("This is outside the image: point at an object.")
        return hit

    def _key(self, hit: Hit) -> str:
        """The label array of an object; those of other layers are taken into the session now."""
        return hit.key or self.session.adopt(hit.name, self.layers.foreign_array(hit.name))

    def _on_painted(self, key: str, window: tuple, before: np.ndarray) -> None:
        self.session.painted(key, window, before)

    @shown
    def _on_labels_replaced(self, key: str, labels: np.ndarray) -> None:
        self.session.put(key, labels, "Replaced labels")

    # Earlier work

    def _look_for_unfinished(self) -> None:
        image, kind = self.session.image, self.session.kind
        beside = self.panel.embedding.embedding_choice().path

        def search():
            yield Progress(0, 0, "Look for earlier work")
            return find_unfinished(image, kind, beside)

        self.jobs.start(Job(RECOVERY, search, on_done=self._on_unfinished))

    def _on_unfinished(self, found: Unfinished | None) -> None:
        self.unfinished = found
        if found is None or len(self.session.history):
            return
        when = f"{found.changed.astimezone():%d %B, %H:%M}"
        how = "was interrupted" if found.crashed else "was not saved"
        objects = f"{found.n_objects} object" + ("" if found.n_objects == 1 else "s")
        self.panel.banner.offer(f"Earlier work on this image {how}: {objects}, {found.n_steps} steps, {when}.")

    @shown
    def restore(self) -> None:
        """Take up the work that was found."""
        if self.unfinished is None:
            return
        if len(self.session.history):
            raise PromptError("There is new work already: undo it first, or choose Start new.")
        self.session.resume(self.unfinished.folder)
        self.panel.banner.hide()
        self.show_layers()
        for key, array in self.session.labels.items():
            if key.startswith(LAYER_PREFIX):
                self.layers.add_foreign(key.removeprefix(LAYER_PREFIX), array)
        self.unfinished = None
        self.say("Everything is back as it was, with its undo history.", "done")

    @shown
    def discard(self) -> None:
        """Do not offer the work that was found again."""
        found, self.unfinished = self.unfinished, None
        self.panel.banner.hide()
        if found is not None:
            give_up(found.folder)

    # Saving

    @shown
    def save(self, path: str) -> None:
        """Save the committed labels and the prompts they were made with."""
        session = self.session
        if session.image is None:
            raise PromptError("There is nothing to save yet.")
        labels, origins, scale = session.finished_labels(), dict(session.origins), session.image.scale
        units = self.layers.units()

        def saved(_: Any) -> None:
            session.note("saved", {"path": str(Path(path).absolute())})
            self.say(f"Saved to {path}.", "done")

        self._start(
            SAVING, lambda: iter_save(path, labels, origins, scale, units, session.journal_folder), on_done=saved
        )

    # What is shown

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
        cancelled = [slot for slot in (EMBEDDINGS, AUTOMATIC, SAVING, MODEL) if self.jobs.cancel(slot)]
        if cancelled:
            self.say("Cancelled. What was finished is kept.")

    def _on_labels(self, key: str, window: tuple) -> None:
        self.layers.refresh(key, window)

    def _on_stepped(self) -> None:
        history = self.session.history
        texts = [None if step is None else step.text.lower() for step in (history.last, history.next)]
        self.panel.edit.set_history(*texts)
        self.update_hint()

    @shown
    def _on_options(self) -> None:
        segment, commit = self.panel.segment, self.panel.commit
        self.session.options = Options(
            segment.batched.isChecked(),
            segment.live.isChecked(),
            segment.tidy.isChecked(),
            commit.preserve_mode(),
            commit.threshold.value(),
            commit.path.path(),
        )
        self.update_hint()

    def set_options(self, **changes: Any) -> None:
        """Change options from a script."""
        self.session.options = replace(self.session.options, **changes)
        self._show_options()

    def _show_options(self) -> None:
        options = self.session.options
        self.panel.segment.set_options(options.live, options.batched, options.tidy)
        self.panel.commit.set_options(options.preserve_mode, options.preservation_threshold, options.commit_path)

    def say(self, text: str, kind: str = "hint") -> None:
        """Show a sentence until the next thing happens."""
        self._message = (text, kind)
        self.panel.status.say(text, kind)

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self.say(text, "error")

    def update_hint(self) -> None:
        """Show what to do next, unless there is a message."""
        if self._message is not None or self._closed:
            return
        session, labels = self.session, self.session.labels
        computing = self.jobs.is_running(EMBEDDINGS) or self.jobs.is_running(MODEL)
        if computing and not session.can_segment:
            return
        correcting = session.correcting
        self.panel.status.say(
            next_step(
                Situation(
                    has_image=session.image is not None,
                    computing=computing,
                    can_segment=session.can_segment,
                    prompts=len(session.prompts),
                    live=session.options.live,
                    has_current=bool(labels) and bool(labels[CURRENT].any()),
                    correcting=None if correcting is None else correcting.label,
                    has_auto=bool(labels) and bool(labels[AUTO].any()),
                    tool=self.tools.tool,
                )
            )
        )

    def close(self) -> None:
        """Let go of everything; layers stay, the journal is finished."""
        if self._closed:
            return
        self._closed = True
        for signal, slot in self._links:
            _disconnect(signal, slot)
        self._links.clear()
        self.jobs.close()
        self.previews.close()
        self.keys.close()
        self.tools.close()
        self.layers.close()
        self.session.close_journal()


def _disconnect(signal: Any, slot: Callable) -> None:
    try:
        signal.disconnect(slot)
    except (RuntimeError, TypeError, ValueError):  # the widget is gone already
        pass
