"""Chooses the model, how it is trained, and every setting there is."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from micro_sam.errors import ParameterError
from micro_sam.models.spec import get_spec, model_names, training_configurations
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.widgets.embedding_widget import PathInput
from micro_sam.sam_annotator.widgets.parts import Folded, Section, narrow, quietly
from micro_sam.training.configuration import configuration, find_configuration
from micro_sam.training.settings import TrainingSettings

#: What is trained: text, tooltip, settings.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": (
        "LoRA", "Small updates of the encoder, and the decoders: learns much, forgets little.",
        {"peft": "lora", "peft_rank": 8, "learning_rate": 2e-4},
    ),
    "decoder": (
        "Decoders only", "The encoder stays as it is: fastest, and little memory.",
        {"freeze": ("image_encoder",), "learning_rate": 2e-4},
    ),
    "all": (
        "Everything", "All parameters: for small models (vit_t), or many images and much time.", {"learning_rate": 1e-4},
    ),
}  # fmt: skip
_SHOWN = ("name", "model_type", "configuration", "n_epochs", "max_minutes", "patch_shape", "known_margin")
_OF_METHOD = ("peft", "peft_rank", "freeze", "learning_rate")


class TrainingSettingsForm(Section):
    """Model, method, time and all further settings."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("2  Model", "The model to begin with, and how long and how it is trained.")
        self.model = _combo(
            "The model to begin with.", ["automatic", *model_names("bundled", "current", "medical", "previous")]
        )
        self.weights = PathInput("A model file of your own to begin with.", "none")
        self.method = narrow(QComboBox())
        for name, (text, tooltip, _) in METHODS.items():
            self.method.addItem(text, name)
            self.method.setItemData(self.method.count() - 1, tooltip, 3)
        self.method.setToolTip("Which part of the model is trained.")
        self._method_was_chosen = False
        self.method.activated.connect(self._on_method_chosen)
        found = find_configuration()
        self.hardware = _combo("Settings that suit this computer; what you choose here or below wins.", [])
        self.hardware.addItem(f"{found} (found)", None)
        for name in training_configurations():
            self.hardware.addItem(name, name)
        self.minutes = _spin(0, 10_000, 10, "Stop after this many minutes and keep the best model.")
        self.minutes.setSpecialValueText("no limit")
        self.minutes.setSuffix(" min")
        self.epochs = _spin(1, 100_000, 100, "How often to go through the data at most.")
        self.height, self.width = (
            _spin(16, 8192, 512, f"{side} of the patches in pixels.") for side in ("Height", "Width")
        )
        self.name = QLineEdit("my_model")
        self.name.setToolTip("What the new model is called.")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(3)
        for text, widget in (
            ("Begin with", self.model), ("Weights", self.weights), ("Train", self.method), ("Hardware", self.hardware),
        ):  # fmt: skip
            form.addRow(text, widget)
        self.box.addLayout(form)
        times = QFormLayout()
        times.setContentsMargins(0, 0, 0, 0)
        times.setVerticalSpacing(3)
        for text, pair in (("Time", (self.minutes, self.epochs)), ("Patches", (self.height, self.width))):
            times.addRow(text, _beside(*pair))
        times.addRow("Name", self.name)
        self.box.addLayout(times)
        self.epochs.setSuffix(" epochs")
        self.more = FieldsForm([item for item in fields(TrainingSettings) if item.name not in _SHOWN])
        self.root = PathInput(
            "The folder in which checkpoints and the model are kept.", "micro_sam's folder", folder=True
        )
        self.more.layout().insertRow(0, "Keep in", self.root)
        self.add(Folded("All settings", self.more))
        self.hardware.currentIndexChanged.connect(lambda _: self._show_configuration())
        self.model.currentIndexChanged.connect(lambda _: self.changed.emit())
        self._show_configuration()

    def _show_configuration(self) -> None:
        values = configuration(self.hardware.currentData())
        self.model.setItemText(0, f"automatic: {values['model_type']}")
        listed = [f"{values[k]} {text}" for k, text in _LISTED.items() if k in values]
        listed += ["saving memory"] if values.get("activation_checkpointing") else []
        self.hardware.setToolTip(f"Settings that suit this computer: {', '.join(listed)}. What you choose wins.")

    def set_model(self, choice: ModelChoice) -> None:
        """Begin with the model of an annotator, and train what suits its size, unless that was chosen."""
        with quietly(self.model, self.weights.line):
            index = self.model.findText(choice.model_type)
            self.model.setCurrentIndex(max(index, 0) if choice.checkpoint_path is None else 0)
            self.weights.line.setText(choice.checkpoint_path or "")
        is_small = choice.checkpoint_path is None and get_spec(choice.model_type).encoder == "vit_t"
        if not self._method_was_chosen:
            self.method.setCurrentIndex(self.method.findData("all" if is_small else "lora"))

    def _on_method_chosen(self, index: int) -> None:
        self._method_was_chosen = True

    def settings(self, more: dict[str, Any]) -> TrainingSettings:
        """What is chosen, with what another part of the window says.

        Raises:
            ParameterError: A value cannot be.
        """
        model = self.model.currentText() if self.model.currentIndex() else None
        chosen = {
            "name": _plain_name(self.name.text()),
            "model_type": model,
            "configuration": self.hardware.currentData(),
            "n_epochs": self.epochs.value(),
            "max_minutes": self.minutes.value() or None,
            "patch_shape": (self.height.value(), self.width.value()),
        }
        method = METHODS[self.method.currentData()][2]
        return TrainingSettings(**{**chosen, **method, **more, **self.more.values()})


