"""A form made from a settings dataclass: labels, ranges and help come from the fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QSpinBox, QWidget

from micro_sam.sam_annotator.widgets.parts import narrow, quietly

_LARGEST = 10**7


class SettingsForm(QWidget):
    """Edits the values of a frozen settings dataclass whose fields carry ``label``, ``range``, ``help``, and perhaps ``choices``.

    Args:
        settings: The values to begin with.
    """

    changed = Signal()

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self._type = type(settings)
        self._inputs: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        for item in fields(settings):
            editor = _editor(item)
            editor.setToolTip(item.metadata["help"])
            label = QLabel(item.metadata["label"])
            label.setToolTip(item.metadata["help"])
            layout.addRow(label, editor)
            self._inputs[item.name] = editor
        self.set_values(settings)
        for editor in self._inputs.values():
            _changes(editor).connect(lambda _: self.changed.emit())

    def set_values(self, settings: Any) -> None:
        """Show these values; nothing is announced."""
        for name, editor in self._inputs.items():
            with quietly(editor):
                _set(editor, getattr(settings, name))

    def values(self) -> Any:
        """The settings as they are in the form."""
        return self._type(**{name: _value(editor) for name, editor in self._inputs.items()})

    def show_only(self, names: Iterable[str]) -> None:
        """Show these settings and hide the others, which keep their values."""
        wanted = set(names)
        for name, editor in self._inputs.items():
            for widget in (editor, self.layout().labelForField(editor)):
                widget.setVisible(name in wanted)
        self.setVisible(bool(wanted))


def _changes(editor: QWidget) -> Any:
    """The signal that its value changed."""
    if isinstance(editor, QComboBox):
        return editor.currentTextChanged
    return editor.toggled if isinstance(editor, QCheckBox) else editor.valueChanged


def _set(editor: QWidget, value: Any) -> None:
    if isinstance(editor, QComboBox):
        editor.setCurrentText(value)
    elif isinstance(editor, QCheckBox):
        editor.setChecked(value)
    else:
        editor.setValue(value)


def _value(editor: QWidget) -> Any:
    if isinstance(editor, QComboBox):
        return editor.currentText()
    return editor.isChecked() if isinstance(editor, QCheckBox) else editor.value()


def _editor(item: Field) -> Any:
    if isinstance(item.default, bool):
        return QCheckBox()
    if item.metadata.get("choices"):
        editor = narrow(QComboBox())
        editor.addItems(item.metadata["choices"])
        return editor
    low, high = item.metadata["range"] or (None, None)
    if isinstance(item.default, int):
        editor = QSpinBox()
        editor.setRange(low if low is not None else -_LARGEST, high if high is not None else _LARGEST)
    else:
        editor = QDoubleSpinBox()
        editor.setDecimals(2)
        editor.setRange(low if low is not None else -_LARGEST, high if high is not None else _LARGEST)
        editor.setSingleStep(0.05 if (high or 0) <= 1 else 0.5)
    editor.setKeyboardTracking(False)
    return editor
