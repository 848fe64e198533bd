"""What identifies the input of embeddings: the hash of its bytes, the model and the tiling."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam import __version__
from micro_sam.embeddings.metadata import Normalization, NormalizationMode, StoreMetadata
from micro_sam.embeddings.source import ImageSource, iter_c_order_blocks

if TYPE_CHECKING:
    from segment_anything import SamPredictor


class DataHasher:
    """sha1 of an array that arrives in blocks."""

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1(usedforsecurity=False)

    def update(self, block: np.ndarray) -> None:
        """Add the next block, in C order."""
        self._sha1.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8))

    def hexdigest(self) -> str:
        """The hash of all blocks so far."""
        return self._sha1.hexdigest()


def compute_data_signature(array: Any) -> str:
    """sha1 of the C-order bytes of an array, read block by block.

    Args:
        array: Anything with shape, dtype and indexing: numpy, memory map, dask, zarr, HDF5.

    Returns:
        The hash as 40 hexadecimal digits, equal to ``hashlib.sha1(np.ascontiguousarray(array).data).hexdigest()``.
    """
    hasher = DataHasher()
    for block in iter_c_order_blocks(array):
        hasher.update(block)
    return hasher.hexdigest()


def describe_request(
    predictor: SamPredictor,
    source: ImageSource,
    tile_shape: tuple[int, int] | None,
    halo: tuple[int, int] | None,
    normalization: NormalizationMode | Normalization,
) -> StoreMetadata:
    """The metadata of embeddings that are to be computed, without the parts that need the image's content."""
    return StoreMetadata(
        shape=source.shape,
        n_slices=source.n_slices,
        tile_shape=tile_shape,
        halo=halo,
        model_type=getattr(predictor, "model_type", None),
        model_name=getattr(predictor, "model_name", None),
        model_hash=getattr(predictor, "_hash", None),
        normalization=normalization if isinstance(normalization, Normalization) else Normalization(normalization),
        version=__version__,
    )


def get_embedding_signature(
    predictor: SamPredictor,
    input_: Any,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    ndim: int | None = None,
    normalization: NormalizationMode = "minmax",
) -> dict[str, Any]:
    """The attributes by which an embedding store knows what it belongs to.

    Args:
        predictor: The predictor, with ``model_type``, ``model_name`` and ``_hash``.
        input_: The whole input, lazy or not.
        tile_shape: The tiles' (height, width).
        halo: The tiles' halo (y, x).
        ndim: 2 or 3, None to infer it.
        normalization: "minmax" or "robust".

    Returns:
        ``data_signature``, ``tile_shape``, ``halo``, ``model_type``, ``model_name``, ``model_hash``,
        ``micro_sam_version`` as they lie in the group's attributes, and ``normalization``.
    """
    source = ImageSource.from_input(input_, ndim)
    metadata = describe_request(predictor, source, tile_shape, halo, normalization)
    metadata = metadata.replace(data_signature=compute_data_signature(source.array))
    return {**metadata.signature(), "normalization": normalization}
