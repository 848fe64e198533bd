"""Held-out images before and after a training, as pictures with scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QDialog, QGridLayout, QLabel, QWidget

from micro_sam.training.examples import Example

TITLES = ("Annotated", "Before", "After")
_SMALL, _LARGE = 88, 380


class ExamplesView(QWidget):
    """Pictures of each example, beside each other or, if they are wide, one below the other; a click shows them large."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(3)
        self.dialog: QDialog | None = None

    def show_examples(self, examples: Sequence[Example]) -> None:
        """Show these in the place of the ones before."""
        while (item := self._grid.takeAt(0)) is not None:
            item.widget().deleteLater()
        for example in examples:
            pictures = example.pictures()
            is_wide = pictures[0].shape[1] > 2 * pictures[0].shape[0]  # held-out objects are often a strip of the image
            row = self._grid.rowCount()
            for k, (picture, text) in enumerate(zip(pictures, captions(example))):
                shown = _Picture(picture, 3 * _SMALL if is_wide else _SMALL)
                shown.setToolTip(f"{text}. Click to see it large.")
                shown.clicked.connect(lambda example=example: self.enlarge(example))
                title = QLabel(text)
                title.setStyleSheet("font-size: 8pt;")
                place = (row + 2 * k, 0, 1, len(pictures)) if is_wide else (row, k, 1, 1)
                self._grid.addWidget(title, *place)
                self._grid.addWidget(shown, place[0] + 1, *place[1:])

    def enlarge(self, example: Example) -> None:
        """Show an example in a window of its own."""
        self.dialog = QDialog(self)
        self.dialog.setWindowTitle("A held-out image: annotated, before and after the training")
        grid = QGridLayout(self.dialog)
        for column, (picture, text) in enumerate(zip(example.pictures(), captions(example))):
            grid.addWidget(QLabel(f"<b>{text}</b>"), 0, column)
            grid.addWidget(_Picture(picture, _LARGE), 1, column)
        self.dialog.show()


def captions(example: Example) -> tuple[str, str, str]:
    """What is written over the pictures."""
    before, after = example.scores
    return TITLES[0], f"{TITLES[1]}: {before:.2f}", f"{TITLES[2]}: {after:.2f}"


class _Picture(QLabel):
    """A picture that fits into a square.

    Args:
        picture: (H, W, 3) uint8.
        side: The side of the square.
    """

    clicked = Signal()

    def __init__(self, picture: np.ndarray, side: int) -> None:
        super().__init__()
        picture = np.ascontiguousarray(picture)
        height, width = picture.shape[:2]
        image = QImage(picture.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()
        scaled = QPixmap.fromImage(image).scaled(
            QSize(side, side), Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        self.setPixmap(scaled)

    def mousePressEvent(self, event: object) -> None:
        """It was clicked."""
        self.clicked.emit()
