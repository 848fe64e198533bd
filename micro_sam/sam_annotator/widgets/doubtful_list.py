"""The slices or frames in which the model is least certain, to look at one after another."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from micro_sam.sam_annotator.widgets.parts import button, caption

_ROWS = 4  # at most; the list scrolls if there are more
_ROW_HEIGHT = 15


class DoubtfulList(QWidget):
    """Lists doubtful slices or frames; there is nothing to see while there are none.

    Args:
        what: What the list holds: "Slice" or "Frame".
    """

    #: (slice or frame): the person wants to look at it.
    chosen = Signal(int)
    #: The person wants to look at the next one.
    next_requested = Signal()

    def __init__(self, what: str = "Slice") -> None:
        super().__init__()
        self._what = what
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(caption(f"Doubtful {what.lower()}s, click to look:"))
        self.rows = QListWidget()
        self.rows.setToolTip(f"{what}s of the current object in which the model is least certain. Click to look there.")
        self.rows.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.rows.itemClicked.connect(lambda item: self.chosen.emit(item.data(Qt.ItemDataRole.UserRole)))
        self.next = button("Next doubtful", f"Look at the next doubtful {what.lower()}.", "J")
        self.next.clicked.connect(self.next_requested)
        layout.addWidget(self.rows)
        layout.addWidget(self.next)
        self.show_doubtful([])

    def show_doubtful(self, found: Sequence[tuple[int, float]]) -> None:
        """List slices or frames with their certainty, the most doubtful first."""
        texts = [f"{self._what} {i}   ·   certainty {certainty:.2f}" for i, certainty in found]
        if texts != [self.rows.item(k).text() for k in range(self.rows.count())]:
            self.rows.clear()
            for (i, _), text in zip(found, texts):
                item = QListWidgetItem(text)
                item.setData(Qt.ItemDataRole.UserRole, i)
                self.rows.addItem(item)
        self.rows.setFixedHeight(min(_ROWS, max(1, len(found))) * _ROW_HEIGHT + 6)
        self.setVisible(bool(found))
