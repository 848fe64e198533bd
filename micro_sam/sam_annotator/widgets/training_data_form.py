"""Chooses what a model is finetuned on."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QLineEdit, QMenu, QWidget

from micro_sam.sam_annotator.training_sources import ANNOTATOR, FILES, LAYERS, SERIES, FileChoice, SourceChoice
from micro_sam.sam_annotator.widgets.embedding_widget import PathInput
from micro_sam.sam_annotator.widgets.findings_table import FindingsTable
from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, narrow, quietly
from micro_sam.training.preflight import PreflightReport

KIND_TEXTS = {
    ANNOTATOR: ("The open annotator", "Its image and the objects that are committed."),
    SERIES: ("The open series", "The images of the series that are done, and the committed objects of this one."),
    LAYERS: ("Layers", "An image layer and a labels layer."),
    FILES: ("Files", "Images and labels as files, or folders with a pattern."),
}
#: Pixels around annotated objects that are background for sure, where only some of the objects are annotated.
KNOWN_MARGIN = 10


class TrainingDataForm(Section):
    """Where images and labels come from, and what was found in them."""

    changed = Signal()
    check_requested = Signal()
    refresh_requested = Signal()

    def __init__(self) -> None:
        super().__init__("1  Annotated images", "What the model learns from: images in which objects are annotated.")
        self.kind = narrow(QComboBox())
        self.kind.setToolTip("Where the images and their labels come from.")
        self.refresh = button("↻", "Look anew which annotator and layers are open.")
        self.refresh.setFixedWidth(32)
        self.refresh.clicked.connect(self.refresh_requested)
        self.add(self.kind, self.refresh)
        self.image, self.labels = _layer_combo("The image layer."), _layer_combo("The layer with its labels.")
        self.files = FilesForm()
        self.layer_rows = _rows(("Image", self.image), ("Labels", self.labels))
        self.add(self.layer_rows)
        self.add(self.files)
        self.partly = QCheckBox("Only some objects are annotated")
        self.partly.setToolTip(
            f"Only {KNOWN_MARGIN} pixels around annotated objects are taken for background; nothing is learned from the rest."
        )
        self.add(self.partly)
        self.validation = FilesForm("The same for validation; without, a part of the data is held out.")
        self.validation_folded = Folded("Other images for validation", self.validation)
        self.add(self.validation_folded)
        self.check = button("Check the data", "Look at images and labels: what is fine, skipped or wrong.")
        self.check.clicked.connect(self.check_requested)
        self.add(self.check)
        self.table = FindingsTable()
        self.add(self.table)
        self.table.hide()
        self.kind.currentIndexChanged.connect(lambda _: (self._show_kind(), self._on_changed()))
        for combo in (self.image, self.labels):
            combo.currentIndexChanged.connect(lambda _: self._on_changed())
        for form in (self.files, self.validation):
            form.changed.connect(self._on_changed)
        self.partly.toggled.connect(lambda _: self._on_changed())

    def _on_changed(self) -> None:
        self.table.hide()
        self.changed.emit()

    def _show_kind(self) -> None:
        kind = self.kind.currentData()
        self.layer_rows.setVisible(kind == LAYERS)
        self.files.setVisible(kind == FILES)

    def set_sources(self, kinds: Sequence[str], images: Sequence[str], labels: Sequence[str]) -> None:
        """Offer these places and layers; what was chosen stays chosen, nothing is announced."""
        before = self.kind.currentData()
        with quietly(self.kind, self.image, self.labels):
            self.kind.clear()
            for kind in kinds:
                text, tooltip = KIND_TEXTS[kind]
                self.kind.addItem(text, kind)
                self.kind.setItemData(self.kind.count() - 1, tooltip, 3)
            self.kind.setCurrentIndex(max(0, self.kind.findData(before)))
            for combo, names in ((self.image, images), (self.labels, labels)):
                chosen = combo.currentText()
                combo.clear()
                combo.addItems(list(names))
                combo.setCurrentIndex(max(0, combo.findText(chosen)))
        self._show_kind()

    def choose_kind(self, kind: str) -> None:
        """Choose where the data comes from, if that is offered."""
        self.kind.setCurrentIndex(max(0, self.kind.findData(kind)))

    def source(self) -> SourceChoice:
        """What is chosen."""
        validation = self.validation.choice()
        is_given = validation.images is not None or validation.labels is not None
        return SourceChoice(
            self.kind.currentData(),
            self.image.currentText() or None,
            self.labels.currentText() or None,
            self.files.choice(),
            validation if is_given else None,
        )

    def settings(self) -> dict[str, int]:
        """What of it is a setting of the training."""
        return {"known_margin": KNOWN_MARGIN} if self.partly.isChecked() else {}

    def show_report(self, report: PreflightReport) -> None:
        """Show what was found."""
        self.table.show_report(report)
        self.table.show()


class FilesForm(QWidget):
    """Images and labels as files, or as folders with a pattern.

    Args:
        tooltip: What they are for.
    """

    changed = Signal()

    def __init__(self, tooltip: str = "") -> None:
        super().__init__()
        self.setToolTip(tooltip)
        self.images = FileOrFolder("A file, or a folder with the pattern below.", "Images")
        self.labels = FileOrFolder("Labels of the same shape: 0 is background, every object a number.", "Labels")
        self.image_key = _key("Which files of the folder (*.tif), or the data set in the file (hdf5, zarr).")
        self.label_key = _key("The same for the labels.")
        rows = (
            ("Images", self.images), ("Pattern", self.image_key), ("Labels", self.labels), ("Pattern", self.label_key),
        )  # fmt: skip
        _fill(self, *rows)
        for line in (self.images.line, self.labels.line, self.image_key, self.label_key):
            line.textChanged.connect(lambda _: self.changed.emit())

    def choice(self) -> FileChoice:
        """What was filled in."""
        keys = [line.text().strip() or None for line in (self.image_key, self.label_key)]
        return FileChoice(self.images.path(), self.labels.path(), *keys)


class FileOrFolder(PathInput):
    """A file or folder to type or to choose."""

    def _on_choose(self) -> None:
        menu = QMenu(self)
        menu.addAction("A folder …", lambda: self._set(QFileDialog.getExistingDirectory(self, "A folder")))
        menu.addAction("A file …", lambda: self._set(QFileDialog.getOpenFileName(self, "A file")[0]))
        menu.exec(self.choose.mapToGlobal(self.choose.rect().bottomLeft()))

    def _set(self, path: str) -> None:
        if path:
            self.line.setText(path)


def _layer_combo(tooltip: str) -> QComboBox:
    made = narrow(QComboBox())
    made.setToolTip(tooltip)
    return made


def _key(tooltip: str) -> QLineEdit:
    made = QLineEdit()
    made.setPlaceholderText("all files, or the only data set")
    made.setToolTip(tooltip)
    return made


def _rows(*rows: tuple[str, QWidget]) -> QWidget:
    made = QWidget()
    _fill(made, *rows)
    return made


def _fill(widget: QWidget, *rows: tuple[str, QWidget]) -> None:
    form = QFormLayout(widget)
    form.setContentsMargins(0, 0, 0, 0)
    form.setVerticalSpacing(3)
    for name, editor in rows:
        form.addRow(name, editor)
