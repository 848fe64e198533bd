"""What all annotators have in common: a panel with its controller in a viewer, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from micro_sam.embeddings import EmbeddingStore
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.extensions import extend
from micro_sam.sam_annotator.jobs import JobRunner, ThreadedJobs
from micro_sam.sam_annotator.layers import (
    IMAGE_NAME,
    LABEL_NAMES,
    OUTLINE_NAME,
    POINTS_NAME,
    SHAPES_NAME,
    AnnotatorLayers,
    add_image,
    free_name,
)
from micro_sam.sam_annotator.previews import Previews
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
from micro_sam.sam_annotator.session.session import AnnotationSession
from micro_sam.sam_annotator.session.state import COMMITTED
from micro_sam.sam_annotator.tools import CanvasTools
from micro_sam.sam_annotator.widgets.docked import DockedPanel
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

if TYPE_CHECKING:
    import napari


class AnnotatorWidget(DockedPanel, AnnotatorPanel):
    """The panel of an annotator, at work in a viewer.

    Args:
        viewer: The viewer.
        reset_state: Begin anew, instead of taking over committed labels from layers that are there.
        jobs: What runs long work; threads by default.
        previews: What computes masks for prompts; a thread by default.
    """

    title: ClassVar[str] = "Annotator"
    kind: ClassVar[str] = "annotator"
    ndim: ClassVar[int] = 2
    axes: ClassVar[str] = "yx"

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        reset_state: bool = True,
        jobs: JobRunner | None = None,
        previews: Previews | None = None,
    ) -> None:
        super().__init__(self.title)
        close_others(viewer)
        found = None if reset_state else _labels_to_take_over(viewer)
        _remove_left_overs(viewer)
        self.controller = self._make_controller(viewer, jobs or ThreadedJobs(), previews or Previews())
        extend(self)
        self.destroyed.connect(self.controller.close)
        if found is not None:
            self.later(lambda: self._take_over(found))

    def _make_controller(
        self, viewer: napari.viewer.Viewer, jobs: JobRunner, previews: Previews
    ) -> AnnotatorController:
        session = AnnotationSession(kind=self.kind)
        layers = AnnotatorLayers(viewer, self.ndim)
        return AnnotatorController(viewer, self, layers, CanvasTools(viewer), session, jobs, previews)

    def _take_over(self, labels: np.ndarray) -> None:
        session = self.controller.session
        if session.image is not None and labels.shape == session.image.shape:
            session.put(COMMITTED, labels, "Took over labels")


@dataclass(frozen=True)
class Opening:
    """What an annotator is opened with.

    Attributes:
        model: The model.
        embedding: How embeddings are computed.
        embeddings: Embeddings that are there already.
        segmentation_result: Labels to begin with.
        precompute_amg_state: Also compute what automatic segmentation needs.
        prefer_decoder: Segment automatically with the decoder, where the model has one.
        scale: The size of a pixel.
        unit: Its unit of length, None for pixels.
        options: Values of `micro_sam.sam_annotator.session.session.Options`.
    """

    model: ModelChoice
    embedding: EmbeddingChoice
    embeddings: Mapping[str, Any] | None = None
    segmentation_result: Any = None
    precompute_amg_state: bool = False
    prefer_decoder: bool = True
    scale: tuple[float, ...] | None = None
    unit: str | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: ModelChoice, embeddings: Any, tiles: tuple[Any, Any], normalization: str, *more: Any) -> Opening:
        """The same from what the annotators' functions take.

        Args:
            model: The model.
            embeddings: ``embedding_path``: a path, or the embeddings themselves.
            tiles: Tile shape and halo.
            normalization: "minmax" or "robust".
            *more: The other attributes, in their order.
        """
        there = isinstance(embeddings, EmbeddingStore | Mapping)
        path = None if there or embeddings is None else str(embeddings)
        choice = EmbeddingChoice(path, *tiles, normalization=normalization)
        return cls(model, choice, embeddings if there else None, *more)


def open_annotator(
    widget_type: type[AnnotatorWidget], image: Any, opening: Opening, viewer: napari.Viewer | None, return_viewer: bool
) -> napari.Viewer | None:
    """Open an annotator with an image; embeddings are computed while the window is there already.

    Args:
        widget_type: Which annotator.
        image: The image, numpy or lazy.
        opening: What it is opened with.
        viewer: A viewer to use; a new one by default.
        return_viewer: Return the viewer at once, instead of running until the window is closed.
    """
    import napari

    array = image if hasattr(image, "shape") and hasattr(image, "dtype") else np.asarray(image)
    viewer = napari.Viewer() if viewer is None else viewer
    widget = widget_type(viewer)
    viewer.window.add_dock_widget(widget, name=widget.title, area="right", add_vertical_stretch=False)
    controller = widget.controller
    widget.embedding.set_model(opening.model)
    widget.embedding.set_embedding(opening.embedding)
    controller.prefer_mode(None if opening.prefer_decoder else "amg")
    controller.set_options(**(opening.options or {}))
    units = None if opening.unit is None else ["pixel" if axis == "t" else opening.unit for axis in widget.axes]
    layer = add_image(viewer, array, widget.ndim, free_name(viewer, IMAGE_NAME), opening.scale, units)
    controller.choose_image(layer)
    if opening.segmentation_result is not None and controller.session.image is not None:
        controller.begin_with(opening.segmentation_result)
    if controller.session.image is not None:
        _begin(controller, opening)
    if return_viewer:
        return viewer
    napari.run()
    return None


def _begin(controller: AnnotatorController, opening: Opening) -> None:
    if opening.embeddings is not None:
        controller.use_embeddings(opening.embeddings, opening.model, opening.precompute_amg_state)
    else:
        controller.compute_with(opening.model, opening.embedding, opening.precompute_amg_state)


def close_others(viewer: napari.Viewer) -> None:
    """End another annotator in the same viewer: there is one image, and one meaning of every key."""
    for dock in list(getattr(viewer.window, "_qt_window", viewer.window).findChildren(AnnotatorPanel)):
        controller = getattr(dock, "controller", None)
        if controller is not None:
            controller.close()
            viewer.window.remove_dock_widget(dock)


def _labels_to_take_over(viewer: napari.Viewer) -> np.ndarray | None:
    name = LABEL_NAMES[COMMITTED]
    return np.array(viewer.layers[name].data) if name in viewer.layers else None


def _remove_left_overs(viewer: napari.Viewer) -> None:
    """Remove the layers of an annotator that was closed; committed labels that hold something are renamed."""
    for name in (*LABEL_NAMES.values(), POINTS_NAME, SHAPES_NAME, OUTLINE_NAME):
        if name not in viewer.layers:
            continue
        layer = viewer.layers[name]
        if name == LABEL_NAMES[COMMITTED] and np.any(layer.data):
            layer.name = free_name(viewer, f"{name} (earlier)")
        else:
            viewer.layers.remove(layer)
