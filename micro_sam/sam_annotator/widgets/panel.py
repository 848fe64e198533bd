"""The annotator's panel: all widgets from top to bottom in the order of work."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QFrame, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from micro_sam.sam_annotator.widgets.automatic_widget import AutomaticWidget
from micro_sam.sam_annotator.widgets.commit_widget import CommitWidget
from micro_sam.sam_annotator.widgets.edit_widget import EditWidget
from micro_sam.sam_annotator.widgets.embedding_widget import EmbeddingWidget
from micro_sam.sam_annotator.widgets.parts import PANEL_WIDTH, Folded, Section, button, caption
from micro_sam.sam_annotator.widgets.restore_banner import RestoreBanner
from micro_sam.sam_annotator.widgets.review_widget import ReviewWidget
from micro_sam.sam_annotator.widgets.segment_widget import SegmentWidget
from micro_sam.sam_annotator.widgets.status_line import StatusLine

_LAID_OUT_MS = 50


class AnnotatorPanel(QWidget):
    """Holds the widgets of an annotator; knows nothing of what they do.

    Args:
        title: The annotator's name, which the dock shows.
    """

    closing = Signal()

    def __init__(self, title: str) -> None:
        super().__init__()
        self.setMinimumWidth(PANEL_WIDTH)
        self.setMaximumWidth(PANEL_WIDTH + 20)
        self.setObjectName(title)
        self.status = StatusLine()
        self.banner = RestoreBanner()
        self.embedding = EmbeddingWidget()
        self.segment = SegmentWidget()
        self.automatic = AutomaticWidget()
        self.commit = CommitWidget()
        self.edit = EditWidget()
        self.review = ReviewWidget()
        self.sections = QVBoxLayout()
        self.sections.setContentsMargins(0, 0, 4, 0)
        self.sections.setSpacing(5)
        self.more = Section("More", "What can be done with the result.")
        self.more.hide()
        for section in (self.banner, self.embedding, self.segment, self.automatic, self.commit, self.edit, self.more):
            self.sections.addWidget(section)
        self.sections.addStretch(1)
        tooltip = "Go through all objects, the most doubtful first: keep, correct or delete each."
        self.review_folded = self.add_folded("Review doubtful objects", self.review, self.edit, tooltip)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 2, 4)
        layout.setSpacing(5)
        layout.addWidget(self.status)
        layout.addWidget(self._scrolled(), 1)

    def _scrolled(self) -> QScrollArea:
        content = QWidget()
        content.setLayout(self.sections)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(content)
        self._area = area
        return area

    def bring_into_view(self, widget: QWidget) -> None:
        """Scroll to a widget, once it is laid out."""
        self.later(lambda: self.later(lambda: self._area.ensureWidgetVisible(widget, 0, 4), _LAID_OUT_MS))

    def insert(self, section: QWidget, before: QWidget) -> None:
        """Add a section of another annotator; the sections are numbered anew."""
        self.sections.insertWidget(self.sections.indexOf(before), section)
        widgets = (self.sections.itemAt(k).widget() for k in range(self.sections.count()))
        for number, shown in enumerate((w for w in widgets if isinstance(w, Section)), start=1):
            shown.set_number(number)

    def add_action(
        self, text: str, tooltip: str, run: Callable[[], object], section: Section | None = None
    ) -> QPushButton:
        """Add a button to a section, by default to the last one; see also `micro_sam.sam_annotator.extensions`.

        Args:
            text: What the button says.
            tooltip: The same in a sentence.
            run: Called when it is pressed.
            section: Where.
        """
        made = button(text, tooltip)
        made.clicked.connect(lambda: run())
        self._add_to(section, made)
        return made

    def add_folded(
        self, title: str, content: QWidget, section: Section | None = None, tooltip: str | None = None
    ) -> Folded:
        """Add settings that are folded away to a section, by default to the last one."""
        made = Folded(title, content)
        if tooltip is not None:
            made.toggleButton().setToolTip(tooltip)
        self._add_to(section, made)
        return made

    def add_note(self, text: str, section: Section | None = None) -> QLabel:
        """Say something in a section, by default in the last one."""
        made = caption(text)
        made.setToolTip(text)
        self._add_to(section, made)
        return made

    def _add_to(self, section: Section | None, widget: QWidget) -> None:
        section = self.more if section is None else section
        section.add(widget)
        section.show()

    def later(self, function: Callable[[], None], milliseconds: int = 0) -> None:
        """Call a function when everything that is going on now is done; not if the panel is gone by then."""
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.timeout.connect(lambda: (timer.deleteLater(), function()))
        timer.start(milliseconds)
