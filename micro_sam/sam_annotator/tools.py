"""Tools that work with a click or a stroke on the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from micro_sam.sam_annotator.layers import camera_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Shapes

STROKES = ("split", "merge")
_LINE_NAME = "stroke"


class CanvasTools:
    """Turns clicks and strokes on the canvas into calls, while a tool is active.

    Args:
        viewer: The viewer.
    """

    #: (tool, position in the world).
    clicked = Signal(str, object)
    #: (tool, positions in the world).
    stroked = Signal(str, object)

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.tool: str | None = None
        self._line: Shapes | None = None
        viewer.mouse_drag_callbacks.append(self._on_drag)

    def use(self, tool: str | None) -> None:
        """Make a tool active, or none."""
        self.tool = tool

    def _on_drag(self, viewer: Viewer, event: Any) -> Iterator[None]:
        if self.tool is None or event.button != 1:
            return
        tool, path = self.tool, [tuple(event.position)]
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            path.append(tuple(event.position))
            if tool in STROKES:
                self._draw(path)
            yield
        self._remove_line()
        if tool in STROKES:
            self.stroked.emit(tool, path)
        else:
            self.clicked.emit(tool, path[0])

    def _draw(self, path: list[tuple[float, ...]]) -> None:
        """Show the stroke while it is drawn."""
        active = self._viewer.layers.selection.active
        if self._line is None:
            width = 4 / max(camera_of(self._viewer).zoom, 1e-6)
            self._line = self._viewer.add_shapes(
                ndim=len(path[0]), name=_LINE_NAME, edge_color="#ffd600", edge_width=width, opacity=0.9
            )
            self._viewer.layers.selection.active = active
        self._line.data = []
        self._line.add(np.array(path), shape_type="path")

    def _remove_line(self) -> None:
        if self._line is not None and self._line in self._viewer.layers:
            self._viewer.layers.remove(self._line)
        self._line = None

    def close(self) -> None:
        """Let go of the viewer."""
        self.tool = None
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)
