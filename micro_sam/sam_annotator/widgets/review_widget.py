"""Goes through objects from the most to the least doubtful."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from micro_sam.sam_annotator.widgets.parts import button, caption

_EXPLANATION = "The model looks at every object again. Those that it sees differently come first."
_LINES = 5
_FRESH = "List doubtful objects"
_AGAIN = "List them again"


class ReviewWidget(QWidget):
    """Asks for a list of objects, shows one of them, and asks what is to become of it."""

    list_requested = Signal()
    previous_requested = Signal()
    next_requested = Signal()
    keep_requested = Signal()
    correct_requested = Signal()
    delete_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.explanation = caption(_EXPLANATION)
        self.list = button(
            _FRESH,
            "Order objects by doubt: those of the labels layer that is selected in the layer list, else of the automatic"
            " segmentation, else the committed ones.",
        )
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.text.setMinimumHeight(_LINES * self.text.fontMetrics().lineSpacing())  # buttons below stay where they are
        self.text.setToolTip("The object in the yellow outline: its place in the list, how doubtful it is, and why.")
        self.previous = button("Previous", "Go back to the object before this one in the list.", "Q")
        self.next = button("Next", "Go to the next object in the list.", "W")
        self.keep = button("Keep", "The object is good as it is; go to the next one.", "G")
        self.delete = button("Delete", "Delete the object; go to the next one.", "Shift+Q")
        self.correct = button(
            "Correct",
            "Change the object with points or a box and commit it with C; then the next one is shown.",
            "Shift+W",
        )
        self._lay_out()
        for widget, signal in self._signals():
            widget.clicked.connect(signal)
        self.show_object("", "")

    def _signals(self) -> list[tuple[QWidget, Signal]]:
        return [
            (self.list, self.list_requested), (self.previous, self.previous_requested), (self.next, self.next_requested),
            (self.keep, self.keep_requested), (self.correct, self.correct_requested),
            (self.delete, self.delete_requested),
        ]  # fmt: skip

    def _lay_out(self) -> None:
        self._decisions = QWidget()
        for owner, rows in (
            (self._decisions, [(self.previous, self.next), (self.keep, self.delete), (self.correct,)]),
            (self, [(self.explanation,), (self.list,), (self.text,), (self._decisions,)]),
        ):
            column = QVBoxLayout(owner)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(4)
            for row in rows:
                line = QHBoxLayout()
                line.setSpacing(4)
                for widget in row:
                    line.addWidget(widget)
                column.addLayout(line)

    def show_object(self, text: str, progress: str, is_open: bool = False) -> None:
        """Show the object that is looked at.

        Args:
            text: Its place, its doubt, and why; "" for none.
            progress: How much of the list is done.
            is_open: Whether it is there, to be kept, corrected or deleted.
        """
        self.explanation.setVisible(not progress)
        self.list.setText(_AGAIN if progress else _FRESH)
        self.text.setText("<br>".join(part for part in (text, progress) if part))
        self.text.setVisible(bool(progress))
        self._decisions.setVisible(bool(progress))
        for widget in (self.keep, self.correct, self.delete):
            widget.setEnabled(is_open)
