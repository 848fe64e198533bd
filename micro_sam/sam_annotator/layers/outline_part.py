"""The outline of the object that is being reviewed, above all other layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from micro_sam.exports.outlines import outlines
from micro_sam.sam_annotator.layers.base import LayersBase, camera_of
from micro_sam.sam_annotator.layers.names import OUTLINE_NAME

if TYPE_CHECKING:
    from napari.layers import Shapes

_COLOR = "#ffd600"
_WIDTH = 3  # pixels of the screen, when it is drawn
_SLICES = 5  # before and behind the one that is looked at


class OutlinePart(LayersBase):
    """The outline of the object that is being reviewed; the layer is there only while it shows one."""

    _outline: Shapes | None = None

    def outline(self, labels: np.ndarray, label: int, window: Sequence[slice], i: int | None = None) -> None:
        """Draw the outline of an object, in a volume in the slices around one.

        Args:
            labels: YX or ZYX.
            label: The object; nothing is drawn if it is not there.
            window: Where it is.
            i: The slice.
        """
        rings = list(_rings(labels, label, window, i))
        if not rings:
            self.remove_outline()
            return
        with self.muted(), self._keeping_active():
            if self._outline is None or self._outline not in self.viewer.layers:
                options = {"edge_color": _COLOR, "face_color": "transparent", "opacity": 1.0, **self._transform()}
                self._outline = self.viewer.add_shapes(ndim=self.ndim, name=OUTLINE_NAME, **options)
            layer = self._outline
            layer.editable = True
            layer.data = []
            width = _WIDTH / max(camera_of(self.viewer).zoom * float(layer.scale[-1]), 1e-6)
            layer.add(rings, shape_type="polygon", edge_width=width, edge_color=_COLOR, face_color="transparent")
            layer.selected_data = set()
            layer.mode = "pan_zoom"
            layer.editable = False

    def remove_outline(self) -> None:
        """Draw nothing."""
        layer, self._outline = self._outline, None
        if layer is not None and layer in self.viewer.layers:
            with self.muted(), self._keeping_active():
                self.viewer.layers.remove(layer)

    @contextmanager
    def _keeping_active(self) -> Iterator[None]:
        """The layer that is selected stays so."""
        active = self.viewer.layers.selection.active
        yield
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection = {active}
            self.viewer.layers.selection.active = active


def _rings(labels: np.ndarray, label: int, window: Sequence[slice], i: int | None) -> Iterator[np.ndarray]:
    """Closed lines along the edges of pixels, in the order of the axes of the labels."""
    if labels.ndim == 2:
        for polygon in outlines(labels[tuple(window)] == label, [s.start for s in window]):
            for ring in polygon:
                yield ring[:, ::-1] - 0.5
        return
    here = window[0].start if i is None else i
    for z in range(max(window[0].start, here - _SLICES), min(window[0].stop, here + _SLICES + 1)):
        for ring in _rings(labels[z], label, window[1:], None):
            yield np.column_stack([np.full(len(ring), z), ring])
