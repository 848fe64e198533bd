"""What ``embeddings["features"]`` gives: array-likes and groups that read a store when they are indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from micro_sam.embeddings.layout import tiled_attributes
from micro_sam.embeddings.metadata import FEATURE_SHAPE, Item, StoreMetadata

ReadItem = Callable[[Item], np.ndarray]


class FeatureArray:
    """The features of an image (1, 256, 64, 64) or of all slices (Z, 1, 256, 64, 64), float32, read on indexing.

    Args:
        metadata: The store's metadata.
        read: Reads one item.
        tile_id: The tile, None without tiling.
    """

    dtype = np.dtype("float32")

    def __init__(self, metadata: StoreMetadata, read: ReadItem, tile_id: int | None = None) -> None:
        self._read, self._n_slices, self._tile_id = read, metadata.n_slices, tile_id
        leading = (1,) if metadata.n_slices is None else (metadata.n_slices, 1)
        self.shape = leading + FEATURE_SHAPE
        self.attrs: dict[str, Any] = {}
        if tile_id is not None:
            sizes = metadata.original_size(tile_id), metadata.input_size(tile_id)
            self.attrs = {"original_size": list(sizes[0]), "input_size": list(sizes[1])}

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        if self._n_slices is None:
            return self._read(Item(None, self._tile_id))[key]
        first, rest = self._split(key)
        if isinstance(first, (int, np.integer)):
            index = int(first) + (self._n_slices if first < 0 else 0)
            if not 0 <= index < self._n_slices:
                raise IndexError(f"Expected a slice from 0 to {self._n_slices - 1}, got {first}.")
            return self._read(Item(index, self._tile_id))[rest]
        indices = np.arange(self._n_slices)[first]
        picked = [self._read(Item(int(index), self._tile_id))[rest] for index in indices]
        return np.stack(picked) if picked else np.zeros((0, *self.shape[1:]), self.dtype)

    @staticmethod
    def _split(key: Any) -> tuple[Any, tuple[Any, ...]]:
        """The index along the slices and the index of what remains."""
        key = key if isinstance(key, tuple) else (key,)
        if not key or key[0] is Ellipsis:
            return slice(None), key
        return key[0], key[1:]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[...], dtype=dtype)

    def __repr__(self) -> str:
        return f"FeatureArray(shape={self.shape}, dtype=float32)"


class TiledFeatures(Mapping[str, FeatureArray]):
    """The features of a tiled store: ``features["3"]`` is the array of tile 3; `attrs` as on disk."""

    def __init__(self, metadata: StoreMetadata, read: ReadItem) -> None:
        self._metadata, self._read = metadata, read
        self.attrs: dict[str, Any] = tiled_attributes(metadata)
        masked = metadata.tiles_in_mask
        ids = range(metadata.tiling.n_tiles) if masked is None else sorted(set().union(*masked))
        self._ids = {str(tile_id): tile_id for tile_id in ids}

    def __getitem__(self, key: str | int) -> FeatureArray:
        return FeatureArray(self._metadata, self._read, self._ids[str(key)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"TiledFeatures({len(self)} tiles of {self._metadata.tile_shape}, halo {self._metadata.halo})"
