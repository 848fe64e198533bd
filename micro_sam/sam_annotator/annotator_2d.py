"""The annotator for images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.sam_annotator.annotator import AnnotatorWidget, Opening, open_annotator
from micro_sam.sam_annotator.session.loading import ModelChoice

if TYPE_CHECKING:
    import os

    import napari
    import numpy as np
    import torch

    from micro_sam.embedding_access import ImageEmbeddings


class Annotator2d(AnnotatorWidget):
    """The panel of the 2d annotator.

    Args:
        viewer: The viewer.
        reset_state: Begin anew, instead of taking over committed labels from layers that are there.
    """

    title: ClassVar[str] = "Annotator 2d"
    kind: ClassVar[str] = "annotator_2d"
    ndim: ClassVar[int] = 2

    def __init__(self, viewer: napari.viewer.Viewer, reset_state: bool = True, **parts: Any) -> None:
        super().__init__(viewer, reset_state, **parts)


def annotator_2d(
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
    """Annotate an image interactively in a napari window.

    The window is there at once; the model is loaded and embeddings are computed beside it.

    Args:
        image: The image, YX or YXC with up to three channels; numpy or lazy (dask, zarr).
        embedding_path: Where embeddings are kept or will be kept (zarr), or the embeddings themselves.
        segmentation_result: Labels (YX) to begin with; they are the committed objects.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        tile_shape: Height and width of tiles; by default images beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        viewer: A viewer to use; a new one by default.
        precompute_amg_state: Also compute what automatic segmentation needs.
        checkpoint_path: A model file of your own.
        decoder_path: Its decoder, if that is a file of its own.
        device: Where to compute; the best device there is by default.
        prefer_decoder: Segment automatically with the model's decoder, if it has one.
        scale: The size of a pixel (y, x).
        unit: The unit of length of the scale, such as "micrometer"; labels are saved with it. None for pixels.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.
        **options: How to work: ``live``, ``batched``, ``tidy``, ``preserve_mode``, ``preservation_threshold``,
            ``commit_path``; ``mode`` ("ais", "apg", "amg") and ``settings`` (a dict of parameters, such as ``min_size``)
            of automatic segmentation.

    Returns:
        The viewer, if it was asked for.
    """
    model = ModelChoice.of(model_type, checkpoint_path, decoder_path, device, precision)
    computed = embedding_path, (tile_shape, halo), normalization
    wanted = segmentation_result, precompute_amg_state, prefer_decoder, scale, unit, options
    return open_annotator(Annotator2d, image, Opening.of(model, *computed, *wanted), viewer, return_viewer)
