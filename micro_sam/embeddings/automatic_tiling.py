"""When an image is too large for one pass through the network, and into which tiles it is cut then."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

logger = logging.getLogger(__name__)

#: The encoder scales the longer side to 1024 pixels: beyond this it would see less than half of the resolution, and
#: memory for the whole image at once would grow without bound.
LONGEST_SIDE = 2048
#: A tile with its halo is 1024 pixels long, which the encoder sees as they are.
TILE_SHAPE = (768, 768)
HALO = (128, 128)


class TileChoice(NamedTuple):
    """Height and width of the tiles, and how far they reach into their neighbours (y, x)."""

    tile_shape: tuple[int, int]
    halo: tuple[int, int]


def is_too_large(plane: Sequence[int]) -> bool:
    """Whether an image or slice of this height and width should not be encoded in one pass."""
    return max(plane) > LONGEST_SIDE


def choose_tiling(
    plane: Sequence[int], store_path: str | os.PathLike | None = None, always: bool = False
) -> TileChoice | None:
    """The tiles to work in when nobody asked for any; says so in the log.

    Args:
        plane: Height and width of the image or of a slice.
        store_path: Where embeddings are kept: if there are some already, their tiles are used.
        always: Choose tiles for small images, too.

    Returns:
        The tiles, or None for one pass.
    """
    stored = None if store_path is None else _stored_tiling(store_path)
    if stored is not None:
        return stored if stored.tile_shape is not None else None
    if not always and not is_too_large(plane):
        return None
    if is_too_large(plane):
        logger.warning(
            "%d x %d pixels are too many for one pass; working in tiles of %d x %d with a halo of %d "
            "(choose other tiles with tile_shape and halo, or none with automatic_tiling=False; on the command line "
            "--tile_shape, --halo and --no_tiling).",
            *(plane[0], plane[1], *TILE_SHAPE, HALO[0]),
        )
    return TileChoice(TILE_SHAPE, HALO)


def _stored_tiling(path: str | os.PathLike) -> TileChoice | None:
    """The tiling of embeddings that are there; None if there are none that can be read."""
    from micro_sam.embeddings.store import EmbeddingStore
    from micro_sam.errors import MicroSamError

    try:
        metadata = EmbeddingStore.open(path).metadata
    except MicroSamError:  # whoever opens it for use says what is wrong
        return None
    return TileChoice(metadata.tile_shape, metadata.halo)
