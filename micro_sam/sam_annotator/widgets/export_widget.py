"""Exporting committed objects to files of other programs, and importing theirs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QMessageBox, QVBoxLayout, QWidget

from micro_sam.exports.registry import FORMATS, ExportFormat, written
from micro_sam.exports.settings import ExportSettings, ImportSettings
from micro_sam.sam_annotator.widgets.parts import button, narrow
from micro_sam.sam_annotator.widgets.settings_form import SettingsForm

_IMPORTED = "*.tif *.tiff *.png *.npy *.h5 *.zip *.roi *.geojson *.json *.xml *.txt zarr.json"
_FILTER = f"Objects ({_IMPORTED});;All files (*)"


class ExportWidget(QWidget):
    """Asks for the format and the file.

    Args:
        formats: The formats to offer.
    """

    export_requested = Signal(str, object)
    import_requested = Signal(str, object)

    def __init__(self, formats: Iterable[ExportFormat]) -> None:
        super().__init__()
        self.format = narrow(QComboBox())
        self.format.setToolTip("The format, named after the program that reads it.")
        for found in formats:
            self.format.addItem(found.title, found.name)
            self.format.setItemData(self.format.count() - 1, f"Files: {', '.join(found.suffixes) or 'a folder'}.", 3)
        self.settings = SettingsForm(ExportSettings())
        self.export = button("Export…", "Write the committed objects to a file of this format.")
        self.importing = SettingsForm(ImportSettings())
        self.import_ = button(
            "Import…",
            "Open objects of Cellpose, QuPath, ImageJ, StarDist, TrackMate or COCO in the place of the committed ones.",
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.format, self.settings, self.export, self.importing, self.import_):
            layout.addWidget(widget)
        self.format.currentIndexChanged.connect(self._on_format)
        self.export.clicked.connect(self._on_export)
        self.import_.clicked.connect(self._on_import)
        self._on_format()

    def chosen(self) -> ExportFormat:
        """The format that is chosen."""
        return FORMATS[self.format.currentData()]

    def _on_format(self) -> None:
        self.settings.show_only(ExportSettings.names_for(self.chosen().name))

    def _on_export(self) -> None:
        found = self.chosen()
        suffix = found.suffixes[0] if found.suffixes else ""
        pattern = f"{found.title} ({' '.join(f'*{s}' for s in found.suffixes) or '*'})"
        path, _ = QFileDialog.getSaveFileName(
            self, "Export objects", f"objects{suffix}", pattern, options=QFileDialog.Option.DontConfirmOverwrite
        )
        if not path:
            return
        if found.suffixes and not path.lower().endswith(found.suffixes):
            path += suffix
        if self._may_write(path):
            self.export_requested.emit(path, self.settings.values())

    def _may_write(self, path: str) -> bool:
        """Whether nothing is there, or a person wants it to be replaced."""
        there = [str(target) for target in written(path) if target.exists()] if Path(path).parent.is_dir() else []
        if not there:
            return True
        answer = QMessageBox.question(self, "Replace it?", f"{' and '.join(there)} exists already. Replace it?")
        return answer == QMessageBox.StandardButton.Yes

    def _on_import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import objects", "", _FILTER)
        if path:
            self.import_requested.emit(path, self.importing.values())
