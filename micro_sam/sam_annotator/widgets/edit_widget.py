"""Tools for objects that exist already, and undo."""

from __future__ import annotations

from qtpy.QtCore import Signal

from micro_sam.sam_annotator.widgets.parts import Section, button, tool_button

EDIT_TOOLS = {
    "correct": (
        "Correct",
        "Click an object of any labels layer; then change it with points, and commit it.",
        "Shift+E",
    ),
    "split": ("Split", "Draw a stroke across an object to cut it in two.", "Shift+X"),
    "merge": ("Merge", "Draw a stroke through objects to make them one.", "Shift+M"),
    "delete": ("Delete", "Click an object to delete it.", "Shift+D"),
    "fill": ("Fill", "Click an object to fill its holes, or click a hole.", "Shift+F"),
}


class EditWidget(Section):
    """Chooses a tool that changes objects, and takes steps back."""

    tool_chosen = Signal(str)
    undo_requested = Signal()
    redo_requested = Signal()

    def __init__(self) -> None:
        super().__init__(
            "5  Correct objects", "Change objects that exist, whoever made them. Everything can be undone."
        )
        self.tools = {name: tool_button(text, help, key) for name, (text, help, key) in EDIT_TOOLS.items()}
        for name, widget in self.tools.items():
            widget.clicked.connect(lambda _=False, name=name: self.tool_chosen.emit(name))
        made = list(self.tools.values())
        self.add(*made[:2])
        self.add(*made[2:4])
        self.add(made[4])
        self.undo = button("Undo", "Take back the last step.", "Ctrl+Z")
        self.redo = button("Redo", "Make the step again that was taken back.", "Ctrl+Shift+Z")
        self.undo.clicked.connect(self.undo_requested)
        self.redo.clicked.connect(self.redo_requested)
        self.add(self.undo, self.redo)
        self.set_history(None, None)

    def set_tool(self, tool: str | None) -> None:
        """Show which tool is active; None for none of these."""
        for name, widget in self.tools.items():
            widget.setChecked(name == tool)

    def set_history(self, undo: str | None, redo: str | None) -> None:
        """Show what would be undone and redone."""
        for widget, step, what in ((self.undo, undo, "Take back"), (self.redo, redo, "Make again")):
            widget.setEnabled(step is not None)
            key = "Ctrl+Z" if widget is self.undo else "Ctrl+Shift+Z"
            widget.setToolTip(f"{what}: {step}. Key: {key}." if step else f"There is nothing to {what.lower()}.")
