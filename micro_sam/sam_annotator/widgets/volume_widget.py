"""Automatic segmentation of a slice or of the whole volume, and how slices become objects of the volume."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox, QVBoxLayout, QWidget

from micro_sam.multi_dimensional_segmentation.volume_settings import VolumeSettings
from micro_sam.sam_annotator.widgets.parts import Folded, narrow, quietly

SLICE, VOLUME = "slice", "volume"
_METHODS = {
    "auto": ("Automatic", "The watershed in 3d for decoder models, else linking."),
    "volume": (
        "Watershed in 3d",
        "The decoder's predictions of all slices are segmented together; not for AMG and APG.",
    ),
    "slices": ("Link slices", "Slices are segmented one by one, and their objects are linked."),
}

_LABELS = {"min_z_extent": "Least slices", "z_smoothing": "Smoothing in z", "beta": "Against linking"}


class VolumeWidget(QWidget):
    """Chooses what is segmented automatically."""

    settings_changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.what = QComboBox()
        self.what.setToolTip("What is segmented automatically.")
        self.what.addItem("This slice", SLICE)
        self.what.addItem("The whole volume", VOLUME)
        self.folded = Folded("Volume parameters", self._form())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.what)
        layout.addWidget(self.folded)
        self.what.currentIndexChanged.connect(lambda _: self._show_form())
        self.set_settings(VolumeSettings())
        self._show_form()

    def _form(self) -> QWidget:
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(2)
        self.method = narrow(QComboBox())
        for name, (text, tooltip) in _METHODS.items():
            self.method.addItem(text, name)
            self.method.setItemData(self.method.count() - 1, tooltip, 3)
        self.gap, self.extent = narrow(QSpinBox()), narrow(QSpinBox())
        self.smoothing, self.beta = narrow(QDoubleSpinBox()), narrow(QDoubleSpinBox())
        self.smoothing.setRange(0.0, 50.0)
        self.smoothing.setSingleStep(0.5)
        self.beta.setRange(0.01, 0.99)
        self.beta.setSingleStep(0.05)
        for name, widget in self._inputs().items():
            metadata = VolumeSettings.__dataclass_fields__[name].metadata
            widget.setToolTip("How slices become objects." if name == "volume_method" else metadata["help"])
            form.addRow(_LABELS.get(name, metadata["label"]), widget)
            if not isinstance(widget, QComboBox):
                widget.setKeyboardTracking(False)
                widget.valueChanged.connect(lambda _: self.settings_changed.emit())
        for box in (self.gap, self.extent):
            box.setSpecialValueText("none")
        self.method.currentIndexChanged.connect(lambda _: self.settings_changed.emit())
        return content

    def _inputs(self) -> dict[str, QWidget]:
        return {
            "volume_method": self.method,
            "gap_closing": self.gap,
            "min_z_extent": self.extent,
            "z_smoothing": self.smoothing,
            "beta": self.beta,
        }

    def _show_form(self) -> None:
        self.folded.setVisible(self.is_volume)

    @property
    def is_volume(self) -> bool:
        """Whether the whole volume is segmented."""
        return self.what.currentData() == VOLUME

    def set_settings(self, settings: VolumeSettings) -> None:
        """Show these values; nothing is announced."""
        with quietly(*self._inputs().values()):
            self.method.setCurrentIndex(self.method.findData(settings.volume_method))
            self.gap.setValue(settings.gap_closing or 0)
            self.extent.setValue(settings.min_z_extent or 0)
            self.smoothing.setValue(settings.z_smoothing)
            self.beta.setValue(settings.beta)

    def settings(self) -> VolumeSettings:
        """The values as they are in the form.

        Raises:
            ParameterError: They do not fit each other.
        """
        return VolumeSettings(
            self.method.currentData(),
            self.gap.value() or None,
            self.extent.value() or None,
            self.smoothing.value(),
            self.beta.value(),
        )
