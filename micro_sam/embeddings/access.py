"""Put stored embeddings into a predictor, and ask embeddings of any kind (store or plain dict) about their layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from micro_sam.embeddings.metadata import Item, as_pair
from micro_sam.embeddings.store import EmbeddingStore
from micro_sam.embeddings.tiling import Tiling
from micro_sam.errors import ParameterError

if TYPE_CHECKING:
    from segment_anything import SamPredictor

ImageEmbeddings = Mapping[str, Any]


def is_tiled(image_embeddings: ImageEmbeddings) -> bool:
    """Whether embeddings consist of tiles."""
    if isinstance(image_embeddings, EmbeddingStore):
        return image_embeddings.is_tiled
    return image_embeddings["input_size"] is None


def get_tiling(image_embeddings: ImageEmbeddings) -> Tiling:
    """The tiling of tiled embeddings.

    Raises:
        ParameterError: If the embeddings are not tiled.
    """
    if not is_tiled(image_embeddings):
        raise ParameterError("Expected tiled embeddings, got embeddings without tiles.")
    if isinstance(image_embeddings, EmbeddingStore):
        return image_embeddings.metadata.tiling
    attributes = image_embeddings["features"].attrs
    return Tiling(*(as_pair(attributes[key]) for key in ("shape", "tile_shape", "halo")))


def get_tiles_in_mask(image_embeddings: ImageEmbeddings, i: int | None = None) -> list[int]:
    """The numbers of the tiles that have embeddings in slice i (None for an image): all of them without a mask."""
    if isinstance(image_embeddings, EmbeddingStore):
        return list(image_embeddings.metadata.tiles_of_slice(i))
    mask = image_embeddings["features"].attrs.get("tiles_in_mask")
    if mask is None:
        return list(range(get_tiling(image_embeddings).n_tiles))
    return [int(tile_id) for tile_id in (mask.get(str(i), ()) if isinstance(mask, Mapping) else mask)]


def n_slices(image_embeddings: ImageEmbeddings) -> int | None:
    """The number of slices or frames of embeddings, None for an image."""
    if isinstance(image_embeddings, EmbeddingStore):
        return image_embeddings.metadata.n_slices
    features = image_embeddings["features"]
    if is_tiled(image_embeddings):
        features = features[next(iter(features))]
    return features.shape[0] if len(features.shape) == 5 else None


def set_precomputed(
    predictor: SamPredictor, image_embeddings: ImageEmbeddings, i: int | None = None, tile_id: int | None = None
) -> SamPredictor:
    """Make a predictor ready for prompts with an embedding that was computed before.

    Only the one embedding is read, and without a copy where the predictor is on the CPU.

    Args:
        predictor: The predictor; its image is replaced.
        image_embeddings: From `precompute_image_embeddings`, or a dict of arrays in the same layout.
        i: The slice or frame, for volumes and time series.
        tile_id: The tile, for tiled embeddings.

    Returns:
        The predictor.

    Raises:
        ParameterError: If i or tile_id is missing, superfluous or out of range.
        StoreMismatchError: If the embeddings in a store were computed with another model.
        StoreError: If that embedding was not computed.
        StoreDamagedError: If it is damaged on disk.
    """
    _check_indices(image_embeddings, i, tile_id)
    features, original_size, input_size = _lookup(predictor, image_embeddings, i, tile_id)
    predictor.reset_image()
    predictor.features = torch.as_tensor(features, dtype=torch.float32, device=predictor.device)
    predictor.original_size = tuple(int(size) for size in original_size)
    predictor.input_size = tuple(int(size) for size in input_size)
    predictor.is_image_set = True
    return predictor


def _check_indices(image_embeddings: ImageEmbeddings, i: int | None, tile_id: int | None) -> None:
    tiled, slices = is_tiled(image_embeddings), n_slices(image_embeddings)
    if tiled != (tile_id is not None):
        told = "tiled: give tile_id" if tiled else f"not tiled: leave tile_id out instead of giving {tile_id}"
        raise ParameterError(f"The embeddings are {told}.")
    if (slices is None) != (i is None):
        told = f"of one image: leave i out instead of giving {i}" if slices is None else f"of {slices} slices: give i"
        raise ParameterError(f"The embeddings are {told}.")
    if slices is not None and not 0 <= i < slices:
        raise ParameterError(f"Expected i from 0 to {slices - 1}, got {i}.")


def _lookup(
    predictor: SamPredictor, image_embeddings: ImageEmbeddings, i: int | None, tile_id: int | None
) -> tuple[np.ndarray, Any, Any]:
    """The features (1, 256, 64, 64), original size and input size of one item."""
    if isinstance(image_embeddings, EmbeddingStore):
        image_embeddings.check_model(predictor)
        item = Item(None if i is None else int(i), None if tile_id is None else int(tile_id))
        features = image_embeddings.read(item)
        metadata = image_embeddings.metadata
        return features, metadata.original_size(item.tile_id), metadata.input_size(item.tile_id)
    features, sizes = image_embeddings["features"], image_embeddings
    if tile_id is not None:
        features = features[str(tile_id)]
        sizes = features.attrs
    whole = features[...] if i is None else features[i]
    return whole, sizes["original_size"], sizes["input_size"]
