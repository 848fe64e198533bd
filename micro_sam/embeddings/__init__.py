"""Image embeddings: from an image to encoder features, in memory or in a resumable store on disk."""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".compute": ("iter_precompute", "precompute_image_embeddings"),
        ".access": ("ImageEmbeddings", "get_tiling", "get_tiles_in_mask", "is_tiled", "n_slices", "set_precomputed"),
        ".automatic_tiling": ("choose_tiling", "is_too_large"),
        ".metadata": ("Difference", "Item", "Normalization", "StoreMetadata"),
        ".preprocessing": ("NormalizationRange", "to_image", "validate_image"),
        ".signature": ("compute_data_signature", "get_embedding_signature"),
        ".source": ("ImageSource", "infer_ndim"),
        ".store": ("EmbeddingStore",),
        ".tiling": ("Tile", "Tiling", "get_block_shape"),
    },
)
