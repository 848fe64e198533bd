"""Exporting and importing objects in an annotator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import InputError, PromptError
from micro_sam.exports.content import ImportedLabels, LabelledImage
from micro_sam.exports.exporting import iter_export
from micro_sam.exports.importing import iter_import
from micro_sam.exports.registry import FORMATS
from micro_sam.exports.settings import ExportSettings, ImportSettings
from micro_sam.io.resolution import Resolution
from micro_sam.sam_annotator.control.base import EXPORTING, IMPORTING, shown
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.saving import resolution_of
from micro_sam.sam_annotator.session.state import COMMITTED
from micro_sam.sam_annotator.widgets.export_widget import ExportWidget

if TYPE_CHECKING:
    from napari.layers import Labels

    from micro_sam.sam_annotator.annotator import AnnotatorWidget

_TRACKING = "annotator_tracking"


def add_exchange(panel: AnnotatorWidget) -> ExportWidget:
    """The widget for an annotator's panel, at work."""
    is_tracking = panel.kind == _TRACKING
    widget = ExportWidget(found for found in FORMATS.values() if is_tracking or not found.is_tracks)
    widget.exchange = Exchange(panel, widget)
    return widget


class Exchange:
    """Exports the committed objects of an annotator, and puts imported ones in their place.

    Args:
        panel: The annotator.
        widget: Asks for formats and files.
    """

    def __init__(self, panel: AnnotatorWidget, widget: ExportWidget) -> None:
        self.controller, self.is_tracking = panel.controller, panel.kind == _TRACKING
        widget.export_requested.connect(self.export)
        widget.import_requested.connect(self.import_)
        self.controller.session.events.image.connect(self._on_image)

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self.controller.show_error(text)

    @shown
    def export(self, path: str, settings: ExportSettings | None = None) -> None:
        """Write the committed objects; whether something may be replaced was asked before."""
        content = self.content()
        count = len(content.ids)

        def exported(_: Any) -> None:
            self.controller.say(f"Exported {_number(count, self._what)} to {path}.", "done")

        self.controller._start(EXPORTING, lambda: iter_export(path, content, settings, overwrite=True), exported)

    def content(self) -> LabelledImage:
        """The committed objects as they are now, with all that is known about them.

        Raises:
            PromptError: There is no image.
        """
        session = self._session()
        scale = session.image.scale[-2:] if self.is_tracking else session.image.scale
        classes = classes_of(self._layer())
        return LabelledImage(
            session.finished_labels(),
            self.is_tracking,
            resolution_of(scale, self.controller.layers.units()) or Resolution({}),
            session.image.source.array,
            classes,
            session.lineages() if self.is_tracking else (),
            session.image.name,
        )

    @shown
    def import_(self, path: str, settings: ImportSettings | None = None) -> None:
        """Read objects and put them in the place of the committed ones; this can be undone."""
        session = self._session()
        if session.correcting is not None:
            raise PromptError("An object is being corrected: commit it with C or clear it with Shift+C first.")
        image = session.image

        def imported(found: ImportedLabels) -> None:
            if session.image is image:
                self._on_imported(found)

        self.controller._start(IMPORTING, lambda: iter_import(path, image.shape, None, settings), imported)

    @shown
    def _on_imported(self, found: ImportedLabels) -> None:
        session, labels = self._session(), found.labels
        if int(labels.max(initial=0)) > np.iinfo(session.labels[COMMITTED].dtype).max:
            raise InputError(
                f"The largest label is {labels.max()}, which is too large here; number the objects from 1."
            )
        count = len(np.unique(labels[labels != 0]))
        text = f"Imported {_number(count, self._what)}"
        if self.is_tracking:
            session.put_tracks(COMMITTED, labels, Lineage.from_families(found.lineages or []), text)
        else:
            session.put(COMMITTED, labels, text)
        show_classes(self._layer(), found.classes)
        self.controller.say(" ".join([f"{text}. Correct one with Shift+E.", *found.notes]), "done")

    def _on_image(self, image: Any) -> None:
        """Classes belong to the objects of one image, but the layer goes on with the next one."""
        layer = self.controller.layers.labels.get(COMMITTED)
        if layer is not None and classes_of(layer):
            show_classes(layer, {})

    @property
    def _what(self) -> str:
        return "track" if self.is_tracking else "object"

    def _session(self) -> Any:
        session = self.controller.session
        if session.image is None:
            raise PromptError("Open an image first: its objects are exported, and objects are imported for it.")
        return session

    def _layer(self) -> Labels:
        return self.controller.layers.labels[COMMITTED]


def classes_of(layer: Labels) -> dict[int, str]:
    """The classes of objects: the column "class" of the layer's features, whose column "index" names the objects."""
    features = layer.features
    if not {"index", "class"} <= set(features.columns):
        return {}
    pairs = zip(features["index"], features["class"])
    return {int(label): str(name) for label, name in pairs if isinstance(name, str) and name}


def show_classes(layer: Labels, classes: dict[int, str]) -> None:
    """Keep the classes of objects in the layer's features, where napari shows them under the mouse."""
    layer.features = {"index": list(classes), "class": list(classes.values())} if classes else {}


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
