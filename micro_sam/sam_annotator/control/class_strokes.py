"""Strokes and the classes they stand for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from micro_sam.sam_annotator.control.base import Control, shown

if TYPE_CHECKING:
    from micro_sam.sam_annotator.layers.classifier_layers import ClassifierLayers
    from micro_sam.sam_annotator.object_classifier import ObjectClassifier
    from micro_sam.sam_annotator.session.classification import ClassificationSession, Outcome


class ClassControl(Control):
    """Strokes and the classes they stand for."""

    panel: ObjectClassifier
    layers: ClassifierLayers
    session: ClassificationSession
    outcome: Outcome | None

    @shown
    def paint_class(self, class_id: int) -> None:
        """The mouse paints strokes of a class."""
        self._message = None
        self.panel.classes.choose(class_id)
        self.layers.brush(class_id)
        self.panel.classes.set_tool(erasing=False)
        self.update_hint()

    def paint_number(self, number: int) -> None:
        """The mouse paints strokes of the class at a place in the list, from 1."""
        if number <= len(self.session.classes):
            self.paint_class(self.session.classes[number - 1].id)

    def erase(self) -> None:
        """The mouse takes strokes away."""
        self.layers.brush(None)
        self.panel.classes.set_tool(erasing=True)

    def _show_tool(self, tool: str = "brush") -> None:
        self.paint_class(self.panel.classes.chosen() or self.session.classes[0].id)

    @shown
    def add_class(self) -> None:
        """Add a class and paint it."""
        self.paint_class(self.session.add_class().id)

    @shown
    def remove_class(self, class_id: int) -> None:
        """Remove a class with its strokes."""
        self.session.remove_class(class_id)
        self.paint_class(self.session.classes[0].id)

    def rename_class(self, class_id: int, name: str) -> None:
        """Give a class another name; if that cannot be, the old one is shown again."""
        shown(lambda self: self.session.rename_class(class_id, name))(self)
        self._show_classes()

    @shown
    def recolor_class(self, class_id: int, color: str) -> None:
        """Give a class another colour."""
        self.session.recolor_class(class_id, color)

    def _show_classes(self) -> None:
        self.layers.set_classes(self.session.classes)
        counts: Counter[int] = Counter()
        if self.outcome is not None:
            for samples in self.outcome.classifier.samples.values():
                counts.update(samples.classes.tolist())
        self.panel.classes.set_classes(self.session.classes, counts)
