"""The object classifier: paint over some objects of each class, and all others are classified."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from micro_sam.embeddings import infer_ndim
from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.sam_annotator.annotator import AnnotatorWidget, Opening, open_annotator
from micro_sam.sam_annotator.controller_classifier import ClassifierController
from micro_sam.sam_annotator.layers.classifier_layers import PREDICTION_NAME, STROKES_NAME, ClassifierLayers
from micro_sam.sam_annotator.session.classification import KIND, ClassificationSession
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.tools import CanvasTools
from micro_sam.sam_annotator.widgets.classes_widget import ClassesWidget
from micro_sam.sam_annotator.widgets.classify_widget import ClassifierFilesWidget, ClassifyWidget

if TYPE_CHECKING:
    import napari
    import torch

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.sam_annotator.jobs import JobRunner
    from micro_sam.sam_annotator.previews import Previews


class ObjectClassifier(AnnotatorWidget):
    """The panel of the object classifier.

    Args:
        viewer: The viewer.
        ndim: 2 for images, 3 for volumes and time series; by default as the image's layer shows it.
    """

    title: ClassVar[str] = "Object Classifier"
    kind: ClassVar[str] = KIND
    _wanted_ndim: int | None = None

    def __init__(self, viewer: napari.viewer.Viewer, ndim: int | None = None, **parts: Any) -> None:
        self._wanted_ndim = ndim
        self.ndim = ndim or 2
        super().__init__(viewer, **parts)

    def _make_controller(
        self, viewer: napari.viewer.Viewer, jobs: JobRunner, previews: Previews
    ) -> ClassifierController:
        for name in (STROKES_NAME, PREDICTION_NAME):  # of a classifier that was closed
            if name in viewer.layers:
                viewer.layers.remove(name)
        self.classes, self.classify, self.files = ClassesWidget(), ClassifyWidget(), ClassifierFilesWidget()
        for section in (self.segment, self.automatic, self.commit, self.edit):  # these segment
            self.sections.removeWidget(section)
            section.setParent(None)
        for section in (self.classes, self.classify, self.files):
            self.insert(section, before=self.more)
        session, layers = ClassificationSession(kind=self.kind), ClassifierLayers(viewer, self._wanted_ndim)
        return ClassifierController(viewer, self, layers, CanvasTools(viewer), session, jobs, previews)


def object_classifier(
    image: np.ndarray,
    segmentation: np.ndarray,
    embedding_path: str | os.PathLike | ImageEmbeddings | None = None,
    model_type: str = DEFAULT_MODEL,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    return_viewer: bool = False,
    viewer: napari.Viewer | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    ndim: int | None = None,
    *,
    classifier_path: str | os.PathLike | None = None,
    scale: tuple[float, ...] | None = None,
    precision: str = "auto",
    normalization: str = "minmax",
) -> napari.Viewer | None:
    """Classify the objects of a segmentation interactively in a napari window.

    Args:
        image: The image, YX, YXC, ZYX or ZYXC; numpy or lazy.
        segmentation: The labels of its objects, YX or ZYX. In a time series the same id in all frames is one object.
        embedding_path: Where embeddings are kept or will be kept (zarr), or the embeddings themselves.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        tile_shape: Height and width of tiles; by default images beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        viewer: A viewer to use; a new one by default.
        checkpoint_path: A model file of your own.
        device: Where to compute; the best device there is by default.
        ndim: 2 or 3; found from the shape of the image by default.
        classifier_path: A classifier that was saved, to go on with.
        scale: The size of a pixel.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.

    Returns:
        The viewer, if it was asked for.
    """
    import napari

    opening = Opening.of(
        ModelChoice.of(model_type, checkpoint_path, None, device, precision),
        embedding_path,
        (tile_shape, halo),
        normalization,
    )
    opening = replace(opening, segmentation_result=segmentation, scale=scale)
    ndim = infer_ndim(tuple(np.shape(image))) if ndim is None else ndim
    viewer = open_annotator(functools.partial(ObjectClassifier, ndim=ndim), image, opening, viewer, return_viewer=True)
    if classifier_path is not None:
        controller_in(viewer).load(str(classifier_path))
    if return_viewer:
        return viewer
    napari.run()
    return None


def controller_in(viewer: napari.Viewer) -> ClassifierController:
    """The controller of the object classifier in a viewer."""
    window = getattr(viewer.window, "_qt_window", viewer.window)
    return next(p.controller for p in window.findChildren(AnnotatorWidget) if isinstance(p, ObjectClassifier))


def image_series_object_classifier(
    images: Sequence[np.ndarray],
    segmentations: Sequence[np.ndarray],
    output_folder: str | os.PathLike,
    embedding_paths: Sequence[str | os.PathLike | ImageEmbeddings] | None = None,
    model_type: str = DEFAULT_MODEL,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    ndim: int | None = None,
    *,
    viewer: napari.Viewer | None = None,
    return_viewer: bool = False,
    precision: str = "auto",
    normalization: str = "minmax",
) -> napari.Viewer | None:
    """Classify the objects of several images with one classifier, image by image in a napari window.

    What is learned goes on from image to image. Whenever one goes to another image, and when the window is closed,
    ``<name>.tif`` (classes), ``<name>.csv`` and ``object_classifier.npz`` are written into the output folder; strokes are
    in journals there. The same call goes on where it was left.

    Args:
        images: The images, as arrays or files.
        segmentations: The labels of each.
        output_folder: Where results lie; made if it is not there.
        embedding_paths: For each image where embeddings are kept, or the embeddings themselves; in memory by default.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        tile_shape: Height and width of tiles; by default images beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        checkpoint_path: A model file of your own.
        device: Where to compute; the best device there is by default.
        ndim: 2 or 3; found from the shape of the images by default.
        viewer: A viewer to use; a new one by default.
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.

    Returns:
        The viewer, if it was asked for.

    Raises:
        ParameterError: There are not as many segmentations or embedding paths as images, or no images.
        OutputError: The output folder cannot be written to.
    """
    import napari

    from micro_sam.sam_annotator.object_classifier_series import ClassifierSeries, SeriesItems

    items = SeriesItems(images, segmentations, output_folder, embedding_paths, ndim)
    viewer = napari.Viewer() if viewer is None else viewer
    panel = ObjectClassifier(viewer, ndim=items.ndim)
    panel.embedding.set_model(ModelChoice.of(model_type, checkpoint_path, None, device, precision))
    panel.series = ClassifierSeries(panel, items, (tile_shape, halo), normalization)
    viewer.window.add_dock_widget(panel, name=panel.title, area="right", add_vertical_stretch=False)
    panel.series.begin()
    if return_viewer:
        return viewer
    napari.run()
    return None
