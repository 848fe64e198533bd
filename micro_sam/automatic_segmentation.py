"""Automatic instance segmentation of an image, from a file or an array, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings import Normalization, choose_tiling, infer_ndim, precompute_image_embeddings
from micro_sam.errors import ParameterError, UnknownModelError
from micro_sam.instance_segmentation import (
    AutomaticPromptGenerator,
    InstanceSegmentationWithDecoder,
    get_decoder,
    get_instance_segmentation_generator,
    get_segmentation_mode,
    tiled_counterpart,
)
from micro_sam.instance_segmentation.settings import INIT, SETTINGS, settings_for
from micro_sam.io import load_image_data, open_image, write_labels
from micro_sam.models.cache import checkpoint_location
from micro_sam.models.predictor import SamPredictor, get_sam_model
from micro_sam.models.spec import get_spec
from micro_sam.multi_dimensional_segmentation.volume_settings import volume_arguments

if TYPE_CHECKING:
    import torch

    from micro_sam.instance_segmentation.base import Segmenter

Mode = Literal["amg", "ais", "apg"]


def get_predictor_and_segmenter(
    model_type: str,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    segmentation_mode: Mode | None = None,
    is_tiled: bool = False,
    predictor: SamPredictor | None = None,
    state: Mapping[str, Any] | None = None,
    *,
    precision: str = "auto",
    decoder_path: str | os.PathLike | None = None,
    **kwargs: Any,
) -> tuple[SamPredictor, Segmenter]:
    """Load a model and make what segments with it.

    Args:
        model_type: A registered model; with ``checkpoint`` it names the encoder.
        checkpoint: A model file of your own.
        device: Where to compute; the best device there is by default.
        segmentation_mode: "amg" (a grid of prompts), "ais" (the decoder), "apg" (prompts from the decoder); by default
            what the model can do: "ais" with a decoder, "amg" without.
        is_tiled: Whether images will be segmented in tiles.
        predictor: A loaded model to use instead.
        state: The content of its checkpoint, of which ``decoder_state`` is used.
        precision: "float32", "bfloat16" or "auto", see `get_sam_model`.
        decoder_path: A file with the weights of the instance segmentation decoder.
        **kwargs: For mode "amg" arguments of `AutomaticMaskGenerator`, such as ``points_per_side``.

    Returns:
        The predictor and the segmenter: ``initialize`` it with an image, then ``generate``; or pass both to
        `automatic_instance_segmentation`.

    Raises:
        ParameterError: An unknown mode, or one that needs a decoder for a model that has none.
    """
    if predictor is None:
        predictor = get_sam_model(
            model_type, device, checkpoint_path=checkpoint, decoder_path=decoder_path, precision=precision
        )
    decoder = None if segmentation_mode == "amg" else _decoder(predictor, state)
    mode = get_segmentation_mode(segmentation_mode, decoder is not None)
    arguments = kwargs if mode == "amg" else {}
    segmenter = get_instance_segmentation_generator(
        predictor, is_tiled=is_tiled, decoder=decoder, segmentation_mode=mode, **arguments
    )
    return predictor, segmenter


def automatic_instance_segmentation(
    predictor: SamPredictor,
    segmenter: Segmenter,
    input_path: str | os.PathLike | np.ndarray,
    output_path: str | os.PathLike | None = None,
    embedding_path: str | os.PathLike | None = None,
    mask_path: str | os.PathLike | np.ndarray | None = None,
    key: str | None = None,
    mask_key: str | None = None,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    verbose: bool = True,
    return_embeddings: bool = False,
    annotate: bool = False,
    batch_size: int = 1,
    *,
    normalization: Literal["minmax", "robust"] | Normalization = "minmax",
    automatic_tiling: bool = True,
    **generate_kwargs: Any,
) -> np.ndarray | tuple[np.ndarray, Mapping[str, Any]]:
    """Segment an image.

    Args:
        predictor: The model.
        segmenter: What segments, from `get_predictor_and_segmenter`; made with ``is_tiled`` to work in tiles of your choice.
        input_path: The image: a file (see `load_image_data`) or an array ``YX``, ``YXC``, ``ZYX`` or ``ZYXC``.
        output_path: Where to write the labels (.tif or .zarr).
        embedding_path: Where to keep the embeddings; those that are there already are used.
        mask_path: A file or array ``YX``: nothing is segmented where it is 0, and tiles without it are not computed.
        key: The data set inside the file, or the pattern of a folder.
        mask_key: The same for the mask.
        ndim: 2 or 3; by default inferred from the shape.
        tile_shape: Height and width of the tiles; by default only images that are too large for one pass are cut into
            tiles, which the log says.
        halo: How far tiles reach into their neighbours (y, x).
        verbose: Show progress bars.
        return_embeddings: Return the embeddings, too.
        annotate: Open the result in the annotator for correction.
        batch_size: Tiles or slices encoded at the same time.
        normalization: How contrast is made: "minmax" or "robust", see `precompute_image_embeddings`.
        automatic_tiling: Whether large images are cut into tiles without being asked to.
        **generate_kwargs: Arguments of the segmenter's ``generate``; they win over the defaults that belong to the model.
            For volumes also ``volume_method``, ``gap_closing``, ``min_z_extent``, ``z_smoothing``, ``beta`` and ``out``, see
            `automatic_3d_segmentation`.

    Returns:
        Labels of the image's spatial shape, 0 is background; with ``return_embeddings`` also the embeddings.

    Raises:
        ParameterError: Arguments that do not fit each other.
        ImageError: An image that cannot be segmented.
        InputError: A file that cannot be read.
    """
    shape, ndim = _shape_of(input_path, key, ndim)
    if tile_shape is None and halo is None and automatic_tiling:
        segmenter, tile_shape, halo = automatic_tiles(segmenter, shape[ndim - 2 : ndim], embedding_path)
    is_tiled = tile_shape is not None
    check_tiling(segmenter, is_tiled)
    image, resolution = load_input(input_path, key, lazy=is_tiled or ndim == 3)
    mask = None if mask_path is None else np.asarray(load_input(mask_path, mask_key)[0])
    arguments = {**model_defaults(predictor, segmenter), **generate_kwargs}
    common = {"tile_shape": tile_shape, "halo": halo, "verbose": verbose, "batch_size": batch_size}
    if ndim == 3:
        work = {"normalization": normalization, "return_embeddings": return_embeddings, "mask": mask}
        labels, embeddings = _segment_volume(
            predictor, segmenter, image, embedding_path, {**common, **work, **arguments}
        )
    else:
        _refuse_volume_arguments(generate_kwargs)
        embeddings = precompute_image_embeddings(
            predictor,
            image,
            embedding_path,
            lazy_loading=is_tiled and embedding_path is not None,
            ndim=2,
            mask=mask if is_tiled else None,
            normalization=normalization,
            **common,
        )
        segmenter.initialize(image, image_embeddings=embeddings, verbose=verbose)
        labels = segmenter.generate(**arguments)
        labels = labels if mask is None else _inside(labels, mask)
    if output_path is not None:
        write_labels(output_path, labels, resolution)
    if annotate:
        open_annotator(image, labels, embedding_path if embedding_path is not None else embeddings, predictor)
    return (labels, embeddings) if return_embeddings else labels


def open_annotator(
    image: Any,
    labels: np.ndarray,
    embeddings: Any,
    predictor: SamPredictor,
    lineages: Sequence[Mapping[int, Sequence[int]]] | None = None,
) -> None:
    """Open a result in the annotator that fits it.

    Args:
        image: The image, volume or time series.
        labels: Its labels.
        embeddings: Its embeddings or the path of their store.
        predictor: The model.
        lineages: Of a tracked time series, one dict per family, label -> labels of the daughters.
    """
    annotators = _part_of_later_versions("sam_annotator", "annotate=True needs")
    model = _model_arguments(predictor)
    if lineages is not None:
        annotators.annotator_tracking(image, embeddings, tracking_result=(labels, lineages), **model)
    else:
        annotator = annotators.annotator_2d if labels.ndim == 2 else annotators.annotator_3d
        annotator(np.asarray(image), embeddings, labels, **model)


def _model_arguments(predictor: SamPredictor) -> dict[str, Any]:
    """How an annotator loads the same model: by its name, or for a file of one's own by its path."""
    name, path = predictor.model_name, getattr(predictor, "checkpoint_path", None)
    try:
        registered = path is None or str(path) == str(checkpoint_location(get_spec(name)))
    except UnknownModelError:
        registered = False
    return {"model_type": name} if registered else {"model_type": predictor.model_type, "checkpoint_path": path}


