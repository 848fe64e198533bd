"""Image embeddings: from an image to encoder features, in memory or in a resumable store on disk."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "compute": ("iter_precompute", "precompute_image_embeddings"),
    "access": (
        "ImageEmbeddings",
        "get_tiling",
        "get_tiles_in_mask",
        "is_tiled",
        "n_slices",
        "set_precomputed",
    ),
    "metadata": ("Difference", "Item", "Normalization", "StoreMetadata"),
    "preprocessing": ("NormalizationRange", "to_image", "validate_image"),
    "signature": ("compute_data_signature", "get_embedding_signature"),
    "source": ("ImageSource", "infer_ndim"),
    "store": ("EmbeddingStore",),
    "tiling": ("Tile", "Tiling", "get_block_shape"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
