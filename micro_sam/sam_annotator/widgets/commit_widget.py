"""Committing objects, and saving labels."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QFormLayout, QWidget

from micro_sam.sam_annotator.session.edits import PRESERVE_MODES, PreserveMode
from micro_sam.sam_annotator.widgets.embedding_widget import PathInput
from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, quietly

_PRESERVE_TEXTS = {
    "objects": ("Objects", "Committed objects stay as they are; an object that mostly lies on one is not committed."),
    "pixels": ("Pixels", "Committed pixels stay as they are; new objects fill what is free."),
    "none": ("Nothing", "New objects are written over committed ones."),
}


class CommitWidget(Section):
    """Keeps the current object, and saves what is kept."""

    commit_requested = Signal()
    save_requested = Signal(str)
    options_changed = Signal()

    def __init__(self) -> None:
        super().__init__("4  Keep it", "Commit the current object to the labels, and save them.")
        self.commit = button("Commit", "Add the current object to the committed objects.", "C", primary=True)
        self.save = button("Save labels…", "Write the committed objects to a .tif or OME-Zarr file.")
        self.commit.clicked.connect(self.commit_requested)
        self.save.clicked.connect(self._on_save)
        self.add(self.commit, self.save)
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        self.preserve = QComboBox()
        self.preserve.setToolTip("What a commit leaves as it is.")
        for name in PRESERVE_MODES:
            text, tooltip = _PRESERVE_TEXTS[name]
            self.preserve.addItem(text, name)
            self.preserve.setItemData(self.preserve.count() - 1, tooltip, 3)
        self.threshold = QDoubleSpinBox()
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.05)
        self.threshold.setToolTip("Which part of a new object must lie on committed ones for it to be left out.")
        self.path = PathInput("Save labels and prompts here after every commit (.tif or .zarr).", "Not saved by itself")
        form.addRow("Preserve", self.preserve)
        form.addRow("Overlap", self.threshold)
        form.addRow("Autosave", self.path)
        self.add(Folded("Commit settings", content))
        self.preserve.currentIndexChanged.connect(lambda _: self.options_changed.emit())
        self.threshold.valueChanged.connect(lambda _: self.options_changed.emit())
        self.path.line.editingFinished.connect(self.options_changed)

    def preserve_mode(self) -> PreserveMode:
        """What a commit preserves."""
        return self.preserve.currentData()

    def set_options(self, mode: str, threshold: float, path: str | None) -> None:
        """Show these options; nothing is announced."""
        with quietly(self.preserve, self.threshold, self.path.line):
            self.preserve.setCurrentIndex(self.preserve.findData(mode))
            self.threshold.setValue(threshold)
            self.path.line.setText(path or "")

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save labels", "labels.tif", "Labels (*.tif *.zarr)")
        if path:
            self.save_requested.emit(path)
