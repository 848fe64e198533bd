"""The layers of the object classifier: strokes, and the classes that were predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from micro_sam.object_classification.classifier import ObjectClass
from micro_sam.sam_annotator.layers.annotator_layers import AnnotatorLayers
from micro_sam.sam_annotator.session.classification import STROKES
from micro_sam.sam_annotator.session.image import AnnotatedImage

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels, Layer

STROKES_NAME, PREDICTION_NAME = "class_strokes", "class_prediction"
_LEAST_BRUSH = 4


class ClassifierLayers(AnnotatorLayers):
    """The layers of one object classifier in one viewer.

    Args:
        viewer: The viewer.
        wanted_ndim: 2 or 3; None to take images as their layers show them.
    """

    def __init__(self, viewer: Viewer, wanted_ndim: int | None = None) -> None:
        super().__init__(viewer, wanted_ndim or 2)
        self._wanted_ndim = wanted_ndim
        self.prediction: Labels | None = None
        self.classes: Sequence[ObjectClass] = ()

    def read_image(self, layer: Image) -> AnnotatedImage:
        """What a layer shows; see `AnnotatorLayers.read_image`."""
        self.ndim = self._wanted_ndim or (2 if layer.ndim == 2 else 3)
        return super().read_image(layer)

    def segmentations(self) -> list[Labels]:
        """The labels layers that are not the classifier's own."""
        from napari.layers import Labels

        own = self.own()
        return [layer for layer in self.viewer.layers if isinstance(layer, Labels) and layer not in own]

    def own(self) -> list[Layer]:
        """The layers that are there, from the bottom up."""
        return [*([] if self.prediction is None else [self.prediction]), *super().own()]

    def show(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Make the layer of strokes if it is missing, and let it show this array."""
        self._arrays = arrays
        with self.muted():
            is_new = STROKES not in self.labels
            self._show_labels(STROKES, STROKES_NAME)
            self._color(self.labels[STROKES])
            if is_new:
                self.labels[STROKES].opacity = 1
                self.labels[STROKES].brush_size = max(_LEAST_BRUSH, round(min(arrays[STROKES].shape[-2:]) / 80))

    def show_prediction(self, classes: np.ndarray) -> None:
        """Show the class of each pixel."""
        with self.muted(), self._keeping_selection():
            if self.prediction is None:
                transform = self._transform()
                self.prediction = self.viewer.add_labels(classes, name=PREDICTION_NAME, opacity=0.45, **transform)
                self.prediction.editable = False
                self._below_strokes(self.prediction)
            else:
                self.prediction.data = classes
            self._color(self.prediction)

    def _below_strokes(self, layer: Labels) -> None:
        layers, strokes = self.viewer.layers, self.labels.get(STROKES)
        if strokes in layers:
            layers.move(layers.index(layer), layers.index(strokes))

    def set_classes(self, classes: Sequence[ObjectClass]) -> None:
        """Show classes in these colours."""
        self.classes = tuple(classes)
        for layer in (self.labels.get(STROKES), self.prediction):
            if layer is not None:
                self._color(layer)

    def _color(self, layer: Labels) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        colors = {None: "transparent", 0: "transparent", **{c.id: c.color for c in self.classes}}
        layer.colormap = DirectLabelColormap(color_dict=colors)

    def brush(self, class_id: int | None) -> None:
        """Let the mouse paint strokes of a class; None to erase."""
        layer = self.labels.get(STROKES)
        if layer is None:
            return
        self.viewer.layers.selection = {layer}
        self.viewer.layers.selection.active = layer
        if class_id is not None:
            layer.selected_label = class_id
        layer.mode = "erase" if class_id is None else "paint"

    def set_brush_size(self, size: int) -> None:
        """How thick strokes are, in pixels."""
        if STROKES in self.labels:
            self.labels[STROKES].brush_size = size

    def retire(self) -> None:
        """Take the layers away: strokes are in the journal."""
        with self.muted():
            for layer in self.own():
                self._disconnect_from(layer)
                if layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
        self.labels, self.prediction = {}, None

    def _forget(self, missing: Sequence[Layer]) -> None:
        super()._forget(missing)
        self.prediction = None if self.prediction in missing else self.prediction

    def close(self) -> None:
        """Let go of the viewer; the layers stay."""
        super().close()
        self.prediction = None
