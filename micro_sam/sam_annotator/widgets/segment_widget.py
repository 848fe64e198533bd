"""Prompts, and segmenting an object from them."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox

from micro_sam.sam_annotator.widgets.parts import Section, button, quietly, tool_button

TOOLS = {
    "point": ("Point", "Click into the object; negative points say where it is not."),
    "rectangle": ("Box", "Draw a box around the object; several boxes are several objects."),
    "ellipse": ("Ellipse", "Draw an ellipse over the object: a rough mask."),
    "polygon": ("Polygon", "Click the corners of a rough outline; Enter ends it."),
}


class SegmentWidget(Section):
    """Chooses the tool for prompts, and asks for the segmentation."""

    tool_chosen = Signal(str)
    toggle_requested = Signal()
    segment_requested = Signal()
    clear_requested = Signal()
    options_changed = Signal()

    def __init__(self) -> None:
        super().__init__("2  Segment an object", "Say with prompts where the object is; its mask appears at once.")
        self.tools = {name: tool_button(text, help) for name, (text, help) in TOOLS.items()}
        for name, widget in self.tools.items():
            widget.clicked.connect(lambda _=False, name=name: self.tool_chosen.emit(name))
        self.add(*self.tools.values())
        self.label = button("", "Whether the next points say where the object is (positive) or where not (negative).")
        self.label.clicked.connect(self.toggle_requested)
        self.add(self.label)
        self.live = QCheckBox("Live preview")
        self.live.setToolTip("Show the mask as soon as prompts are placed or dragged. Without it, press S.")
        self.live.setChecked(True)
        self.batched = QCheckBox("Per point")
        self.batched.setToolTip("Each positive point is an object of its own; negative points go to the nearest one.")
        self.tidy = QCheckBox("Tidy")
        self.tidy.setToolTip("Leave out parts of a mask away from the positive points, or outside the box.")
        self.add(self.live, self.batched, self.tidy)
        self.segment = button("Segment", "Segment the object that the prompts say.", "S", primary=True)
        self.clear = button("Clear", "Remove all prompts and the current object.", "Shift+C")
        self.segment.clicked.connect(self.segment_requested)
        self.clear.clicked.connect(self.clear_requested)
        self.add(self.segment, self.clear)
        for box in (self.live, self.batched, self.tidy):
            box.toggled.connect(lambda _: self.options_changed.emit())
        self.set_label("positive")

    def set_tool(self, tool: str | None) -> None:
        """Show which tool is active; None for none of these."""
        for name, widget in self.tools.items():
            widget.setChecked(name == tool)

    def set_label(self, label: str) -> None:
        """Show what the next points are."""
        color = {"positive": "#2ecc40", "negative": "#ff4136"}[label]
        self.label.setText(f"Next point: {label}  [T]")
        self.label.setStyleSheet(f"QPushButton {{ border-left: 8px solid {color}; padding: 3px; }}")

    def set_options(self, live: bool, batched: bool, tidy: bool) -> None:
        """Show these options; nothing is announced."""
        with quietly(self.live, self.batched, self.tidy):
            self.tidy.setChecked(tidy)
            self.live.setChecked(live)
            self.batched.setChecked(batched)
