"""Embeddings in memory."""

from __future__ import annotations

import numpy as np

from micro_sam.embeddings.metadata import FEATURE_SHAPE, Item, StoreMetadata


class MemoryBackend:
    """Keeps embeddings in numpy arrays of the layouts that a store on disk has."""

    path = None
    writable = True

    def __init__(self, metadata: StoreMetadata) -> None:
        self.metadata = metadata
        self._arrays: dict[int | None, np.ndarray] = {}
        self._done = np.zeros(metadata.record_shape, dtype=bool)

    def array(self, tile_id: int | None) -> np.ndarray:
        """The array of all slices (of a tile): (1, 256, 64, 64) or (Z, 1, 256, 64, 64), pages filled on first use."""
        if tile_id not in self._arrays:
            leading = (1,) if self.metadata.n_slices is None else (self.metadata.n_slices, 1)
            self._arrays[tile_id] = np.zeros(leading + FEATURE_SHAPE, dtype=np.float32)
        return self._arrays[tile_id]

    def read(self, item: Item) -> np.ndarray:
        """The embedding of an item, shape (1, 256, 64, 64), not copied."""
        array = self.array(item.tile_id)
        return array if item.i is None else array[item.i]

    def write(self, item: Item, features: np.ndarray) -> None:
        """Store the embedding of an item."""
        self.read(item)[...] = features
        self._done[item.i or 0, item.tile_id or 0] = True

    def is_done(self, item: Item) -> bool:
        """Whether an item was written."""
        return bool(self._done[item.i or 0, item.tile_id or 0])

    def finish(self) -> None:
        """Nothing remains to be done in memory."""
