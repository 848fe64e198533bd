"""Wires session, layers, widgets, jobs and keys of one annotator; the only place that knows all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator.control.automatic import AutomaticControl
from micro_sam.sam_annotator.control.base import EMBEDDINGS, MODEL, shown
from micro_sam.sam_annotator.control.images import ImageControl
from micro_sam.sam_annotator.control.models import ModelControl
from micro_sam.sam_annotator.control.objects import ObjectControl
from micro_sam.sam_annotator.control.records import RecordControl
from micro_sam.sam_annotator.control.review import ReviewControl
from micro_sam.sam_annotator.hints import Situation, next_step
from micro_sam.sam_annotator.jobs import JobRunner
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import AnnotatorLayers
from micro_sam.sam_annotator.previews import Previews
from micro_sam.sam_annotator.session.automatic import AutomaticSegmentation
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.session.recovery import Unfinished
from micro_sam.sam_annotator.session.session import AnnotationSession, Options
from micro_sam.sam_annotator.session.state import AUTO, CURRENT

if TYPE_CHECKING:
    from napari import Viewer

    from micro_sam.sam_annotator.tools import CanvasTools
    from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


class AnnotatorController(ImageControl, ModelControl, ReviewControl, AutomaticControl, ObjectControl, RecordControl):
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
        self._settings_wanted: Mapping[str, Any] = {}
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

    def _shared_links(self) -> list[tuple[Any, Callable]]:
        """Who listens to what in every annotator, also in one that does not segment."""
        panel, layers, session = self.panel, self.layers, self.session
        return [
            (panel.status.cancel_requested, self.cancel),
            (panel.banner.restore_requested, self.restore),
            (panel.banner.discard_requested, self.discard),
            (panel.embedding.compute_requested, self.compute),
            (panel.embedding.cancel_requested, self.cancel),
            (panel.embedding.image_chosen, self._on_image_chosen),
            (panel.embedding.model_changed, self._on_model_changed),
            (layers.painted, self._on_painted),
            (layers.replaced, self._on_labels_replaced),
            (layers.lost, self._on_layers_lost),
            (layers.images_changed, self._on_images_changed),
            (layers.image_replaced, self._on_image_replaced),
            (session.labels_changed, self._on_labels),
            (session.stepped, self._on_stepped),
            (session.journal_failed, self.show_error),
        ]

    def _table(self) -> list[tuple[Any, Callable]]:
        """Who listens to what."""
        panel, layers, session = self.panel, self.layers, self.session
        return [
            *self._shared_links(),
            *self._review_links(),
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
            (self.tools.clicked, self._on_click),
            (self.tools.stroked, self._on_stroke),
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
        return actions | self._review_keys()

    def _on_labels(self, key: str, window: tuple) -> None:
        self.layers.refresh(key, window)
        self._note_labels(key)

    def _on_stepped(self) -> None:
        history = self.session.history
        texts = [None if step is None else step.text.lower() for step in (history.last, history.next)]
        self.panel.edit.set_history(*texts)
        self._show_review()
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
        """Change options from a script: those of `Options`, and ``mode`` and ``settings`` of automatic segmentation.

        Raises:
            ParameterError: There is no such option, or a value does not fit.
        """
        if unknown := sorted(set(changes) - self._option_names()):
            names = ", ".join(sorted(self._option_names()))
            raise ParameterError(f"This annotator has no option '{unknown[0]}'; it has {names}.")
        if "mode" in changes:
            self.prefer_mode(changes.pop("mode"))
        self.prefer_settings(changes.pop("settings", None) or {})
        self._take_options(changes)
        self._show_options()

    def _option_names(self) -> set[str]:
        return {item.name for item in fields(Options)} | {"mode", "settings"}

    def _take_options(self, changes: dict[str, Any]) -> None:
        """Take over options whose names are known; further annotators take out their own."""
        self.session.options = replace(self.session.options, **changes)

    def _show_options(self) -> None:
        options = self.session.options
        self.panel.segment.set_options(options.live, options.batched, options.tidy)
        self.panel.commit.set_options(options.preserve_mode, options.preservation_threshold, options.commit_path)

    def update_hint(self) -> None:
        """Show what to do next, unless there is a message."""
        if self._message is not None or self._closed:
            return
        session = self.session
        computing = self.jobs.is_running(EMBEDDINGS) or self.jobs.is_running(MODEL)
        if computing and not session.can_segment:
            return
        correcting = session.correcting
        self.panel.status.say(
            self.review_hint()
            or self.next_step(
                Situation(
                    has_image=session.image is not None,
                    computing=computing,
                    can_segment=session.can_segment,
                    prompts=len(session.prompts),
                    live=session.options.live,
                    has_current=session.has(CURRENT),
                    correcting=None if correcting is None else correcting.label,
                    has_auto=session.has(AUTO),
                    tool=self.tools.tool,
                )
            )
        )

    def next_step(self, now: Situation) -> str:
        """What to do next, as a sentence."""
        return next_step(now)

    def close(self) -> None:
        """Let go of everything; layers stay, the journal is finished."""
        if self._closed:
            return
        self.closing.emit()
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
