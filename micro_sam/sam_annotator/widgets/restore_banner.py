"""The offer to take up earlier work on the image."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout

from micro_sam.sam_annotator.widgets.parts import button


class RestoreBanner(QFrame):
    """Says what was found, and asks what to do with it. Hidden until there is something."""

    restore_requested = Signal()
    discard_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("banner")
        self.setStyleSheet("#banner { border: 1px solid #e0a800; border-radius: 4px; background: rgba(224,168,0,45); }")
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.restore = button("Restore", "Go on exactly where this work stopped, with its undo history.", primary=True)
        self.discard = button("Start new", "Begin anew. The earlier work stays on disk, but is not offered again.")
        self.restore.clicked.connect(self.restore_requested)
        self.discard.clicked.connect(self.discard_requested)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(7, 5, 7, 6)
        layout.addWidget(self.text)
        line = QHBoxLayout()
        line.addWidget(self.restore)
        line.addWidget(self.discard)
        layout.addLayout(line)
        self.hide()

    def offer(self, sentence: str) -> None:
        """Show the offer."""
        self.text.setText(sentence)
        self.show()
