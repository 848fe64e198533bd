"""A form made from a settings dataclass: labels, ranges and help come from the fields."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QLabel, QSpinBox, QWidget

from micro_sam.sam_annotator.widgets.parts import quietly

_LARGEST = 10**7


class SettingsForm(QWidget):
    """Edits the values of a frozen settings dataclass whose fields carry ``label``, ``range`` and ``help``.

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
            signal = editor.toggled if isinstance(editor, QCheckBox) else editor.valueChanged
            signal.connect(lambda _: self.changed.emit())

    def set_values(self, settings: Any) -> None:
        """Show these values; nothing is announced."""
        for name, editor in self._inputs.items():
            with quietly(editor):
                value = getattr(settings, name)
                editor.setChecked(value) if isinstance(editor, QCheckBox) else editor.setValue(value)

    def values(self) -> Any:
        """The settings as they are in the form."""
        found = {
            name: editor.isChecked() if isinstance(editor, QCheckBox) else editor.value()
            for name, editor in self._inputs.items()
        }
        return self._type(**found)


def _editor(item: Field) -> QWidget:
    if isinstance(item.default, bool):
        return QCheckBox()
    low, high = item.metadata["range"] or (None, None)
    if isinstance(item.default, int):
        editor: QSpinBox | QDoubleSpinBox = QSpinBox()
        editor.setRange(low if low is not None else -_LARGEST, high if high is not None else _LARGEST)
    else:
        editor = QDoubleSpinBox()
        editor.setDecimals(2)
        editor.setRange(low if low is not None else -_LARGEST, high if high is not None else _LARGEST)
        editor.setSingleStep(0.05 if (high or 0) <= 1 else 0.5)
    editor.setKeyboardTracking(False)
    return editor
