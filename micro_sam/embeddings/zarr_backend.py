"""Embeddings in a zarr group on the local disk."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
import zarr

from micro_sam.embeddings.failures import damaged, write_errors
from micro_sam.embeddings.layout import (
    FEATURES,
    OWN,
    RECORD,
    looks_like_group,
    open_features,
    open_group,
    read_metadata,
    root_attributes,
    size_attributes,
    tiled_attributes,
)
from micro_sam.embeddings.metadata import FEATURE_SHAPE, Item, StoreMetadata
from micro_sam.errors import StoreDamagedError, StoreError

logger = logging.getLogger(__name__)

_MISSING = 0  # in the record: not complete
_UNCHECKED = 1  # complete, as 1.x stores say it, without a checksum
_UNREADABLE = (KeyError, ValueError, TypeError, OSError, StoreError)
_KEEP_ZEROS = {"write_empty_chunks": True}  # so that a missing file always means missing data


class ZarrBackend:
    """Reads and writes the items of one store; see `micro_sam.embeddings.layout` for what lies on disk.

    Attributes:
        path: The store's folder.
        metadata: What the store belongs to.
        known: The names of the metadata fields that the store states.
        writable: Whether items may be written; only for the holder of the store's lock.
    """

    def __init__(self, path: Path, group: zarr.Group, writable: bool) -> None:
        self.path, self.writable = path, writable
        self._group = group
        self.metadata, self.known = read_metadata(group, path)
        self._arrays: dict[int | None, zarr.Array] = {}
        self._record_array: zarr.Array | None = None
        self._record = np.zeros(self.metadata.record_shape, dtype=np.uint64)
        self.refresh()

    @classmethod
    def open(cls, path: Path, writable: bool = False) -> ZarrBackend | None:
        """Open an existing store; None if there is none yet."""
        group = open_group(path, "r+" if writable else "r")
        return None if group is None else cls(path, group, writable)

    @classmethod
    def create(cls, path: Path, metadata: StoreMetadata, zarr_format: Literal[2, 3]) -> ZarrBackend:
        """Make a new store and open it for writing; the caller holds the lock."""
        with write_errors(path):
            if looks_like_group(path):  # killed before the attributes were written
                zarr.open_group(path, mode="r+").attrs.update(root_attributes(metadata))
            else:
                zarr.create_group(path, zarr_format=zarr_format, attributes=root_attributes(metadata))
        backend = cls(path, zarr.open_group(path, mode="r+"), writable=True)
        backend.initialise(metadata)
        return backend

    @property
    def is_initialised(self) -> bool:
        """Whether it is written down which items are complete."""
        return self._record_array is not None or self.is_finished

    @property
    def is_finished(self) -> bool:
        """Whether the group says that every item is complete."""
        return "input_size" in self._group.attrs

    def initialise(self, metadata: StoreMetadata) -> None:
        """Make the features and the empty record of a store that has none; what it holds is not trusted."""
        with write_errors(self.path):
            self._group.attrs.update(root_attributes(metadata))
            leading = () if metadata.n_slices is None else (metadata.n_slices,)
            if metadata.is_tiled:
                self._group.create_group(FEATURES, attributes=tiled_attributes(metadata), overwrite=True)
            else:
                self._create_features(self._group, FEATURES, leading, metadata.dtype, {})
            self.metadata = metadata
            self._create_record()
        self.metadata, self.known = read_metadata(self._group, self.path)
        self._arrays.clear()
        self.refresh()

    @staticmethod
    def _create_features(
        parent: zarr.Group, name: str, leading: tuple[int, ...], dtype: str, attributes: dict[str, Any]
    ) -> zarr.Array:
        one = (1,) + FEATURE_SHAPE
        return parent.create_array(
            name,
            shape=leading + one,
            chunks=(1,) * len(leading) + one,
            dtype=dtype,
            compressors=None,  # encoder features hardly compress, and reading a slice must be quick
            fill_value=0,
            attributes=attributes,
            overwrite=True,
            config=_KEEP_ZEROS,
        )

    def refresh(self) -> None:
        """Read again which items are complete: another process may have written some."""
        self._group = zarr.open_group(self.path, mode="r+" if self.writable else "r")
        record = np.zeros(self.metadata.record_shape, dtype=np.uint64)
        self._record_array = self._open_record()
        if self._record_array is not None:
            try:
                record[...] = self._record_array[...]
            except Exception as error:
                raise damaged(f"The list of finished items '{self.path / RECORD}'", [self.path / RECORD]) from error
        self._record = record
        if self.is_finished and any(not self.is_done(item) for item in self.metadata.items()):
            self._record = np.full_like(record, _UNCHECKED)  # finished by micro-sam 1.x

    def _open_record(self) -> zarr.Array | None:
        own = self._group.attrs.get(OWN)
        if own is None or own["version"] != self._group.attrs.get("micro_sam_version"):
            return None
        try:
            array = self._group[RECORD]
        except KeyError:
            return None
        except Exception as error:
            raise damaged(f"The list of finished items '{self.path / RECORD}'", [self.path / RECORD]) from error
        return array.with_config(_KEEP_ZEROS) if array.shape == self.metadata.record_shape else None

    def is_done(self, item: Item) -> bool:
        """Whether it is written down that an item is complete."""
        return bool(self._record[item.i or 0, item.tile_id or 0] != _MISSING)

    def read(self, item: Item) -> np.ndarray:
        """The embedding of an item, shape (1, 256, 64, 64), float32.

        Raises:
            StoreDamagedError: If its data is missing, unreadable or not what was written.
        """
        expected = int(self._record[item.i or 0, item.tile_id or 0])
        try:
            array = self._array(item.tile_id)
            raw = np.asarray(array[...] if item.i is None else array[item.i])
        except StoreDamagedError:
            raise
        except Exception as error:  # decoders answer damaged data with many kinds of errors
            raise self._damaged(item) from error
        wrong = _checksum(raw) != expected if expected != _UNCHECKED else self._missing_files(item)
        if wrong:
            raise self._damaged(item)
        return raw.astype(np.float32, copy=False)

    def write(self, item: Item, features: np.ndarray) -> None:
        """Write the embedding of an item, and then that it is complete.

        Raises:
            StoreError: If the store is open for reading only, or the features do not fit into float16.
            StoreDamagedError: If the disk is full or the folder read-only.
        """
        if not self.writable:
            raise StoreError(f"The embedding store '{self.path}' is open for reading only.")
        with np.errstate(over="ignore"):
            raw = np.ascontiguousarray(features, dtype=self.metadata.dtype)
        if not np.isfinite(raw).all():
            raise StoreError(f"The features of {item} hold values that {self.metadata.dtype} cannot; check the model.")
        with write_errors(self.path):
            array = self._array(item.tile_id, create=True)
            array[... if item.i is None else item.i] = raw
            self._mark(item, _checksum(raw))

    def _mark(self, item: Item, value: int) -> None:
        row = item.i or 0
        self._record[row, item.tile_id or 0] = value
        rows = slice(row, row + 1) if self.metadata.is_tiled else slice(None)
        self._record_array[rows] = self._record[rows]

    def finish(self) -> None:
        """Write down that every item is complete, as 1.x readers expect it."""
        with write_errors(self.path):
            self._group.attrs.update(size_attributes(self.metadata))

    def forget(self, items: list[Item]) -> None:
        """Write down that items are not complete after all, so that they are computed again."""
        with write_errors(self.path):
            if self._record_array is None:
                self._adopt_record()
            if self.is_finished:
                del self._group.attrs["input_size"]
            for item in items:
                self._mark(item, _MISSING)

    def _adopt_record(self) -> None:
        """Give a 1.x store a record, with the items it holds so far as complete."""
        self._group.attrs.update(root_attributes(self.metadata))
        self._record_array = self._create_record()
        self._record_array[...] = self._record

    def _create_record(self) -> zarr.Array:
        shape = self.metadata.record_shape
        return self._group.create_array(
            RECORD,
            shape=shape,
            chunks=(1, shape[1]) if self.metadata.is_tiled else shape,
            dtype="uint64",
            compressors=None,
            fill_value=_MISSING,
            overwrite=True,
            config=_KEEP_ZEROS,
        )

    def lost(self) -> list[Item]:
        """The items that are recorded as complete but whose files are gone or cut short; a look at names and sizes."""
        return [item for item in self.metadata.items() if self.is_done(item) and self._is_lost(item)]

    def _is_lost(self, item: Item) -> bool:
        try:
            array = self._array(item.tile_id)
        except _UNREADABLE:
            return True
        plain = not array.compressors and not getattr(array, "filters", ())
        size = int(np.prod(array.chunks)) * array.dtype.itemsize
        files = self.files(item)
        return any(not file.is_file() or (plain and file.stat().st_size != size) for file in files)

    def remove_leftovers(self) -> None:
        """Delete what a killed writer left half-written beside its files."""
        for file in self.path.rglob("*.partial"):
            file.unlink(missing_ok=True)

    def files(self, item: Item) -> list[Path]:
        """The files that hold an item."""
        array = self._array(item.tile_id)
        chunks = array.shards or array.chunks
        counts = [-(-size // chunk) for size, chunk in zip(array.shape, chunks)]
        ranges = [range(count) for count in counts]
        if item.i is not None:
            ranges[0] = range(item.i // chunks[0], item.i // chunks[0] + 1)
        return [self._root(item) / array.metadata.encode_chunk_key(key) for key in itertools.product(*ranges)]

    def _root(self, item: Item) -> Path:
        folder = self.path / FEATURES
        return folder if item.tile_id is None else folder / str(item.tile_id)

    def _missing_files(self, item: Item) -> bool:
        return not all(file.is_file() for file in self.files(item))

    def _damaged(self, item: Item) -> StoreDamagedError:
        try:
            files = self.files(item)
        except _UNREADABLE:  # not even the array's description is readable
            files = [self._root(item)]
        return damaged(f"The embedding of {item} in '{self.path}'", files)

    def _array(self, tile_id: int | None, create: bool = False) -> zarr.Array:
        if tile_id not in self._arrays:
            features = open_features(self._group, self.path)
            if features is None:
                raise StoreError(f"The embedding store '{self.path}' holds no embeddings yet; compute them first.")
            array = features if tile_id is None else self._tile_array(features, tile_id, create)
            self._arrays[tile_id] = array.with_config(_KEEP_ZEROS)
        return self._arrays[tile_id]

    def _tile_array(self, features: zarr.Group, tile_id: int, create: bool) -> zarr.Array:
        sizes = {
            "original_size": list(self.metadata.original_size(tile_id)),
            "input_size": list(self.metadata.input_size(tile_id)),
        }
        try:
            array = features[str(tile_id)]
        except KeyError:
            array = None
        except Exception as error:  # its description is damaged
            folder = self.path / FEATURES / str(tile_id)
            raise damaged(f"The description of the array '{folder}'", [folder]) from error
        if array is None:
            if not create:
                raise KeyError(tile_id)
            leading = () if self.metadata.n_slices is None else (self.metadata.n_slices,)
            return self._create_features(features, str(tile_id), leading, self.metadata.dtype, sizes)
        if create and "input_size" not in array.attrs:  # killed between the two
            array.attrs.update(sizes)
        return array


def _checksum(raw: np.ndarray) -> int:
    return max(xxhash.xxh3_64_intdigest(np.ascontiguousarray(raw)), _UNCHECKED + 1)
