"""Objects that exist already: clicks, strokes and the brush."""

from __future__ import annotations

from typing import Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import Control, shown
from micro_sam.sam_annotator.layers import Hit


class ObjectControl(Control):
    """Objects that exist already: clicks, strokes and the brush."""

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
