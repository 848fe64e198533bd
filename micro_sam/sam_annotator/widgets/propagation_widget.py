"""Following the current object through a volume, and the slices to look at afterwards."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSpinBox,
    QToolButton,
    QWidget,
)

from micro_sam.multi_dimensional_segmentation.projection import PROJECTIONS, Projection, PropagationSettings
from micro_sam.sam_annotator.widgets.doubtful_list import DoubtfulList
from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, narrow, quietly

_PROJECTION_TEXTS = {
    "box": ("Box", "The box around the mask of the neighbouring slice; for compact objects."),
    "mask": ("Mask", "Box and mask of the neighbouring slice; the best choice for most objects."),
    "points": ("Points", "A point in the middle, and negative points around; for objects that change their outline."),
    "points_and_mask": ("Points and mask", "Points and mask of the neighbouring slice."),
    "single_point": ("Single point", "A point in the middle of the mask; for small round objects."),
}


class PropagationWidget(Section):
    """Asks for propagation, says how and how far, and lists doubtful slices."""

    propagate_requested = Signal()
    settings_changed = Signal()
    #: (0 for the first, 1 for the last): the limit becomes the slice that is looked at.
    limit_here = Signal(int)

    def __init__(self) -> None:
        super().__init__("0  Through the volume", "Follow the object from its annotated slices through the others.")
        self.propagate = button(
            "Propagate",
            "Follow the object from the slices with prompts, or painted ones, through the others. A slice with only "
            "negative points stops it.",
            "Shift+S",
            primary=True,
        )
        self.propagate.clicked.connect(self.propagate_requested)
        self.add(self.propagate)
        self.first, self.last = _slice_box("The first slice to enter."), _slice_box("The last slice to enter.")
        self.box.addLayout(self._limits())
        self.add(Folded("Propagation settings", self._settings()))
        self.doubtful = DoubtfulList("Slice")
        self.add(self.doubtful)

    def _limits(self) -> QHBoxLayout:
        line = QHBoxLayout()
        line.setSpacing(3)
        for which, (text, box) in enumerate((("Slices", self.first), ("to", self.last))):
            here = QToolButton()
            here.setText("here")
            here.setStyleSheet("QToolButton { padding: 1px; background: rgba(128, 128, 128, 70); border-radius: 2px; }")
            here.setToolTip(f"{'First' if which == 0 else 'Last'} slice: the one that you look at.")
            here.clicked.connect(lambda _=False, which=which: self.limit_here.emit(which))
            line.addWidget(QLabel(text))
            line.addWidget(box, 1)
            line.addWidget(here)
            box.valueChanged.connect(lambda _: self.settings_changed.emit())
        return line

    def _settings(self) -> QWidget:
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(3)
        self.projection = narrow(QComboBox())
        for name in PROJECTIONS:
            text, tooltip = _PROJECTION_TEXTS[name]
            self.projection.addItem(text, name)
            self.projection.setItemData(self.projection.count() - 1, tooltip, Qt.ItemDataRole.ToolTipRole)
        self.iou, self.extension, self.doubt = (narrow(QDoubleSpinBox()) for _ in range(3))
        self.splits = QCheckBox()
        help = {name: item.metadata for name, item in PropagationSettings.__dataclass_fields__.items()}
        for name, widget in (
            ("projection", self.projection),
            ("iou_threshold", self.iou),
            ("box_extension", self.extension),
            ("follow_splits", self.splits),
        ):
            widget.setToolTip(help[name]["help"])
            form.addRow(help[name]["label"], widget)
        for widget, most, step in ((self.iou, 1.0, 0.05), (self.extension, 200.0, 0.05), (self.doubt, 1.0, 0.05)):
            widget.setRange(0.0, most)
            widget.setSingleStep(step)
            widget.setDecimals(3 if widget is self.extension else 2)
            widget.setKeyboardTracking(False)
            widget.valueChanged.connect(lambda _: self.settings_changed.emit())
        self.doubt.setToolTip("Slices whose certainty is lower than this are listed below.")
        form.addRow("Doubtful below", self.doubt)
        self.projection.currentIndexChanged.connect(lambda _: self.settings_changed.emit())
        self.splits.toggled.connect(lambda _: self.settings_changed.emit())
        return content

    def set_settings(self, settings: PropagationSettings, doubtful_below: float) -> None:
        """Show these settings; nothing is announced."""
        names = [name for name in PROJECTIONS if Projection.of(name) == settings.projection]
        with quietly(self.projection, self.iou, self.extension, self.splits, self.doubt):
            self.projection.setCurrentIndex(self.projection.findData(names[0]) if names else -1)
            self.iou.setValue(settings.iou_threshold)
            self.extension.setValue(settings.box_extension)
            self.splits.setChecked(settings.follow_splits)
            self.doubt.setValue(doubtful_below)

    def settings(self, before: PropagationSettings) -> PropagationSettings:
        """The settings as they are in the form; a projection that has no name stays what it was."""
        projection = self.projection.currentData() or before.projection
        return PropagationSettings(
            projection, self.iou.value(), self.extension.value(), self.splits.isChecked(), before.motion_smoothing
        )

    def set_depth(self, depth: int, limits: tuple[int | None, int | None] = (None, None)) -> None:
        """How many slices there are, and which of them to enter; nothing is announced."""
        with quietly(self.first, self.last):
            for box, limit, default in ((self.first, limits[0], 0), (self.last, limits[1], depth - 1)):
                box.setRange(0, depth - 1)
                box.setValue(default if limit is None else limit)

    def limits(self) -> tuple[int | None, int | None]:
        """The first and the last slice to enter; None where that is the end of the volume."""
        first, last = sorted((self.first.value(), self.last.value()))
        return (first or None, None if last == self.last.maximum() else last)


def _slice_box(tooltip: str) -> QSpinBox:
    made = QSpinBox()
    made.setToolTip(tooltip)
    made.setRange(0, 0)
    made.setKeyboardTracking(False)
    made.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
    made.setStyleSheet("QSpinBox { min-width: 30px; padding: 1px 2px; }")
    made.setMinimumWidth(34)
    return made
