"""All layers of an annotator together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.sam_annotator.layers.base import camera_of, canvas_size
from micro_sam.sam_annotator.layers.image_part import ImagePart
from micro_sam.sam_annotator.layers.labels_part import LabelsPart
from micro_sam.sam_annotator.layers.names import LABEL_NAMES
from micro_sam.sam_annotator.layers.outline_part import OutlinePart
from micro_sam.sam_annotator.layers.prompts_part import PromptsPart
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.state import COMMITTED

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


_LEAST_PART, _GOOD_PART, _MOST_PART = 0.1, 0.25, 0.6  # of the view, for an object that is looked at


class AnnotatorLayers(ImagePart, PromptsPart, LabelsPart, OutlinePart):
    """The layers of one annotator in one viewer. It reads what a person does in them, and shows what the session says.

    Layers are held by reference, so that they may be renamed. One that is deleted is announced by `lost`.

    Args:
        viewer: The viewer.
        ndim: 2 for images, 3 for volumes and time series.
    """

    def __init__(self, viewer: Viewer, ndim: int = 2) -> None:
        super().__init__(viewer, ndim)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connect(event, self._on_layer_list)

    def show(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Make the layers that are missing, and let labels layers show these arrays."""
        self._arrays = arrays
        with self.muted(), self._keeping_selection():
            for key, name in LABEL_NAMES.items():
                self._show_labels(key, name)
            if self.shapes is None:
                self.shapes = self._add_shapes()
            if self.points is None:
                self.points = self._add_points()

    def retire(self) -> None:
        """Keep committed labels of an earlier image as a layer of the person, and take the other layers away.

        With ``keeps_committed`` off all layers stay, for the next image of the same kind: making them anew takes seconds.
        """
        self.remove_outline()
        if not self.keeps_committed:
            self.write_prompts(Prompts())
            return
        with self.muted():
            for key, layer in list(self.labels.items()):
                self._disconnect_from(layer)
                if key == COMMITTED and np.any(layer.data):
                    layer.name, layer.visible = f"{LABEL_NAMES[COMMITTED]} of {self._image_name()}", False
                elif layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
            for layer in (self.points, self.shapes):
                if layer is not None and layer in self.viewer.layers:
                    self._disconnect_from(layer)
                    self.viewer.layers.remove(layer)
        self.labels, self.points, self.shapes = {}, None, None

    def current_slice(self) -> int | None:
        """The slice that is looked at; None in an image."""
        if self.ndim == 2 or COMMITTED not in self.labels:
            return None
        row = self.labels[COMMITTED].world_to_data(np.asarray(self.viewer.dims.point)[-self.ndim :])
        return int(np.clip(np.round(row[0]), 0, self._arrays[COMMITTED].shape[0] - 1))

    def go_to(self, i: int) -> None:
        """Look at a slice or frame."""
        layer = self.labels.get(COMMITTED) or self.image
        if layer is not None and self.ndim > 2:
            place = layer.world_to_data(np.asarray(self.viewer.dims.point)[-layer.ndim :])
            place = (*place[: -self.ndim], i, *place[-self.ndim + 1 :])
            self.viewer.dims.set_point(self.viewer.dims.ndim - self.ndim, float(layer.data_to_world(place)[-self.ndim]))

    def look_at(self, window: Sequence[slice], i: int | None = None, zoom: bool = False) -> None:
        """Move the view to an object.

        Args:
            window: Where it is.
            i: Which slice or frame of it to look at; its middle by default.
            zoom: Also let it fill a good part of the view, if it is much smaller or larger than this.
        """
        layer = self.labels.get(COMMITTED) or self.image
        middle = [(s.start + s.stop - 1) / 2 for s in window]
        if self.ndim == 3:
            middle[0] = int(middle[0]) if i is None else i
            self.go_to(int(middle[0]))
        camera = camera_of(self.viewer)
        camera.center = (*tuple(camera.center)[:-2], *(float(v) for v in layer.data_to_world(middle)[-2:]))
        if zoom:
            size = max((s.stop - s.start) * scale for s, scale in zip(window[-2:], layer.scale[-2:]))
            part = size * camera.zoom / min(canvas_size(self.viewer))
            if not _LEAST_PART < part < _MOST_PART:
                camera.zoom *= _GOOD_PART / part

    def _on_layer_list(self, event: Any) -> None:
        if self._muted:
            return
        missing = [layer for layer in self.own() if layer not in self.viewer.layers]
        if self.image is not None and self.image not in self.viewer.layers:
            self._disconnect_from(self.image)
            self.image = None
        self.images_changed.emit()
        if missing:
            self._forget(missing)
            self.lost.emit([layer.name for layer in missing])

    def _forget(self, missing: Sequence[Layer]) -> None:
        for layer in missing:
            self._disconnect_from(layer)
        self.labels = {key: layer for key, layer in self.labels.items() if layer not in missing}
        self.points = None if self.points in missing else self.points
        self.shapes = None if self.shapes in missing else self.shapes

    def close(self) -> None:
        """Let go of the viewer; the layers stay, but not the outline."""
        self.remove_outline()
        for layer in self.own():
            self._disconnect_from(layer)
        for emitter, listener in self._connections:
            emitter.disconnect(listener)
        self._connections.clear()
        self.labels, self.points, self.shapes, self.image, self._arrays = {}, None, None, None, {}
