"""Train and predict, objects in doubt, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLabel, QListWidget, QListWidgetItem, QSizePolicy

from micro_sam.sam_annotator.widgets.parts import Section, button, quietly

_ID = Qt.ItemDataRole.UserRole
_FILES = "Object classifiers (*.npz)"


class ClassifyWidget(Section):
    """Asks for training, and shows the objects that the classifier is least sure of."""

    train_requested = Signal()
    automatic_toggled = Signal(bool)
    jump_requested = Signal(int)
    next_requested = Signal()

    def __init__(self) -> None:
        super().__init__("3  Classify", "Learn from the strokes, and look at the objects that are in doubt.")
        self.train = button("Train and predict", "Learn from all strokes and classify all objects.", "T", primary=True)
        self.automatic = QCheckBox("Update after every stroke")
        self.automatic.setToolTip("Train again by itself as soon as strokes or classes change.")
        self.automatic.setChecked(True)
        self.found = QLabel()
        self.found.setWordWrap(True)
        self.found.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.found.setToolTip("How many objects there are of each class.")
        self.doubtful = QListWidget()
        self.doubtful.setToolTip(
            "The objects in doubt, the least sure first; click one to look at it, and paint over it."
        )
        self.doubtful.setFixedHeight(96)
        self.next = button("Next in doubt", "Look at the next object that the classifier is not sure of.", "U")
        self.add(self.train)
        self.add(self.automatic)
        self.add(self.found)
        self.add(self.doubtful)
        self.add(self.next)
        self.train.clicked.connect(lambda: self.train_requested.emit())
        self.automatic.toggled.connect(self.automatic_toggled)
        self.doubtful.itemClicked.connect(lambda item: self.jump_requested.emit(item.data(_ID)))
        self.next.clicked.connect(lambda: self.next_requested.emit())
        self.show_found("", ())

    def show_found(self, text: str, doubtful: Sequence[tuple[int, str]]) -> None:
        """Show what was predicted.

        Args:
            text: How many objects of each class.
            doubtful: For each object in doubt its id and what to say about it.
        """
        self.found.setText(text)
        self.found.setVisible(bool(text))
        with quietly(self.doubtful):
            self.doubtful.clear()
            for label, said in doubtful:
                item = QListWidgetItem(said)
                item.setData(_ID, label)
                self.doubtful.addItem(item)
        self.next.setEnabled(bool(doubtful))

    def following(self) -> int | None:
        """The object after the one that is chosen in the list, which is chosen now; None if there is none."""
        if not self.doubtful.count():
            return None
        row = (self.doubtful.currentRow() + 1) % self.doubtful.count()
        self.doubtful.setCurrentRow(row)
        return self.doubtful.item(row).data(_ID)


class ClassifierFilesWidget(Section):
    """Saves and loads the classifier, and exports the classes."""

    load_requested = Signal(str)
    save_requested = Signal(str)
    export_requested = Signal(str)
    forget_requested = Signal()

    def __init__(self) -> None:
        super().__init__("4  Keep it", "Save the classifier for other images, and export the classes of this one.")
        self.samples = QLabel()
        self.samples.setWordWrap(True)
        self.samples.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.samples.setToolTip("What the classifier has learned from; it goes on from image to image.")
        self.load = button("Load…", "Load a classifier and go on with it: its samples are kept.")
        self.save = button("Save…", "Save the classifier with its samples (.npz); scripts and commands can apply it.")
        self.export = button("Export…", "Write an image of classes (.tif), and beside it a table (.csv).")
        self.add(self.samples)
        self.forget = button("Start anew", "Forget what was learned from other images; strokes on this one stay.")
        self.add(self.load, self.save)
        self.add(self.export, self.forget)
        self.load.clicked.connect(self._on_load)
        self.save.clicked.connect(self._on_save)
        self.export.clicked.connect(self._on_export)
        self.forget.clicked.connect(lambda: self.forget_requested.emit())
        self.show_samples("")

    def show_samples(self, text: str) -> None:
        """Show what the classifier has learned from."""
        self.samples.setText(text)
        self.samples.setVisible(bool(text))

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a classifier", "", _FILES)
        if path:
            self.load_requested.emit(path)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the classifier", "object_classifier.npz", _FILES)
        if path:
            self.save_requested.emit(path)

    def _on_export(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Export classes", "classes.tif", "Labels (*.tif *.zarr)")
        if path:
            self.export_requested.emit(path)
