"""A form made from `micro_sam.user_settings.UserSettings`: labels, help and choices come from its fields."""

from __future__ import annotations

import os
from dataclasses import Field, fields

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QWidget

from micro_sam.models.device import available_devices
from micro_sam.models.spec import model_names
from micro_sam.sam_annotator.widgets.parts import caption, narrow, quietly
from micro_sam.sam_annotator.widgets.series_form import FolderInput
from micro_sam.user_settings import UserSettings

_GROUPS = ("bundled", "current", "medical", "previous")
_AUTOMATIC, _DEFAULT = "automatic", "default"


class UserSettingsForm(QWidget):
    """Edits what a person has set."""

    changed = Signal()

    def __init__(self, settings: UserSettings) -> None:
        super().__init__()
        self.inputs: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
        for item in fields(settings):
            editor = self.inputs[item.name] = _editor(item)
            label = QLabel(item.metadata["label"])
            for widget in (label, editor):
                widget.setToolTip(f"{item.metadata['help']} The variable {item.metadata['variable']} wins over it.")
            layout.addRow(label, editor)
            variable = item.metadata["variable"]
            if os.environ.get(variable):
                layout.addRow(caption(f"{variable} is set and wins: {os.environ[variable]}"))
        self.show_settings(settings)
        for editor in self.inputs.values():
            signal = editor.currentTextChanged if isinstance(editor, QComboBox) else editor.line.textChanged
            signal.connect(lambda _: self.changed.emit())

    def show_settings(self, settings: UserSettings) -> None:
        """Show these values; nothing is announced."""
        for name, editor in self.inputs.items():
            value = getattr(settings, name)
            if isinstance(editor, QComboBox):
                with quietly(editor):
                    if editor.findData(value) < 0:
                        editor.addItem(value, value)
                    editor.setCurrentIndex(editor.findData(value))
            else:
                with quietly(editor.line):
                    editor.line.setText(value)

    def settings(self) -> UserSettings:
        """The values as they are in the form."""
        found = {
            name: editor.currentData() if isinstance(editor, QComboBox) else editor.path() or ""
            for name, editor in self.inputs.items()
        }
        return UserSettings(**found)


def _editor(item: Field) -> QWidget:
    kind = item.metadata["kind"]
    if kind == "folder":
        return FolderInput(item.metadata["help"], _DEFAULT)
    editor = narrow(QComboBox())
    if kind == "model":
        editor.addItem(_DEFAULT, "")
        names = list(model_names(*_GROUPS))
    else:
        names = list(item.metadata["choices"])
        if item.name == "device":
            names = ["auto", *available_devices()]
    for name in names:
        editor.addItem(_AUTOMATIC if name == "auto" else name, name)
    return editor
