"""Drives a real napari window as a person does: mouse events on the canvas, keys, buttons."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from micro_sam.sam_annotator.layers import camera_of

_PATIENCE = 6
KEYS = {"Escape": Qt.Key.Key_Escape, "Delete": Qt.Key.Key_Delete}
MODIFIERS = {"Shift": Qt.KeyboardModifier.ShiftModifier, "Ctrl": Qt.KeyboardModifier.ControlModifier}


class Window:
    """A window with an annotator in it.

    Args:
        viewer: The napari viewer, shown.
        widget: The annotator's panel.
    """

    def __init__(self, viewer: Any, widget: Any) -> None:
        self.viewer, self.widget = viewer, widget
        #: When the mouse was moved last, in seconds of `time.perf_counter`.
        self.moved_at = 0.0

    @property
    def controller(self) -> Any:
        return self.widget.controller

    @property
    def session(self) -> Any:
        return self.widget.controller.session

    @property
    def canvas(self) -> Any:
        return self.viewer.window._qt_viewer.canvas.native

    @property
    def status(self) -> str:
        return self.widget.status.text.text()

    def labels(self, key: str) -> np.ndarray:
        return self.session.labels[key]

    def wait(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        """Let the window work until a condition holds.

        Args:
            condition: What is waited for.
            seconds: How much time of the processor it may take; on a computer that is busy with other things this lasts
                longer, up to `_PATIENCE` times.
        """
        cpu, clock = time.process_time() + seconds, time.monotonic() + _PATIENCE * seconds
        while not condition():
            late = time.process_time() > cpu or time.monotonic() > clock
            assert not late, f"It did not happen within {seconds} s of work; the status is: {self.status}"
            QApplication.processEvents()
            time.sleep(0.002)

    def settle(self, rounds: int = 3) -> None:
        """Let the window handle what is waiting."""
        for _ in range(rounds):
            QApplication.processEvents()
            time.sleep(0.005)

    def ready(self) -> None:
        """Wait until embeddings are there and nothing runs."""
        self.wait(lambda: self.session.embeddings is not None and not self.controller.jobs.is_running())

    def answered(self) -> None:
        """Wait until masks for all prompts are there."""
        self.wait(lambda: not self.controller.previews.is_busy)
        self.settle(1)

    def at(self, y: float, x: float) -> QPoint:
        """The place on the canvas where a pixel of the image is."""
        layer = self.controller.layers.image
        world = layer.data_to_world((y, x) if layer.ndim == 2 else (*self.viewer.dims.current_step[:-2], y, x))
        camera = camera_of(self.viewer)
        center, zoom = np.asarray(camera.center)[-2:], camera.zoom
        size = self.canvas.size()
        row, column = (np.asarray(world)[-2:] - center) * zoom + (size.height() / 2, size.width() / 2)
        return QPoint(round(column), round(row))

    def click(self, y: float, x: float, hover: bool = True) -> None:
        """Click a pixel of the image; ``hover`` moves the mouse there first."""
        if hover:
            self.hover(y, x)
        QTest.mouseClick(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(y, x))
        if hover:
            self.settle(1)

    def hover(self, y: float, x: float) -> None:
        """Move the mouse over a pixel."""
        self._move(self.at(y, x), pressed=False)

    def drag(self, path_yx: Sequence[tuple[float, float]], between: Callable[[], None] | None = None) -> None:
        """Press the button at the first pixel, move along a path, and let go at the last."""
        places = [self.at(*place) for place in path_yx]
        self._move(places[0], pressed=False)
        QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, pos=places[0])
        for place in places[1:]:
            self._move(place, pressed=True)
            if between is not None:
                between()
        QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, pos=places[-1])
        self.settle(1)

    def _move(self, place: QPoint, pressed: bool) -> None:
        where = QPointF(place)
        held = Qt.MouseButton.LeftButton if pressed else Qt.MouseButton.NoButton
        none = Qt.MouseButton.NoButton
        where_on_screen = QPointF(self.canvas.mapToGlobal(place))
        event = QMouseEvent(QEvent.Type.MouseMove, where, where_on_screen, none, held, Qt.KeyboardModifier.NoModifier)
        self.moved_at = time.perf_counter()
        QApplication.sendEvent(self.canvas, event)
        self.settle(3)  # napari takes a move every 5 ms

    def key(self, name: str) -> None:
        """Press a key, for example "C", "Shift+C" or "Ctrl+Z"."""
        *modifiers, letter = name.split("+")
        code = KEYS.get(letter) or getattr(Qt.Key, f"Key_{letter}")
        flags = Qt.KeyboardModifier.NoModifier
        for modifier in modifiers:
            flags |= MODIFIERS[modifier]
        QTest.keyClick(self.canvas, code, flags)
        self.settle(1)

    def press(self, button: Any) -> None:
        """Press a button of the panel."""
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        self.settle(1)


def open_window(viewer: Any, widget_type: type, image: np.ndarray | None = None, **options: Any) -> Window:
    """Put an annotator into a viewer, as napari does when it is chosen in the Plugins menu."""
    viewer.window.resize(1000, 640)
    if image is not None:
        viewer.add_image(image, **options)
    widget = widget_type(viewer)
    viewer.window.add_dock_widget(widget, name=widget.title, area="right", add_vertical_stretch=False)
    window = Window(viewer, widget)
    widget.embedding.model.setCurrentText("vit_t_builtin")
    widget.embedding.device.setCurrentText("cpu")
    window.settle()
    return window
