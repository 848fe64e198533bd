"""What the tool waits for, what it is doing, and what went wrong: one line at the top of the panel."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from micro_sam.progress import Progress

_COLORS = {"hint": "#3a7bd5", "done": "#2e8b57", "error": "#c0392b"}


class StatusLine(QWidget):
    """A sentence, and below it the progress of a running job with a button to cancel it."""

    cancel_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setMinimumHeight(46)
        self.text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.text.setToolTip("What the annotator is waiting for, or what went wrong.")
        self.bar = QProgressBar()
        self.bar.setToolTip("How far the running work is.")
        self.bar.setMaximumHeight(16)
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop the running work; what is finished is kept.")
        self.cancel.clicked.connect(self.cancel_requested)
        self._job = QWidget()
        line = QHBoxLayout(self._job)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.bar, 1)
        line.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.text)
        layout.addWidget(self._job)
        self._job.hide()
        self.kind = "hint"
        self.say("")

    def say(self, sentence: str, kind: str = "hint") -> None:
        """Show a sentence: a "hint" at what to do, what was "done", or an "error"."""
        self.kind = kind
        self.text.setText(sentence)
        self.text.setStyleSheet(
            f"QLabel {{ border-left: 4px solid {_COLORS[kind]}; padding: 3px 3px 3px 7px; background: rgba(128,128,128,40); }}"
        )

    def show_progress(self, progress: Progress | None) -> None:
        """Show how far a job is; None when none runs."""
        self._job.setVisible(progress is not None)
        if progress is not None:
            self.bar.setRange(0, progress.total)
            self.bar.setValue(progress.done)
            self.bar.setFormat("%p%")
            self.bar.setToolTip(progress.text)
