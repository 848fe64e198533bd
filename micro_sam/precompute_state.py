"""Computing embeddings, and what automatic segmentation derives from them, ahead of time."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings import choose_tiling, infer_ndim, is_tiled, iter_precompute
from micro_sam.instance_segmentation import (
    get_decoder,
    get_instance_segmentation_generator,
    has_state,
    load_state,
    save_state,
)
from micro_sam.io import expand_inputs, load_image_data, unique_names
from micro_sam.models.predictor import SamPredictor, get_sam_model
from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    import torch

    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter


def cache_amg_state(
    predictor: SamPredictor,
    raw: np.ndarray,
    image_embeddings: ImageEmbeddings,
    save_path: str | os.PathLike,
    verbose: bool = True,
    i: int | None = None,
    **kwargs: Any,
) -> Segmenter:
    """Automatic mask generation for an image, taken from a folder or computed and kept there.

    Args:
        predictor: The model.
        raw: The image ``YX`` or ``YXC``.
        image_embeddings: Its embeddings.
        save_path: The folder of the embeddings, where the state is kept beside them.
        verbose: Show a progress bar.
        i: The slice, for a volume or time series.
        **kwargs: Arguments of `AutomaticMaskGenerator`.

    Returns:
        The segmenter, on which ``generate`` can be called.
    """
    segmenter = get_instance_segmentation_generator(
        predictor, is_tiled=is_tiled(image_embeddings), segmentation_mode="amg", **kwargs
    )
    return _restore_or_compute(segmenter, "amg", raw, image_embeddings, save_path, verbose, i)


def cache_is_state(
    predictor: SamPredictor,
    decoder: torch.nn.Module,
    raw: np.ndarray,
    image_embeddings: ImageEmbeddings,
    save_path: str | os.PathLike,
    verbose: bool = True,
    i: int | None = None,
    skip_load: bool = False,
    **kwargs: Any,
) -> Segmenter | None:
    """Instance segmentation with the decoder for an image, taken from a folder or computed and kept there.

    Args:
        predictor: The model.
        decoder: Its decoder.
        raw: The image ``YX`` or ``YXC``.
        image_embeddings: Its embeddings.
        save_path: The folder of the embeddings, where the predictions are kept beside them in ``is_state.h5``.
        verbose: Show a progress bar.
        i: The slice, for a volume or time series.
        skip_load: Do nothing and return None if the predictions are there already.
        **kwargs: Arguments of the segmenter.

    Returns:
        The segmenter, on which ``generate`` can be called.
    """
    if skip_load and has_state(save_path, "ais", i):
        return None
    segmenter = get_instance_segmentation_generator(
        predictor, is_tiled=is_tiled(image_embeddings), decoder=decoder, segmentation_mode="ais", **kwargs
    )
    return _restore_or_compute(segmenter, "ais", raw, image_embeddings, save_path, verbose, i)


def precompute_state(
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    pattern: str | None = None,
    model_type: str = DEFAULT_MODEL,
    checkpoint_path: str | os.PathLike | None = None,
    key: str | None = None,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    precompute_amg_state: bool = False,
    *,
    automatic_tiling: bool = True,
) -> None:
    """Compute the embeddings of image files and keep them; what is there already is not computed again.

    Args:
        input_path: An image file, or a folder.
        output_path: The zarr store to write; with a pattern the folder where each image gets its ``<name>.zarr``.
        pattern: Which files of the folder to process one by one.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        checkpoint_path: A model file of your own.
        key: The data set inside the file, or the pattern of files that make up one stack.
        ndim: 2 or 3; by default inferred from the shape.
        tile_shape: Height and width of the tiles; by default only images that are too large for one pass are cut.
        halo: How far tiles reach into their neighbours (y, x).
        precompute_amg_state: Also compute what automatic segmentation needs.
        automatic_tiling: Without tile_shape cut images into tiles that are too large for one pass.

    Raises:
        InputError: A file cannot be read.
        StoreMismatchError: There is a store of another image or model at the output.
    """
    paths = expand_inputs([input_path], pattern)
    stores = [Path(output_path)]
    if pattern is not None:
        Path(output_path).mkdir(parents=True, exist_ok=True)
        stores = [Path(output_path) / f"{name}.zarr" for name in unique_names(paths)]
    predictor = get_sam_model(model_type, checkpoint_path=checkpoint_path)
    work = StatePrecomputation(
        predictor, tile_shape, halo, with_state=precompute_amg_state, automatic_tiling=automatic_tiling
    )
    for path, store in zip(paths, stores, strict=True):
        work.run(load_image_data(path, key, lazy_loading=True), store, ndim)


@dataclass(frozen=True)
class StatePrecomputation:
    """How embeddings, and if wanted the state of automatic segmentation, are computed for one image after another.

    Attributes:
        predictor: The model.
        tile_shape: Height and width of the tiles; None for no tiling.
        halo: How far tiles reach into their neighbours (y, x).
        batch_size: Tiles or slices encoded at the same time.
        normalization: "minmax" or "robust".
        with_state: Also compute the state of automatic segmentation: with the decoder if the model has one, else the
            masks of a grid of prompts.
        automatic_tiling: Without tile_shape cut images into tiles that are too large for one pass.
    """

    predictor: SamPredictor
    tile_shape: tuple[int, int] | None = None
    halo: tuple[int, int] | None = None
    batch_size: int = 1
    normalization: Literal["minmax", "robust"] = "minmax"
    with_state: bool = False
    automatic_tiling: bool = True

    def run(self, image: Any, store_path: str | os.PathLike, ndim: int | None = None, verbose: bool = True) -> None:
        """Process an image (array or lazy array); see `iter_run`."""
        drain(self.iter_run(image, store_path, ndim), verbose)

    def iter_run(
        self, image: Any, store_path: str | os.PathLike, ndim: int | None = None
    ) -> Generator[Progress, None, None]:
        """`run` as a generator: closing it early leaves a store that the next run completes."""
        ndim = infer_ndim(tuple(image.shape), ndim)
        tile_shape, halo = self._tiling(image.shape[ndim - 2 : ndim], store_path)
        embeddings = yield from iter_precompute(
            self.predictor,
            image,
            store_path,
            ndim=ndim,
            tile_shape=tile_shape,
            halo=halo,
            batch_size=self.batch_size,
            normalization=self.normalization,
            lazy_loading=True,
        )
        if not self.with_state:
            return
        slices: list[int | None] = [None] if ndim == 2 else list(range(image.shape[0]))
        for done, i in enumerate(slices):
            yield Progress(done, len(slices), "Precompute segmentation")
            self._cache_state(image if i is None else image[i], embeddings, store_path, i)
        yield Progress(len(slices), len(slices), "Precompute segmentation")

    def _tiling(self, plane: Sequence[int], store_path: str | os.PathLike) -> tuple[Any, Any]:
        if self.tile_shape is not None or self.halo is not None or not self.automatic_tiling:
            return self.tile_shape, self.halo
        return choose_tiling(plane, store_path) or (None, None)

    @cached_property
    def _cache(self) -> Callable[..., Any]:
        state = self.predictor.decoder_state
        if state is None:
            return cache_amg_state
        encoder, device = self.predictor.model.image_encoder, self.predictor.device
        decoder = get_decoder(encoder, state, device, precision=self.predictor.precision)
        return lambda predictor, *args, **kwargs: cache_is_state(predictor, decoder, *args, skip_load=True, **kwargs)

    def _cache_state(
        self, raw: Any, embeddings: Mapping[str, Any], store_path: str | os.PathLike, i: int | None
    ) -> None:
        self._cache(self.predictor, np.asarray(raw), embeddings, store_path, verbose=False, i=i)


def _restore_or_compute(
    segmenter: Segmenter,
    mode: str,
    raw: np.ndarray,
    image_embeddings: ImageEmbeddings,
    save_path: str | os.PathLike,
    verbose: bool,
    i: int | None,
) -> Segmenter:
    if has_state(save_path, mode, i):
        segmenter.set_state(load_state(save_path, mode, i))
        return segmenter
    segmenter.initialize(raw, image_embeddings=image_embeddings, i=i, verbose=verbose)
    save_state(save_path, segmenter.get_state(), mode, i)
    return segmenter
