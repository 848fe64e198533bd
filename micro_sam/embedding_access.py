"""What segmentation needs to know of image embeddings: are they tiled, how, and set them in the predictor."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from micro_sam.embeddings.access import ImageEmbeddings, get_tiles_in_mask, get_tiling, is_tiled, set_precomputed
from micro_sam.embeddings.tiling import Tiling
from micro_sam.errors import ParameterError
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from segment_anything import SamPredictor

__all__ = [
    "ImageEmbeddings",
    "activate",
    "check_image",
    "image_shape",
    "is_tiled",
    "iter_embed",
    "tile_ids",
    "tiling_of",
]


def tiling_of(image_embeddings: ImageEmbeddings) -> Tiling:
    """The tiles of tiled embeddings.

    Raises:
        ParameterError: The embeddings are not tiled.
    """
    if not is_tiled(image_embeddings):
        raise ParameterError("Expected embeddings of tiles, these are of the whole image: pass tile_shape and halo.")
    return get_tiling(image_embeddings)


def image_shape(image_embeddings: ImageEmbeddings) -> tuple[int, int]:
    """Height and width of the image (or of a slice of the volume)."""
    if is_tiled(image_embeddings):
        return tiling_of(image_embeddings).shape
    height, width = image_embeddings["original_size"]
    return int(height), int(width)


activate = set_precomputed
tile_ids = get_tiles_in_mask


def check_image(image: np.ndarray | None, image_embeddings: ImageEmbeddings | None) -> None:
    """Raise `ParameterError` unless there is an image, or embeddings of one, and the two fit."""
    if image_embeddings is None:
        if image is None:
            raise ParameterError("Pass an image or its image_embeddings, got neither.")
        return
    if image is None:
        return
    plane = image_shape(image_embeddings)
    shape = tuple(image.shape) if hasattr(image, "shape") else np.shape(image)
    if plane not in (shape[:2], shape[1:3], shape[-2:]):
        raise ParameterError(f"The image has the shape {shape}, but its embeddings belong to one of {plane}.")


def iter_embed(
    predictor: SamPredictor,
    image: np.ndarray | None,
    image_embeddings: ImageEmbeddings | None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    batch_size: int = 1,
    mask: np.ndarray | None = None,
) -> Generator[Progress, None, ImageEmbeddings]:
    """The embeddings that were passed, or newly computed ones of a 2d image."""
    check_image(image, image_embeddings)
    if image_embeddings is not None:
        return image_embeddings
    from micro_sam.embeddings.compute import iter_precompute

    return (
        yield from iter_precompute(
            predictor, image, ndim=2, tile_shape=tile_shape, halo=halo, batch_size=batch_size, mask=mask
        )
    )
