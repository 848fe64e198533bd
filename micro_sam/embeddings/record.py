"""Which items of a store are complete: one checksum per item, written after the item itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash
import zarr

from micro_sam.embeddings.failures import damaged
from micro_sam.embeddings.layout import OWN, RECORD
from micro_sam.embeddings.metadata import Item, StoreMetadata

MISSING = 0  # not complete
UNCHECKED = 1  # complete as 1.x stores say it, without a checksum
KEEP_ZEROS = {"write_empty_chunks": True}  # so that a missing file always means missing data


def checksum(raw: np.ndarray) -> int:
    """The checksum of an item as it lies on disk; never one of the values with a special meaning."""
    return max(xxhash.xxh3_64_intdigest(np.ascontiguousarray(raw)), UNCHECKED + 1)


class ItemRecord:
    """The record of one store, mirrored in memory.

    Args:
        group: The store's group.
        metadata: The store's metadata, which gives the grid of slices and tiles.
        path: The store's folder, for messages.

    Raises:
        StoreDamagedError: If the record is unreadable.
    """

    def __init__(self, group: zarr.Group, metadata: StoreMetadata, path: Path) -> None:
        self._metadata, self._folder = metadata, path / RECORD
        self._values = np.zeros(metadata.record_shape, dtype=np.uint64)
        try:
            self._array = self._find(group)
            if self._array is not None:
                self._values[...] = self._array[...]
        except Exception as error:  # zarr answers damaged data with many kinds of errors
            raise damaged(f"The list of finished items '{self._folder}'", [self._folder]) from error

    def _find(self, group: zarr.Group) -> zarr.Array | None:
        own = group.attrs.get(OWN)
        if own is None or own["version"] != group.attrs.get("micro_sam_version"):
            return None  # written by micro-sam 1.x, or by 1.x over ours
        try:
            array = group[RECORD]
        except KeyError:
            return None
        return array.with_config(KEEP_ZEROS) if array.shape == self._metadata.record_shape else None

    @property
    def is_on_disk(self) -> bool:
        """Whether the store has a record at all."""
        return self._array is not None

    def __getitem__(self, item: Item) -> int:
        """The checksum of an item, `MISSING` or `UNCHECKED`."""
        return int(self._values[item.i or 0, item.tile_id or 0])

    def trust_all(self) -> None:
        """Take all items as complete, in memory."""
        self._values[...] = UNCHECKED

    def create(self, group: zarr.Group) -> None:
        """Make the record on disk, with the values in memory."""
        shape = self._values.shape
        chunks = (1, shape[1]) if self._metadata.is_tiled else shape
        self._array = group.create_array(
            RECORD, shape=shape, chunks=chunks, dtype="uint64", compressors=None, overwrite=True, config=KEEP_ZEROS
        )
        self._array[...] = self._values

    def mark(self, item: Item, value: int) -> None:
        """Write down the checksum of an item, or `MISSING`."""
        row = item.i or 0
        self._values[row, item.tile_id or 0] = value
        rows = slice(row, row + 1) if self._metadata.is_tiled else slice(None)
        self._array[rows] = self._values[rows]
