"""The images of a series and how far they are: a list, and the way from one to the next."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import QCheckBox, QLabel, QListWidget, QListWidgetItem, QSizePolicy

from micro_sam.sam_annotator.widgets.parts import Section, button, quietly

_MARKS = {"open": "○", "done": "✓", "skipped": "–", "unreadable": "!"}
_WORDS = {
    "open": "not done yet",
    "done": "done",
    "skipped": "skipped",
    "unreadable": "cannot be read",
}
_COLORS = {"done": "#5fc38a", "skipped": "#9a9a9a", "unreadable": "#ff7466"}
_ROWS, _ROW_HEIGHT = 6, 19


class SeriesWidget(Section):
    """Shows the images of a series; knows nothing of what is done with them."""

    next_requested = Signal()
    previous_requested = Signal()
    skip_requested = Signal()
    jump_requested = Signal(int)
    done_toggled = Signal(bool)

    def __init__(self) -> None:
        super().__init__("1  Images", "The images of the series. What is done is written down in the output folder.")
        self.images = QListWidget()
        self.images.setToolTip("All images and how far they are; click one to go to it. Nothing is lost by going.")
        self.images.setUniformItemSizes(True)
        self.images.setStyleSheet(f"QListWidget::item {{ height: {_ROW_HEIGHT - 1}px; }}")
        self.images.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.images.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.images.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.images.itemClicked.connect(lambda item: self.jump_requested.emit(self.images.row(item)))
        self.add(self.images)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.note.setToolTip("What you should know about this image or the series.")
        self.note.hide()
        self.add(self.note)
        self.done = QCheckBox("Done")
        self.done.setToolTip("Whether this image is done. Next sets it; take it away to come back to the image later.")
        self.done.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.done.toggled.connect(self.done_toggled)
        self.skip = button("Skip", "Leave this image out for now: it counts as skipped, its objects are kept.")
        self.previous = button("Previous", "Save, and go back to the image before.", "Shift+N")
        self.next = button("Next", "Save, mark this image as done, and go to the next.", "N", primary=True)
        self.skip.clicked.connect(self.skip_requested)
        self.previous.clicked.connect(self.previous_requested)
        self.next.clicked.connect(self.next_requested)
        self.add(self.done, self.skip)
        self.add(self.previous, self.next)

    def set_images(self, names: Sequence[str]) -> None:
        """The images there are."""
        with quietly(self.images):
            self.images.clear()
            self.images.addItems(list(names))
        self.images.setFixedHeight(min(len(names), _ROWS) * _ROW_HEIGHT + 6)
        self._names = list(names)

    _names: Sequence[str] = ()

    def show_state(self, states: Sequence[str], current: int | None, details: Sequence[str]) -> None:
        """Show how far the images are.

        Args:
            states: For each image "open", "done", "skipped" or "unreadable".
            current: The one that is annotated.
            details: For each image what else there is to say.
        """
        for k, (state, detail) in enumerate(zip(states, details)):
            self._show(self.images.item(k), k, state, detail)
        finished = sum(state == "done" for state in states)
        place = "" if current is None else f"{current + 1} of {len(states)}"
        self.heading.setText(f"<b>1  Image {place}</b> &nbsp; {finished} done")
        with quietly(self.images, self.done):
            self.images.setCurrentRow(-1 if current is None else current)
            self.done.setChecked(current is not None and states[current] == "done")
        if current is not None:
            self.images.scrollToItem(self.images.item(current))

    def _show(self, item: QListWidgetItem, k: int, state: str, detail: str) -> None:
        text = f"{_MARKS[state]}  {self._names[k]}"
        if item.text() == text and item.toolTip().endswith(detail):
            return
        item.setText(text)
        item.setToolTip(f"{self._names[k]}: {_WORDS[state]}. {detail}".strip())
        item.setForeground(QBrush(QColor(_COLORS[state])) if state in _COLORS else QBrush())

    def say(self, text: str, is_problem: bool = False) -> None:
        """Show a sentence that stays until the next image; nothing hides it."""
        color = "#c0392b" if is_problem else "#2e8b57"
        self.note.setStyleSheet(f"QLabel {{ border-left: 4px solid {color}; padding: 2px 2px 2px 6px; }}")
        self.note.setText(text)
        self.note.setVisible(bool(text))

    def set_moving(self, moving: bool) -> None:
        """Whether another image is on its way: then the buttons wait."""
        for widget in (self.next, self.previous, self.skip, self.images, self.done):
            widget.setEnabled(not moving)
