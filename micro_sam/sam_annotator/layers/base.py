"""What all parts of the layers share: the viewer, the layers by reference, and what they are connected to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from micro_sam.sam_annotator.session.prompts import Prompts

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels, Layer, Points, Shapes


class LayerSignals:
    """What the layers tell the controller."""

    #: The prompts were changed by the person.
    prompts_changed = Signal(Prompts)
    #: (prompts): a prompt is being dragged or drawn.
    prompts_dragged = Signal(Prompts)
    #: (key, window, labels before): labels were painted by the person.
    painted = Signal(str, tuple, object)
    #: (key, labels): the whole content of a labels layer was replaced by a script.
    replaced = Signal(str, object)
    #: (layer names): layers of the annotator were deleted.
    lost = Signal(list)
    #: The image layers in the viewer, or the content of the annotated one, changed.
    images_changed = Signal()
    image_replaced = Signal()


class LayersBase(LayerSignals):
    """The layers of one annotator in one viewer; its parts are mixed in, see `AnnotatorLayers`."""

    def __init__(self, viewer: Viewer, ndim: int = 2) -> None:
        self.viewer, self.ndim = viewer, ndim
        self.image: Image | None = None
        self.points: Points | None = None
        self.shapes: Shapes | None = None
        self.labels: dict[str, Labels] = {}
        self.keeps_committed = True
        self._arrays: Mapping[str, np.ndarray] = {}
        self._connections: list[tuple[Any, Callable]] = []
        self._muted = False

    def own(self) -> list[Layer]:
        """The layers that are there, from the bottom up."""
        layers = [*self.labels.values(), self.shapes, self.points]
        return [layer for layer in layers if layer is not None]

    def _transform(self) -> dict[str, Any]:
        """Where the layers lie in the world: where the image lies."""
        if self.image is None:
            return {}
        layer, n = self.image, self.ndim
        found = {"scale": np.asarray(layer.scale)[-n:], "translate": np.asarray(layer.translate)[-n:]}
        found["units"] = tuple(layer.units[-n:])
        if layer.ndim == n:
            found |= {"rotate": layer.rotate, "shear": layer.shear, "affine": layer.affine}
        return found

    def _slice_of(self, row: np.ndarray) -> int | None:
        return None if self.ndim == 2 else int(np.round(row[0]))

    @contextmanager
    def muted(self) -> Iterator[None]:
        """What happens to layers inside is not taken for what the person does."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    @contextmanager
    def _keeping_selection(self) -> Iterator[None]:
        """New layers do not change which one is active, unless there was none of ours."""
        active = self.viewer.layers.selection.active
        yield
        target = active if active in self.own() else self.points
        if target is not None and target in self.viewer.layers:
            self.viewer.layers.selection = {target}
            self.viewer.layers.selection.active = target

    def _connect(self, emitter: Any, listener: Callable) -> None:
        emitter.connect(listener)
        self._connections.append((emitter, listener))

    def _disconnect_from(self, layer: Layer) -> None:
        own = set(map(id, layer.events.emitters.values()))
        for emitter, listener in [pair for pair in self._connections if id(pair[0]) in own]:
            emitter.disconnect(listener)
            self._connections.remove((emitter, listener))


def canvas_size(viewer: Viewer) -> tuple[int, int]:
    """Height and width of what the viewer shows, in pixels of the screen; it has its own place since napari 0.9."""
    canvas = getattr(viewer, "canvas", None)
    return tuple(getattr(viewer, "_canvas_size", (600, 800)) if canvas is None else canvas.size)


def camera_of(viewer: Viewer) -> Any:
    """The camera, which has its own place since napari 0.9."""
    return getattr(viewer, "scene", viewer).camera
