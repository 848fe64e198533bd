"""Small parts that the widgets are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

PANEL_WIDTH = 300

Input = TypeVar("Input", bound=QWidget)


class Section(QFrame):
    """A titled part of the panel; its content is laid out from top to bottom.

    Args:
        title: What it is for.
        tooltip: The same in a sentence.
    """

    def __init__(self, title: str, tooltip: str = "") -> None:
        super().__init__()
        self.setObjectName("section")
        self.setStyleSheet("#section { border: 1px solid rgba(128, 128, 128, 90); border-radius: 4px; }")
        self.box = QVBoxLayout(self)
        self.box.setContentsMargins(7, 4, 7, 6)
        self.box.setSpacing(4)
        self.heading = QLabel(f"<b>{title}</b>")
        self.heading.setToolTip(tooltip)
        self.box.addWidget(self.heading)

    def set_number(self, number: int) -> None:
        """Show its place in the order of work."""
        self.heading.setText(re.sub(r"^<b>\d+", f"<b>{number}", self.heading.text()))

    def add(self, *widgets: QWidget) -> None:
        """Add widgets, beside each other if there are several."""
        if len(widgets) == 1:
            self.box.addWidget(widgets[0])
            return
        line = QHBoxLayout()
        line.setSpacing(4)
        for widget in widgets:
            line.addWidget(widget)
        self.box.addLayout(line)


class Folded(QCollapsible):
    """Settings that are out of the way until they are wanted.

    Args:
        title: What they are.
        content: They.
    """

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__(title, expandedIcon="▾", collapsedIcon="▸")
        self.setDuration(0)
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.layout().setSpacing(2)
        self.addWidget(content)
        self.content().layout().setContentsMargins(8, 0, 0, 2)
        self.toggleButton().setToolTip(f"Show or hide: {title.lower()}")
        self.collapse(animate=False)

    def refit(self) -> None:
        """Give the content the height that it needs now, at once."""
        if self.isExpanded():
            self.content().setMaximumHeight(self.content().sizeHint().height() + 10)


def button(text: str, tooltip: str, key: str = "", primary: bool = False) -> QPushButton:
    """A button that shows the key that does the same.

    Args:
        text: What it does.
        tooltip: The same in a sentence.
        key: The key.
        primary: Whether it is the main thing to do in its section.
    """
    made = QPushButton(f"{text}  [{key}]" if key else text)
    made.setToolTip(f"{tooltip} Key: {key}." if key else tooltip)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    if primary:
        made.setStyleSheet("QPushButton { font-weight: bold; padding: 4px; }")
    return made


def tool_button(text: str, tooltip: str, key: str = "") -> QToolButton:
    """A small button that stays pressed while its tool is active."""
    made = QToolButton()
    made.setText(f"{text}  [{key}]" if key else text)
    made.setToolTip(f"{tooltip} Key: {key}." if key else tooltip)
    made.setCheckable(True)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    made.setStyleSheet(
        "QToolButton { padding: 3px; background: rgba(128, 128, 128, 70); border-radius: 2px; }"
        " QToolButton:hover { background: rgba(128, 128, 128, 120); }"
        " QToolButton:checked { background: #3a7bd5; color: white; }"
    )
    return made


def caption(text: str) -> QLabel:
    """A small explanation that wraps."""
    made = QLabel(text)
    made.setWordWrap(True)
    made.setStyleSheet("color: gray;")
    return made


def narrow(widget: Input) -> Input:
    """An input that takes no more than the width there is."""
    if isinstance(widget, QComboBox):
        widget.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        widget.setMinimumContentsLength(8)
    widget.setMinimumWidth(70)
    return widget


@contextmanager
def quietly(*widgets: QWidget) -> Iterator[None]:
    """What is set inside is not announced."""
    blockers = [QSignalBlocker(widget) for widget in widgets]
    try:
        yield
    finally:
        for blocker in blockers:
            blocker.unblock()
