"""Which objects, which classes, and the brush."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QColorDialog, QComboBox, QFormLayout, QListWidget, QListWidgetItem, QSpinBox

from micro_sam.object_classification.classifier import ObjectClass
from micro_sam.sam_annotator.widgets.parts import Section, button, narrow, quietly, tool_button

_ID = Qt.ItemDataRole.UserRole
_ROW = 21


class ClassesWidget(Section):
    """Chooses the segmentation and edits the classes; knows nothing of what is done with them."""

    segmentation_chosen = Signal(str)
    class_chosen = Signal(int)
    add_requested = Signal()
    remove_requested = Signal(int)
    renamed = Signal(int, str)
    recolored = Signal(int, str)
    eraser_chosen = Signal()
    size_changed = Signal(int)
    undo_requested = Signal()
    redo_requested = Signal()

    def __init__(self) -> None:
        super().__init__("2  Objects and classes", "Choose the segmented objects, and paint over some of each class.")
        self.segmentation = narrow(QComboBox())
        self.segmentation.setToolTip("The labels layer with the objects to classify.")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Objects", self.segmentation)
        self.box.addLayout(form)
        self.classes = QListWidget()
        self.classes.setToolTip("The classes; click one to paint it (keys 1 to 9), double click to rename it.")
        self.classes.setEditTriggers(QListWidget.EditTrigger.DoubleClicked)
        self.add(self.classes)
        self.new = button("Add", "Add a class.")
        self.remove = button("Remove", "Remove the chosen class with its strokes. This can be undone.")
        self.color = button("Colour…", "Choose another colour for the chosen class.")
        self.add(self.new, self.remove, self.color)
        self.brush = tool_button("Brush", "Paint over objects of the chosen class; a short stroke on each is enough.")
        self.eraser = tool_button("Eraser", "Take strokes away.", "0")
        self.size = QSpinBox()
        self.size.setRange(1, 500)
        self.size.setSuffix(" px")
        self.size.setToolTip("How thick strokes are.")
        self.add(self.brush, self.eraser, self.size)
        self.undo = button("Undo", "Take back the last stroke or change of classes.", "Ctrl+Z")
        self.redo = button("Redo", "Make again what was taken back.", "Ctrl+Shift+Z")
        self.add(self.undo, self.redo)
        self._connect()

    def _connect(self) -> None:
        self.segmentation.currentTextChanged.connect(self.segmentation_chosen)
        self.classes.currentItemChanged.connect(lambda *_: self._announce_class())
        self.classes.itemClicked.connect(lambda _: self._announce_class())
        self.classes.itemChanged.connect(lambda item: self.renamed.emit(item.data(_ID), item.text()))
        self.new.clicked.connect(lambda: self.add_requested.emit())
        self.remove.clicked.connect(lambda: self._with_chosen(self.remove_requested.emit))
        self.color.clicked.connect(lambda: self._with_chosen(self._choose_color))
        self.brush.clicked.connect(lambda: self._announce_class())
        self.eraser.clicked.connect(lambda: self.eraser_chosen.emit())
        self.size.valueChanged.connect(self.size_changed)
        self.undo.clicked.connect(self.undo_requested)
        self.redo.clicked.connect(self.redo_requested)

    def set_segmentations(self, names: Sequence[str], chosen: str | None) -> None:
        """The layers with objects there are, and which one is used."""
        with quietly(self.segmentation):
            self.segmentation.clear()
            self.segmentation.addItems(list(names))
            self.segmentation.setCurrentIndex(self.segmentation.findText(chosen) if chosen is not None else -1)

    def set_classes(self, classes: Sequence[ObjectClass], counts: Mapping[int, int] | None = None) -> None:
        """Show the classes, and how many objects were painted of each; the chosen one stays chosen."""
        chosen = self.chosen()
        with quietly(self.classes):
            self.classes.clear()
            for number, found in enumerate(classes, start=1):
                item = QListWidgetItem(_icon(found.color), found.name)
                item.setData(_ID, found.id)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
                samples = (counts or {}).get(found.id, 0)
                item.setToolTip(f"{found.name}: {samples} objects painted. Key: {number}. Double click to rename.")
                self.classes.addItem(item)
        self.classes.setFixedHeight(max(2, min(len(classes), 6)) * _ROW + 6)
        self.choose(chosen if chosen in [c.id for c in classes] else None)
        self.remove.setEnabled(len(classes) > 1)

    def chosen(self) -> int | None:
        """The id of the chosen class."""
        item = self.classes.currentItem()
        return None if item is None else item.data(_ID)

    def choose(self, class_id: int | None) -> None:
        """Choose a class, by default the first; nothing is announced."""
        with quietly(self.classes):
            rows = [k for k in range(self.classes.count()) if self.classes.item(k).data(_ID) == class_id]
            self.classes.setCurrentRow(rows[0] if rows else 0)

    def set_tool(self, erasing: bool) -> None:
        """Show whether strokes are painted or taken away."""
        self.brush.setChecked(not erasing)
        self.eraser.setChecked(erasing)

    def set_size(self, size: int) -> None:
        """Show how thick strokes are; nothing is announced."""
        with quietly(self.size):
            self.size.setValue(size)

    def _announce_class(self) -> None:
        self._with_chosen(self.class_chosen.emit)

    def _with_chosen(self, act) -> None:
        class_id = self.chosen()
        if class_id is not None:
            act(class_id)

    def _choose_color(self, class_id: int) -> None:
        color = QColorDialog.getColor(parent=self, title="Colour of the class")
        if color.isValid():
            self.recolored.emit(class_id, color.name())


def _icon(color: str) -> QIcon:
    pixmap = QPixmap(14, 14)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