def segmentation_mode_of(segmenter: Segmenter) -> Mode:
    """The mode a segmenter works in."""
    if isinstance(segmenter, AutomaticPromptGenerator):
        return "apg"
    return "ais" if isinstance(segmenter, InstanceSegmentationWithDecoder) else "amg"


def init_parameters() -> frozenset[str]:
    """Parameters that are given when a segmenter is made; all others are given to its ``generate``."""
    return frozenset(f.name for cls in SETTINGS.values() for f in fields(cls) if f.metadata["stage"] == INIT)


def _decoder(predictor: SamPredictor, state: Mapping[str, Any] | None) -> Any:
    decoder_state = (state or {}).get("decoder_state")
    if decoder_state is None:
        decoder_state = getattr(predictor, "decoder_state", None)
    if decoder_state is None:
        return None
    precision = getattr(predictor, "precision", "auto")
    return get_decoder(predictor.model.image_encoder, decoder_state, predictor.device, precision=precision)


def model_defaults(predictor: SamPredictor, segmenter: Segmenter) -> dict[str, Any]:
    """The parameters that suit a registered model, or that a model file of one's own holds."""
    own = getattr(predictor, "defaults", None) or {}
    if own:
        return dict(own.get(segmentation_mode_of(segmenter), {}))
    try:
        spec = get_spec(predictor.model_name)
    except (AttributeError, UnknownModelError):
        return {}
    if str(predictor.checkpoint_path) != str(checkpoint_location(spec)):
        return {}
    mode = segmentation_mode_of(segmenter)
    known = settings_for(mode, getattr(spec, mode))
    plain = settings_for(mode)
    return {name: value for name, value in known.generate_kwargs().items() if value != getattr(plain, name)}


