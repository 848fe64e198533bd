"""Asks for the folders of a series of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QLineEdit, QVBoxLayout, QWidget

from micro_sam.models.spec import default_model, model_names
from micro_sam.sam_annotator.widgets.embedding_widget import PathInput
from micro_sam.sam_annotator.widgets.parts import PANEL_WIDTH, Folded, Section, button
from micro_sam.sam_annotator.widgets.status_line import StatusLine

if TYPE_CHECKING:
    import napari

_HINT = "Choose a folder of images and an output folder, then press Annotate."


class SeriesForm(QWidget):
    """The form from which a series is opened.

    Args:
        parent: The parent of the widget.
    """

    start_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumWidth(PANEL_WIDTH)
        self.setMaximumWidth(PANEL_WIDTH + 20)
        self.status = StatusLine()
        self.status.say(_HINT)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.addWidget(self.status)
        layout.addWidget(self._folders())
        self.start = button(
            "Annotate", "Open the first image that is not done yet; what was done before is known.", primary=True
        )
        self.start.clicked.connect(lambda: self.start_requested.emit())
        layout.addWidget(self.start)
        layout.addStretch(1)

    def _folders(self) -> Section:
        section = Section("Image series", "Images of a folder, annotated one after another.")
        self.input = FolderInput("The folder of the images.", "Folder of the images")
        self.pattern = _line("*", "Which files, for example *.tif or **/*.png.")
        self.output = FolderInput("Where labels go, and the record of what is done.", "Another folder")
        self.model = QComboBox()
        self.model.setToolTip("The model. Names with lm are for light, with em for electron microscopy.")
        self.model.setMinimumContentsLength(8)
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model.addItems(list(model_names("bundled", "current", "medical", "previous")))
        self.model.setCurrentText(default_model())
        self.volumetric = QCheckBox("Volumes (3d)")
        self.volumetric.setToolTip("The files are volumes; they are annotated in 3d.")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for name, widget in (
            ("Images", self.input), ("Pattern", self.pattern), ("Output", self.output), ("Model", self.model),
            ("", self.volumetric),
        ):  # fmt: skip
            form.addRow(name, widget)
        section.box.addLayout(form)
        section.add(Folded("More settings", self._settings()))
        return section

    def _settings(self) -> QWidget:
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(3)
        self.skip = QCheckBox("Only images not done yet")
        self.skip.setToolTip("Begin with the first image that is not done, and go only to such images with Next.")
        self.skip.setChecked(True)
        self.embeddings = FolderInput("A folder where embeddings are kept for the next time.", "In memory")
        self.initial = FolderInput("Labels of another tool, to begin with and to correct.", "None")
        self.initial_pattern = _line("*", "Which files of that folder, for example *_masks.tif.")
        self.key = _line("", "The data set inside the files, for hdf5 and zarr.")
        self.weights = PathInput("A model file of your own; its encoder is recognised.", "A model file")
        form.addRow(self.skip)
        for name, widget in (
            ("Keep in", self.embeddings), ("Labels", self.initial), ("Pattern", self.initial_pattern),
            ("Data set", self.key), ("Own weights", self.weights),
        ):  # fmt: skip
            form.addRow(name, widget)
        return content

    def missing(self) -> str | None:
        """What has to be filled in still, as a sentence."""
        for widget, what in ((self.input, "the folder of the images"), (self.output, "an output folder")):
            if widget.path() is None:
                return f"Choose {what} first."
        return None

    def values(self) -> dict[str, Any]:
        """What was filled in, as arguments of `image_folder_annotator`."""
        return {
            "input_folder": self.input.path() or "",
            "output_folder": self.output.path() or "",
            "pattern": self.pattern.text().strip() or "*",
            "model_type": self.model.currentText(),
            "is_volumetric": self.volumetric.isChecked(),
            "skip_segmented": self.skip.isChecked(),
            "embedding_path": self.embeddings.path(),
            "initial_segmentation_folder": self.initial.path(),
            "initial_segmentation_pattern": self.initial_pattern.text().strip() or "*",
            "key": self.key.text().strip() or None,
            "checkpoint_path": self.weights.path(),
        }

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self.status.say(text, "error")

    def finish(self, viewer: napari.Viewer) -> None:
        """Take the form out of the window, when everything that is going on now is done."""
        self.start.setEnabled(False)
        docks = {id(inner): inner for inner in viewer.window.dock_widgets.values()}
        if id(self) in docks:
            QTimer.singleShot(0, lambda: viewer.window.remove_dock_widget(self))


class FolderInput(PathInput):
    """A folder to type or to choose."""

    def __init__(self, tooltip: str, placeholder: str) -> None:
        super().__init__(tooltip, placeholder, folder=True)

    def _on_choose(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self.line.toolTip(), self.line.text())
        if path:
            self.line.setText(path)


def _line(text: str, tooltip: str) -> QLineEdit:
    made = QLineEdit(text)
    made.setToolTip(tooltip)
    return made
