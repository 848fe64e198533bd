"""The finetuning window: data, model, training and result, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

from micro_sam.progress import Progress
from micro_sam.sam_annotator.training_control import CHECKED, DONE, IDLE, PAUSED, RUNNING, TrainingChoice
from micro_sam.sam_annotator.widgets.curves import TrainingCurves
from micro_sam.sam_annotator.widgets.examples_view import ExamplesView
from micro_sam.sam_annotator.widgets.parts import PANEL_WIDTH, Section, button
from micro_sam.sam_annotator.widgets.status_line import StatusLine
from micro_sam.sam_annotator.widgets.training_data_form import TrainingDataForm
from micro_sam.sam_annotator.widgets.training_settings_form import TrainingSettingsForm
from micro_sam.training.preflight import PreflightReport
from micro_sam.training.run import RunResult

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.loading import ModelChoice

_HINTS = {
    IDLE: "Choose annotated images, then press Check the data.",
    CHECKED: "The data is fine. Press Start.",
}
_START = {IDLE: "Check and start", CHECKED: "Start", RUNNING: "Start", PAUSED: "Go on", DONE: "Start again"}


class TrainingPanel(QWidget):
    """Shows everything; knows nothing of what it does.

    Args:
        parent: The parent of the widget.
    """

    check_requested = Signal()
    start_requested = Signal()
    pause_requested = Signal()
    stop_requested = Signal()
    use_requested = Signal()
    refresh_requested = Signal()
    changed = Signal()

    _device: str | None = None

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumWidth(PANEL_WIDTH)
        self.setMaximumWidth(PANEL_WIDTH + 20)
        self.status = StatusLine()
        self.status.cancel.hide()
        self.data = TrainingDataForm()
        self.model = TrainingSettingsForm()
        self.curves = TrainingCurves()
        self.examples = ExamplesView()
        self._made_training = self._training()
        self._made_result = self._result()
        content = QWidget()
        sections = QVBoxLayout(content)
        sections.setContentsMargins(0, 0, 4, 0)
        sections.setSpacing(5)
        for section in (self.data, self.model, self._made_training, self._made_result):
            sections.addWidget(section)
        sections.addStretch(1)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 2, 4)
        layout.setSpacing(5)
        layout.addWidget(self.status)
        layout.addWidget(self.area, 1)
        for signal, target in (
            (self.data.check_requested, self.check_requested),
            (self.data.refresh_requested, self.refresh_requested),
            (self.data.changed, self.changed),
            (self.model.changed, self.changed),
        ):
            signal.connect(target)

    def _training(self) -> Section:
        section = Section("3  Training", "The training runs beside the window; annotating can go on.")
        self.start = button(
            "Check and start", "Look at the data, then train; go on with a paused training.", primary=True
        )
        self.pause = button("Pause", "Stop computing. What was learned is kept on disk.")
        self.stop = button("Stop, keep the best", "End the training and use the best model so far.")
        self.start.clicked.connect(self.start_requested)
        self.pause.clicked.connect(self.pause_requested)
        self.stop.clicked.connect(self.stop_requested)
        section.add(self.start)
        section.add(self.pause, self.stop)
        section.add(self.curves)
        return section

    def _result(self) -> Section:
        section = Section("4  Result", "Whether the model became better on objects it has not learned from.")
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.use = button(
            "Use it in the annotator", "Load the new model; labels and history stay as they are.", primary=True
        )
        self.use.clicked.connect(self.use_requested)
        self.path = QLabel()
        self.path.setWordWrap(True)
        self.path.setOpenExternalLinks(True)
        section.add(self.verdict)
        section.add(self.examples)
        section.add(self.use)
        section.add(self.path)
        section.hide()
        return section

    # What is chosen

    def choice(self) -> TrainingChoice:
        """Everything that is chosen.

        Raises:
            ParameterError: A value cannot be.
        """
        model = self.model
        return TrainingChoice(
            self.data.source(),
            model.settings(self.data.settings()),
            model.weights.path(),
            model.root.path(),
            self._device,
        )

    def set_sources(self, kinds: Sequence[str], images: Sequence[str], labels: Sequence[str]) -> None:
        """Where data can come from."""
        self.data.set_sources(kinds, images, labels)

    def set_model(self, choice: ModelChoice) -> None:
        """The model to begin with, and where it computes."""
        self._device = choice.device
        self.model.set_model(choice)

    def set_name(self, name: str) -> None:
        """What the model that is trained is called."""
        self.model.name.setText(name)

    # What is shown

    def say(self, text: str, kind: str = "hint") -> None:
        """Show a sentence."""
        self.status.say(text, kind)

    def show_progress(self, progress: Progress | None) -> None:
        """Show how far the work is."""
        self.status.show_progress(progress)

    def set_state(self, state: str) -> None:
        """Show what can be done now."""
        running, paused = state == RUNNING, state == PAUSED
        self.start.setText(_START[state])
        self.start.setEnabled(not running)
        self.pause.setEnabled(running)
        self.stop.setEnabled(running or paused)
        for section in (self.data, self.model):
            section.setEnabled(not (running or paused))
        if state in _HINTS:
            self.say(_HINTS[state])
        if running:
            self._show(self._made_training)

    def show_report(self, report: PreflightReport) -> None:
        """Show what was found in the data."""
        self.data.show_report(report)

    def clear_result(self) -> None:
        """A new training begins."""
        self.curves.clear()
        self._made_result.hide()

    def show_result(self, result: RunResult) -> None:
        """Show what came out of the training."""
        color = "#c0392b" if result.got_worse else "#2e8b57"
        self.verdict.setText(result.verdict)
        self.verdict.setStyleSheet(f"QLabel {{ border-left: 4px solid {color}; padding: 2px 2px 2px 6px; }}")
        self.examples.show_examples(result.examples)
        folder = QUrl.fromLocalFile(str(result.output_path.parent)).toString()
        self.path.setText(
            f'Saved as {escape(result.output_path.name)} (<a style="color: #4a9fe0" href="{folder}">open its folder</a>)'
        )
        self.path.setToolTip(str(result.output_path))
        self._made_result.show()
        self._show(self._made_result)

    def _show(self, section: QWidget) -> None:
        from qtpy.QtCore import QTimer

        QTimer.singleShot(0, lambda: self.area.ensureWidgetVisible(section))

    def show_annotator(self, panel: Any) -> None:
        """Bring the annotator to the front."""
        dock = panel
        while dock is not None and not hasattr(dock, "toggleViewAction"):
            dock = dock.parent()
        if dock is not None:
            dock.raise_()