def _makes_tiles(segmenter: Segmenter) -> bool:
    return type(segmenter).__name__.startswith("Tiled")


def check_tiling(segmenter: Segmenter, is_tiled: bool) -> None:
    """Raise a `ParameterError` unless the segmenter works in tiles exactly if tiles are asked for."""
    makes_tiles = _makes_tiles(segmenter)
    if makes_tiles != is_tiled:
        raise ParameterError(
            "The segmenter works in tiles, so tile_shape and halo are needed."
            if makes_tiles
            else "tile_shape was given, but the segmenter does not work in tiles; make it with is_tiled=True."
        )


def load_input(source: str | os.PathLike | Any, key: str | None, lazy: bool = False) -> tuple[Any, Any]:
    """An array or a file as an array, and its resolution, which only files have."""
    if not isinstance(source, str | Path | os.PathLike):
        return (source if hasattr(source, "shape") else np.asarray(source)), None
    return load_image_data(source, key, lazy_loading=lazy), open_image(source, key).resolution


def _inside(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape != labels.shape[-mask.ndim :]:
        raise ParameterError(f"The mask must cover the image {labels.shape}, but its shape is {mask.shape}.")
    return np.where(mask != 0, labels, np.zeros((), labels.dtype))


def _shape_of(source: str | os.PathLike | Any, key: str | None, ndim: int | None) -> tuple[tuple[int, ...], int]:
    """The shape of an image and its number of spatial dimensions; nothing of it is read."""
    is_file = isinstance(source, str | Path | os.PathLike)
    shape = tuple(open_image(source, key).shape if is_file else np.shape(source))
    return shape, infer_ndim(shape, ndim)


def automatic_tiles(
    segmenter: Segmenter, plane: tuple[int, ...], embedding_path: str | os.PathLike | None
) -> tuple[Segmenter, tuple[int, int] | None, tuple[int, int] | None]:
    """Tiles and what segments in them, if the image is too large for one pass or the segmenter knows only tiles."""
    choice = choose_tiling(plane, embedding_path, always=_makes_tiles(segmenter))
    return (segmenter, None, None) if choice is None else (tiled_counterpart(segmenter), *choice)


def _segment_volume(
    predictor: SamPredictor,
    segmenter: Segmenter,
    volume: Any,
    embedding_path: str | os.PathLike | None,
    arguments: Mapping[str, Any],
) -> tuple[Any, Any]:
    from micro_sam.multi_dimensional_segmentation import automatic_3d_segmentation

    found = automatic_3d_segmentation(volume, predictor, segmenter, embedding_path, **arguments)
    return found if arguments["return_embeddings"] else (found, None)


def _refuse_volume_arguments(arguments: Mapping[str, Any]) -> None:
    names = sorted(volume_arguments() & set(arguments))
    if names:
        raise ParameterError(
            f"{', '.join(names)} belongs to volumes, but this is an image; leave it out, or pass ndim=3."
        )


def _part_of_later_versions(module: str, sentence: str) -> Any:
    if find_spec(f"micro_sam.{module}") is None:
        raise ParameterError(f"{sentence} micro_sam.{module}, which is not part of this version; use single images.")
    return import_module(f"micro_sam.{module}")


def __getattr__(name: str) -> Any:
    if name == "automatic_tracking":  # loaded on first use, since it builds on this module
        return import_module("micro_sam.automatic_tracking").automatic_tracking
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
