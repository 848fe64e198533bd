"""Which image, which model, and computing the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QSpinBox,
    QToolButton,
    QWidget,
)

from micro_sam.models.device import available_devices
from micro_sam.models.spec import DEFAULT_MODEL, default_model, get_spec, model_names
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, quietly

_MODEL_HELP = "The model. Names with lm are for light, with em for electron microscopy."
_GROUPS = ("bundled", "current", "medical", "previous")
_TILINGS = ("automatic", "none", "own")
_TILING_TEXTS = {"automatic": "Automatic", "none": "Whole image", "own": "Own tiles"}


class EmbeddingWidget(Section):
    """Chooses image and model, and asks for embeddings."""

    compute_requested = Signal()
    cancel_requested = Signal()
    image_chosen = Signal(str)
    model_changed = Signal()

    def __init__(self) -> None:
        super().__init__("1  Image and model", "Choose what to annotate, and let the model look at it once.")
        self._running = False
        self._given, self._registered = ModelChoice(), default_model()
        self.image = _combo("The image layer that is annotated.")
        self.model = _combo(_MODEL_HELP)
        for name in model_names(*_GROUPS):
            self.model.addItem(name)
            self.model.setItemData(self.model.count() - 1, _model_help(name), Qt.ItemDataRole.ToolTipRole)
        self.model.setCurrentText(default_model())
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", self.image)
        form.addRow("Model", self.model)
        self.box.addLayout(form)
        self.compute = button(
            "Compute embeddings",
            "Let the model look at the image; after that every click is answered at once.",
            primary=True,
        )
        self.add(self.compute)
        self.add(Folded("Model and embedding settings", self._settings()))
        self.compute.clicked.connect(
            lambda: (self.cancel_requested if self._running else self.compute_requested).emit()
        )
        self.image.currentTextChanged.connect(self.image_chosen)
        self.model.currentIndexChanged.connect(lambda _: self._on_model_chosen())
        self.weights.line.textChanged.connect(lambda _: self._on_weights())
        self.device.currentTextChanged.connect(lambda _: self.model_changed.emit())

    def _settings(self) -> QWidget:
        content = QWidget()
        form = QFormLayout(content)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(3)
        self.device = _combo("Where the model computes; automatic takes a GPU if there is one.")
        self.device.addItems(["automatic", *available_devices()])
        self.weights = PathInput("A model file of your own; it is the model that is shown above then.", "A model file")
        self.store = PathInput(
            "A folder (.zarr) where embeddings are kept, so that the image opens at once next time.",
            "In memory",
            folder=True,
        )
        self.tiling = _combo("Large images are cut into tiles, so that small objects stay visible to the model.")
        for name in _TILINGS:
            self.tiling.addItem(_TILING_TEXTS[name], name)
        self.tile, self.halo = (
            _pair(1024, "Side of a tile in pixels (y, x)."),
            _pair(128, "Overlap of tiles in pixels (y, x)."),
        )
        self.normalization = _combo(
            "Contrast from the darkest and brightest pixel, or robust against single hot pixels."
        )
        self.normalization.addItems(["minmax", "robust"])
        form.addRow("Device", self.device)
        form.addRow("Own weights", self.weights)
        form.addRow("Keep in", self.store)
        form.addRow("Contrast", self.normalization)
        form.addRow("Tiles", self.tiling)
        self._tile_rows = [("Tile", self.tile), ("Halo", self.halo)]
        for label, widget in self._tile_rows:
            form.addRow(label, widget)
        self._form = form
        self.tiling.currentIndexChanged.connect(lambda _: self._show_tiles())
        self._show_tiles()
        return content

    def _show_tiles(self) -> None:
        for _, widget in self._tile_rows:
            self._form.setRowVisible(widget, self.tiling.currentData() == "own")

    def set_images(self, names: Sequence[str], chosen: str | None) -> None:
        """The images there are, and which one is annotated."""
        with quietly(self.image):
            self.image.clear()
            self.image.addItems(list(names))
            self.image.setCurrentIndex(self.image.findText(chosen) if chosen is not None else -1)

    def model_choice(self) -> ModelChoice:
        """The model that is chosen."""
        device, weights, given = self.device.currentText(), self.weights.path(), self._given
        name = self.model.currentText() if weights is None else DEFAULT_MODEL  # a file says itself what it holds
        decoder = None
        if weights is not None and weights == given.checkpoint_path:
            name, decoder = given.model_type, given.decoder_path
        return ModelChoice(name, weights, decoder, None if device == "automatic" else device, given.precision)

    def set_model(self, choice: ModelChoice) -> None:
        """Show this choice; nothing is announced."""
        self._given = choice
        with quietly(self.model, self.device, self.weights.line):
            if choice.checkpoint_path is None:
                if self.model.findText(choice.model_type) < 0:
                    self.model.addItem(choice.model_type)
                self._registered = choice.model_type
            device = choice.device or "automatic"
            if self.device.findText(device) < 0:
                self.device.addItem(device)
            self.device.setCurrentText(device)
            self.weights.line.setText(choice.checkpoint_path or "")
            self._show_weights()

    def _on_weights(self) -> None:
        with quietly(self.model):
            self._show_weights()
        self.model_changed.emit()

    def _on_model_chosen(self) -> None:
        """A registered model takes the place of own weights; these stay in the list."""
        own = self.model.currentData()
        self._registered = self._registered if own else self.model.currentText()
        with quietly(self.weights.line):
            self.weights.line.setText(own or "")
        self.model.setToolTip(_own_help(own) if own else _MODEL_HELP)
        self.model_changed.emit()

    def _show_weights(self) -> None:
        """Show the file of own weights as the model, or the registered model if there is none."""
        own, there = self.weights.path(), self.model.itemData(0)
        if there is not None:
            self.model.removeItem(0)
        if own is not None:
            self.model.insertItem(0, ModelChoice(checkpoint_path=own).shown_name, own)
            self.model.setItemData(0, _own_help(own), Qt.ItemDataRole.ToolTipRole)
        self.model.setCurrentIndex(0 if own is not None else self.model.findText(self._registered))
        self.model.setToolTip(_MODEL_HELP if own is None else _own_help(own))

    def embedding_choice(self) -> EmbeddingChoice:
        """How embeddings are to be computed."""
        own = self.tiling.currentData() == "own"
        return EmbeddingChoice(
            self.store.path(),
            _values(self.tile) if own else None,
            _values(self.halo) if own else None,
            self.tiling.currentData() != "none",
            self.normalization.currentText(),
        )

    def set_embedding(self, choice: EmbeddingChoice) -> None:
        """Show this choice."""
        self.store.line.setText(choice.path or "")
        own = choice.tile_shape is not None
        name = "own" if own else "automatic" if choice.automatic_tiling else "none"
        self.tiling.setCurrentIndex(self.tiling.findData(name))
        for widget, values in ((self.tile, choice.tile_shape), (self.halo, choice.halo)):
            for spin, value in zip(widget.findChildren(QSpinBox), values or ()):
                spin.setValue(value)
        self.normalization.setCurrentText(choice.normalization)

    def set_running(self, running: bool) -> None:
        """Whether embeddings are being computed: then the button cancels."""
        self._running = running
        self.set_ready(False)
        for widget in (self.image, self.model, self.device, self.weights, self.store, self.tiling):
            widget.setEnabled(not running)

    def set_ready(self, ready: bool) -> None:
        """Whether the embeddings of the image are complete."""
        self.compute.setText("Cancel" if self._running else "Embeddings are ready ✓" if ready else "Compute embeddings")


class PathInput(QWidget):
    """A path to type or to choose."""

    def __init__(self, tooltip: str, placeholder: str, folder: bool = False) -> None:
        super().__init__()
        self._folder = folder
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self.line.setToolTip(tooltip)
        self.choose = QToolButton()
        self.choose.setText("…")
        self.choose.setToolTip("Choose it in a dialog.")
        self.choose.clicked.connect(self._on_choose)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.line, 1)
        layout.addWidget(self.choose)

    def path(self) -> str | None:
        """What was typed; None if nothing was."""
        return self.line.text().strip() or None

    def _on_choose(self) -> None:
        if self._folder:
            path, _ = QFileDialog.getSaveFileName(self, "Where to keep embeddings", self.line.text(), "Zarr (*.zarr)")
        else:
            path, _ = QFileDialog.getOpenFileName(self, "Choose a file", self.line.text())
        if path:
            self.line.setText(path)


def _combo(tooltip: str) -> QComboBox:
    made = QComboBox()
    made.setToolTip(tooltip)
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(8)
    return made


def _pair(value: int, tooltip: str) -> QWidget:
    made = QWidget()
    layout = QHBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for _ in range(2):
        spin = QSpinBox()
        spin.setRange(0, 16384)
        spin.setSingleStep(32)
        spin.setValue(value)
        spin.setToolTip(tooltip)
        layout.addWidget(spin)
    return made


def _values(pair: QWidget) -> tuple[int, int]:
    first, second = pair.findChildren(QSpinBox)
    return first.value(), second.value()


def _own_help(path: str) -> str:
    return f"A model file of your own: {path}"


def _model_help(name: str) -> Any:
    spec = get_spec(name)
    return spec.note or f"{name}: encoder {spec.encoder}, {'with' if spec.decoder else 'without'} decoder"
