"""The annotator for volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.sam_annotator.annotator import AnnotatorWidget, Opening, open_annotator
from micro_sam.sam_annotator.controller_3d import Controller3d
from micro_sam.sam_annotator.layers import AnnotatorLayers
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.session.volume import VolumeSession
from micro_sam.sam_annotator.tools import CanvasTools
from micro_sam.sam_annotator.widgets.propagation_widget import PropagationWidget
from micro_sam.sam_annotator.widgets.volume_widget import VolumeWidget

if TYPE_CHECKING:
    import os

    import napari
    import numpy as np
    import torch

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.sam_annotator.jobs import JobRunner
    from micro_sam.sam_annotator.previews import Previews


class Annotator3d(AnnotatorWidget):
    """The panel of the 3d annotator.

    Args:
        viewer: The viewer.
        reset_state: Begin anew, instead of taking over committed labels from layers that are there.
    """

    title: ClassVar[str] = "Annotator 3d"
    kind: ClassVar[str] = "annotator_3d"
    ndim: ClassVar[int] = 3
    axes: ClassVar[str] = "zyx"

    def __init__(self, viewer: napari.viewer.Viewer, reset_state: bool = True, **parts: Any) -> None:
        super().__init__(viewer, reset_state, **parts)

    def _make_controller(self, viewer: napari.viewer.Viewer, jobs: JobRunner, previews: Previews) -> Controller3d:
        self.propagation, self.volume = PropagationWidget(), VolumeWidget()
        self.insert(self.propagation, before=self.automatic)
        self.automatic.box.insertWidget(1, self.volume)
        session, layers = VolumeSession(kind=self.kind), AnnotatorLayers(viewer, self.ndim)
        return Controller3d(viewer, self, layers, CanvasTools(viewer), session, jobs, previews)


def annotator_3d(
    image: np.ndarray,
    embedding_path: str | os.PathLike | ImageEmbeddings | None = None,
    segmentation_result: np.ndarray | None = None,
    model_type: str = DEFAULT_MODEL,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    return_viewer: bool = False,
    viewer: napari.Viewer | None = None,
    precompute_amg_state: bool = False,
    checkpoint_path: str | os.PathLike | None = None,
    decoder_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    prefer_decoder: bool = True,
    *,
    scale: tuple[float, ...] | None = None,
    unit: str | None = None,
    precision: str = "auto",
    normalization: str = "minmax",
    **options: Any,
) -> napari.Viewer | None:
    """Annotate a volume interactively in a napari window.

    The window is there at once; the model is loaded and embeddings are computed beside it, the slice that is looked at
    first, which can be annotated while the others are on their way.

    Args:
        image: The volume, ZYX or ZYXC with up to three channels; numpy or lazy (dask, zarr).
        embedding_path: Where embeddings are kept or will be kept (zarr), or the embeddings themselves.
        segmentation_result: Labels (ZYX) to begin with; they are the committed objects.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        tile_shape: Height and width of tiles; by default slices beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        viewer: A viewer to use; a new one by default.
        precompute_amg_state: Also compute what automatic segmentation needs, for all slices.
        checkpoint_path: A model file of your own.
        decoder_path: Its decoder, if that is a file of its own.
        device: Where to compute; the best device there is by default.
        prefer_decoder: Segment automatically with the model's decoder, if it has one.
        scale: The size of a voxel (z, y, x).
        unit: The unit of length of the scale, such as "micrometer"; labels are saved with it. None for pixels.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.
        **options: How to work: ``live``, ``batched``, ``tidy``, ``preserve_mode``, ``preservation_threshold``,
            ``commit_path``; how to propagate: ``projection``, ``iou_threshold``, ``box_extension``, ``follow_splits``,
            ``z_limits``, ``doubtful_below``; ``mode`` and ``settings`` (a dict of parameters, such as ``min_size``) of
            automatic segmentation, and for whole volumes the fields of `micro_sam.multi_dimensional_segmentation.VolumeSettings`.

    Returns:
        The viewer, if it was asked for.
    """
    model = ModelChoice.of(model_type, checkpoint_path, decoder_path, device, precision)
    computed = embedding_path, (tile_shape, halo), normalization
    wanted = segmentation_result, precompute_amg_state, prefer_decoder, scale, unit, options
    return open_annotator(Annotator3d, image, Opening.of(model, *computed, *wanted), viewer, return_viewer)
