"""The annotator for a series of images or volumes, one after another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import MicroSamError, ParameterError
from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.sam_annotator.annotator import AnnotatorWidget
from micro_sam.sam_annotator.controller_series import SeriesController
from micro_sam.sam_annotator.jobs import ThreadedJobs, sentence
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
from micro_sam.sam_annotator.session.series import Series
from micro_sam.sam_annotator.session.series_items import find_images, match_initial
from micro_sam.sam_annotator.widgets.series_form import SeriesForm
from micro_sam.sam_annotator.widgets.series_widget import SeriesWidget

if TYPE_CHECKING:
    import napari
    import torch
    from qtpy.QtWidgets import QWidget

TITLE = "Image Series Annotator"
Image = str | os.PathLike | np.ndarray


class ImageSeriesAnnotator(SeriesForm):
    """Asks for the folders of a series, and opens the annotator for it in the viewer.

    Args:
        viewer: The viewer.
        parent: The parent of the widget.
    """

    def __init__(self, viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.start_requested.connect(self.__call__)

    def __call__(self, skip_validate: bool = False) -> None:
        """Open the series that was chosen; what is wrong with it is shown.

        Args:
            skip_validate: Do not check first whether everything was filled in.
        """
        if not skip_validate and (missing := self.missing()):
            self.show_error(missing)
            return
        try:
            image_folder_annotator(viewer=self._viewer, return_viewer=True, **self.values())
        except MicroSamError as error:
            self.show_error(sentence(error))
            return
        self.finish(self._viewer)


def image_series_annotator(
    images: Sequence[Image],
    output_folder: str | os.PathLike,
    model_type: str = DEFAULT_MODEL,
    embedding_path: str | os.PathLike | None = None,
    initial_segmentations: Sequence[Image | None] | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    viewer: napari.Viewer | None = None,
    return_viewer: bool = False,
    precompute_amg_state: bool = False,
    checkpoint_path: str | os.PathLike | None = None,
    is_volumetric: bool = False,
    device: str | torch.device | None = None,
    prefer_decoder: bool = True,
    skip_segmented: bool = True,
    *,
    decoder_path: str | os.PathLike | None = None,
    key: str | None = None,
    initial_segmentation_key: str | None = None,
    precision: str = "auto",
    normalization: str = "minmax",
    **options: Any,
) -> napari.Viewer | None:
    """Annotate images or volumes one after another in a napari window.

    Labels are saved as ``<name>.tif`` in the output folder whenever one goes to another image, and when the window is
    closed. Which images are done is written down in ``image_series.json`` there; the journals in ``journals/`` bring
    each image back as it was, with its undo history. While one image is annotated, the next is encoded.

    Args:
        images: Files or arrays: YX or YXC, or with ``is_volumetric`` ZYX or ZYXC.
        output_folder: Where results lie; made if it is not there.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        embedding_path: A folder where embeddings are kept, ``<name>.zarr`` for each image; in memory by default.
        initial_segmentations: Labels that another tool made, one for each image; they become committed objects.
        tile_shape: Height and width of tiles; by default images beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        viewer: A viewer to use; a new one by default.
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        precompute_amg_state: Also compute what automatic segmentation needs.
        checkpoint_path: A model file of your own.
        is_volumetric: Annotate volumes with the 3d annotator.
        device: Where to compute; the best device there is by default.
        prefer_decoder: Segment automatically with the model's decoder, if it has one.
        skip_segmented: Begin with the first image that is not done, and go only to such images with "next".
        decoder_path: The decoder of ``checkpoint_path``, if that is a file of its own.
        key: The data set inside the files (hdf5, zarr).
        initial_segmentation_key: The same for the initial segmentations.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.
        **options: How to work, as in `annotator_2d` or `annotator_3d`, without ``commit_path``.

    Returns:
        The viewer, if it was asked for.

    Raises:
        InputError: There are no images, or the series is open in another window.
        OutputError: The output folder cannot be written to.
        ParameterError: An option does not exist here.
    """
    if "commit_path" in options:
        raise ParameterError("A series has no commit_path: the labels of each image are saved in the output folder.")
    series = Series(
        images, output_folder, initial_segmentations, is_volumetric, key, initial_segmentation_key, embedding_path
    )
    model = ModelChoice.of(model_type, checkpoint_path, decoder_path, device, precision)
    embedding = EmbeddingChoice(None, tile_shape, halo, normalization=normalization)
    mode = None if prefer_decoder else "amg"
    try:
        viewer, leading = _open(series, viewer, model, embedding, mode, options, skip_segmented, precompute_amg_state)
    except BaseException:
        series.close()
        raise
    leading.begin()
    if return_viewer:
        return viewer
    import napari

    napari.run()
    return None


def image_folder_annotator(
    input_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    pattern: str = "*",
    initial_segmentation_folder: str | os.PathLike | None = None,
    initial_segmentation_pattern: str = "*",
    viewer: napari.Viewer | None = None,
    return_viewer: bool = False,
    **kwargs: Any,
) -> napari.Viewer | None:
    """Annotate the images of a folder one after another, in natural order; see `image_series_annotator`.

    Args:
        input_folder: The folder of the images.
        output_folder: Where results lie; another folder.
        pattern: Which files, for example ``*.tif``.
        initial_segmentation_folder: Labels that another tool made. They belong to the image whose name they have, alone or
            with something behind it (``a_masks.tif`` for ``a.png``), or if no names fit to the image of the same place.
        initial_segmentation_pattern: Which files of that folder.
        viewer: A viewer to use; a new one by default.
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        **kwargs: What `image_series_annotator` takes.

    Returns:
        The viewer, if it was asked for.

    Raises:
        MissingInputError: A folder is not there, or holds no such files.
        ParameterError: Both folders are the same.
    """
    images = find_images(input_folder, pattern, output_folder)
    initial = None
    if initial_segmentation_folder is not None:
        labels = find_images(initial_segmentation_folder, initial_segmentation_pattern)
        initial = match_initial(images, labels)
    return image_series_annotator(
        images,
        output_folder,
        initial_segmentations=initial,
        viewer=viewer,
        return_viewer=return_viewer,
        **kwargs,
    )


def _open(
    series: Series,
    viewer: napari.Viewer | None,
    model: ModelChoice,
    embedding: EmbeddingChoice,
    mode: str | None,
    options: dict[str, Any],
    only_open: bool,
    with_state: bool,
) -> tuple[napari.Viewer, SeriesController]:
    import napari

    viewer = napari.Viewer() if viewer is None else viewer
    panel = _panel_type(series.ndim)(viewer)
    panel.embedding.set_model(model)
    panel.embedding.set_embedding(embedding)
    panel.controller.prefer_mode(mode)
    panel.controller.set_options(**options)
    panel.series = SeriesController(panel, SeriesWidget(), series, ThreadedJobs(), only_open, with_state)
    viewer.window.add_dock_widget(panel, name=TITLE, area="right", add_vertical_stretch=False)
    return viewer, panel.series


def _panel_type(ndim: int) -> type[AnnotatorWidget]:
    if ndim == 2:
        from micro_sam.sam_annotator.annotator_2d import Annotator2d

        return Annotator2d
    from micro_sam.sam_annotator.annotator_3d import Annotator3d

    return Annotator3d
