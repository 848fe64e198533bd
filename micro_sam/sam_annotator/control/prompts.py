"""Prompts, the masks they lead to, and committing them."""

from __future__ import annotations

from typing import Any

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import EMBEDDINGS, Control, shown
from micro_sam.sam_annotator.layers import NEGATIVE, POSITIVE
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.state import AUTO, CURRENT


class PromptControl(Control):
    """Prompts, the masks they lead to, and committing them."""

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
