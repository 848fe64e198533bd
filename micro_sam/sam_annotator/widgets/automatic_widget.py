"""Automatic segmentation and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, narrow, quietly
from micro_sam.sam_annotator.widgets.settings_form import SettingsForm

MODE_TEXTS = {
    "ais": ("Decoder (AIS)", "The model's decoder outlines all objects; fast."),
    "apg": (
        "Decoder and prompts (APG)",
        "The decoder finds objects, prompts segment them one by one; finer and slower.",
    ),
    "amg": ("Grid of points (AMG)", "A grid of points is segmented; for models without decoder. Slow."),
}


class AutomaticWidget(Section):
    """Chooses how to segment everything; changed parameters only repeat the last, quick part."""

    run_requested = Signal()
    commit_requested = Signal()
    settings_changed = Signal()
    mode_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__("3  Segment everything", "Find all objects automatically, correct them, and commit them.")
        self.mode = narrow(QComboBox())
        self.mode.setToolTip("How objects are found.")
        self.mode.currentIndexChanged.connect(lambda _: self.mode_chosen.emit(self.mode.currentData() or ""))
        self.add(self.mode)
        self.run = button("Segment all", "Find all objects. Changing parameters afterwards is quick.")
        self.commit = button("Commit all", "Commit all objects of the automatic segmentation.")
        self.run.clicked.connect(self.run_requested)
        self.commit.clicked.connect(self.commit_requested)
        self.add(self.run, self.commit)
        self._place = QWidget()
        layout = QVBoxLayout(self._place)
        layout.setContentsMargins(0, 0, 0, 0)
        self.form: SettingsForm | None = None
        self.folded = Folded("Parameters", self._place)
        self.add(self.folded)

    def set_modes(self, modes: Sequence[str], chosen: str) -> None:
        """The modes that the model can do; nothing is announced."""
        with quietly(self.mode):
            self.mode.clear()
            for name in modes:
                text, tooltip = MODE_TEXTS[name]
                self.mode.addItem(text, name)
                self.mode.setItemData(self.mode.count() - 1, tooltip, 3)
            self.mode.setCurrentIndex(max(0, self.mode.findData(chosen)))

    def set_settings(self, settings: Any) -> None:
        """Show the parameters of a mode; nothing is announced."""
        if self.form is not None:
            self._place.layout().removeWidget(self.form)
            self.form.deleteLater()
        self.form = SettingsForm(settings)
        self.form.changed.connect(self.settings_changed)
        self._place.layout().addWidget(self.form)
        if self.folded.isExpanded():
            self.folded.expand(animate=False)

    def settings(self) -> Any:
        """The parameters as they are in the form; None before there is a model."""
        return None if self.form is None else self.form.values()