_LISTED = {"n_objects_per_batch": "objects an image", "n_sub_iteration": "rounds of prompts"}


class FieldsForm(QWidget):
    """Edits fields of `TrainingSettings`; what is left as it is is not set.

    Args:
        items: The fields.
    """

    def __init__(self, items: list[Field]) -> None:
        super().__init__()
        self._editors: dict[str, QLineEdit | QComboBox] = {}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(2)
        for item in items:
            editor = _editor(item)
            editor.setToolTip(item.metadata["help"])
            self._editors[item.name] = editor
            form.addRow(item.metadata["label"], editor)
        self._items = {item.name: item for item in items}

    def values(self) -> dict[str, Any]:
        """What was filled in.

        Raises:
            ParameterError: It is no number.
        """
        found = {}
        for name, editor in self._editors.items():
            if isinstance(editor, QComboBox):
                if editor.currentIndex() > 0:
                    found[name] = editor.currentData()
            elif editor.text().strip():
                found[name] = _parsed(self._items[name], editor.text())
        return found


def _editor(item: Field) -> QLineEdit | QComboBox:
    choices = item.metadata["choices"]
    if isinstance(item.default, bool):
        choices = (True, False)
    usual = "as chosen above" if item.name in _OF_METHOD else _usual(item)
    if choices is None:
        made = QLineEdit()
        made.setPlaceholderText(usual)
        return made
    made = narrow(QComboBox())
    made.addItem(usual, None)
    for choice in choices:
        text = {True: "yes", False: "no", None: "as in use"}.get(choice, str(choice))
        made.addItem(text, (choice,) if isinstance(item.default, tuple) else choice)
    return made


def _usual(item: Field) -> str:
    default = {True: "yes", False: "no"}.get(item.default, item.default) if item.default != 1 else 1
    return "automatic" if default is None else f"{default} (usual)" if default != () else "none"


def _parsed(item: Field, text: str) -> Any:
    kind = float if isinstance(item.default, float) else int
    try:
        values = tuple(kind(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ParameterError(f"'{item.metadata['label']}' is a number, got '{text}'.") from None
    if item.name == "peft_blocks":
        return values
    if len(values) != 1:
        raise ParameterError(f"'{item.metadata['label']}' is one number, got '{text}'.")
    return values[0]


def _plain_name(text: str) -> str:
    text = text.strip()
    if not text or any(sign in text for sign in '/\\:*?"<>|') or text.startswith("."):
        raise ParameterError(f"The name of the model becomes the name of a folder; '{text}' cannot be one.")
    return text


def _combo(tooltip: str, texts: list[str]) -> QComboBox:
    made = narrow(QComboBox())
    made.setToolTip(tooltip)
    made.addItems(texts)
    return made


def _spin(low: int, high: int, value: int, tooltip: str) -> QSpinBox:
    made = narrow(QSpinBox())
    made.setRange(low, high)
    made.setValue(value)
    made.setToolTip(tooltip)
    made.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)
    return made


def _beside(*widgets: QWidget) -> QWidget:
    from qtpy.QtWidgets import QHBoxLayout

    made = QWidget()
    line = QHBoxLayout(made)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(3)
    for widget in widgets:
        line.addWidget(widget)
    return made
