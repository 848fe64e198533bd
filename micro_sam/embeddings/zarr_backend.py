"""Embeddings in a zarr group on the local disk."""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.errors import ContainsGroupError

from micro_sam.embeddings.failures import damaged, write_errors
from micro_sam.embeddings.layout import (
    FEATURES,
    OWN,
    looks_like_group,
    open_features,
    open_group,
    read_metadata,
    root_attributes,
    size_attributes,
    tiled_attributes,
)
from micro_sam.embeddings.metadata import FEATURE_SHAPE, Item, StoreMetadata
from micro_sam.embeddings.record import KEEP_ZEROS, MISSING, UNCHECKED, ItemRecord, checksum
from micro_sam.errors import StoreDamagedError, StoreError

logger = logging.getLogger(__name__)

_UNREADABLE = (KeyError, ValueError, TypeError, OSError, StoreError)


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
            if not looks_like_group(path):
                with suppress(ContainsGroupError):
                    zarr.create_group(path, zarr_format=zarr_format, attributes=root_attributes(metadata))
            group = zarr.open_group(path, mode="r+")
            if "data_signature" not in group.attrs:  # killed before the attributes were written
                group.update_attributes(root_attributes(metadata))
        backend = cls(path, group, writable=True)
        backend.initialise(metadata)
        return backend

    @property
    def is_initialised(self) -> bool:
        """Whether it is written down which items are complete."""
        return self._record.is_on_disk or self.is_finished

    @property
    def is_finished(self) -> bool:
        """Whether the group says that every item is complete."""
        return "input_size" in self._group.attrs

    def initialise(self, metadata: StoreMetadata) -> None:
        """Make the features and the empty record of a store that has none; what it holds is not trusted."""
        with write_errors(self.path):
            self._group.update_attributes(root_attributes(metadata))
            leading = () if metadata.n_slices is None else (metadata.n_slices,)
            if metadata.is_tiled:
                self._group.create_group(FEATURES, attributes=tiled_attributes(metadata), overwrite=True)
            else:
                self._create_features(self._group, FEATURES, leading, metadata.dtype, {})
            ItemRecord(self._group, metadata, self.path).create(self._group)
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
            config=KEEP_ZEROS,
        )

    def refresh(self) -> None:
        """Read again which items are complete: another process may have written some."""
        self._group = zarr.open_group(self.path, mode="r+" if self.writable else "r")
        self._features: zarr.Group | zarr.Array | None = None
        record = ItemRecord(self._group, self.metadata, self.path)
        if self.is_finished and any(record[item] == MISSING for item in self.metadata.items()):
            record.trust_all()  # finished by micro-sam 1.x
        self._record = record

    def is_done(self, item: Item) -> bool:
        """Whether it is written down that an item is complete."""
        return self._record[item] != MISSING

    def read(self, item: Item) -> np.ndarray:
        """The embedding of an item, shape (1, 256, 64, 64), float32.

        Raises:
            StoreDamagedError: If its data is missing, unreadable or not what was written.
        """
        expected = self._record[item]
        try:
            array = self._array(item.tile_id)
            raw = np.asarray(array[...] if item.i is None else array[item.i])
        except StoreDamagedError:
            raise
        except Exception as error:  # decoders answer damaged data with many kinds of errors
            raise self._damaged(item) from error
        wrong = checksum(raw) != expected if expected != UNCHECKED else self._missing_files(item)
        if wrong:
            raise self._damaged(item)
        return raw.astype(np.float32, copy=False)

    def write(self, item: Item, features: np.ndarray) -> None:
        """Write the embedding of an item, and then that it is complete.

        Raises:
            StoreError: If the store is open for reading only, or the features do not fit into float16.
            StoreDamagedError: If the disk is full or the folder read-only.
        """
        self.record(item, self.write_features(item, features))

    def write_features(self, item: Item, features: np.ndarray) -> int:
        """Write the embedding of an item without recording it as complete; returns the checksum to `record`.

        Several processes may do this for different items whose arrays were made by `prepare`.

        Raises:
            StoreError: If the store is open for reading only, or the features do not fit into float16.
            StoreDamagedError: If the disk is full or the folder read-only.
        """
        self._check_writable()
        with np.errstate(over="ignore"):
            raw = np.ascontiguousarray(features, dtype=self.metadata.dtype)
        if not np.isfinite(raw).all():
            raise StoreError(f"The features of {item} do not fit into {self.metadata.dtype}; store them as float32.")
        with write_errors(self.path):
            array = self._array(item.tile_id, create=True)
            array[... if item.i is None else item.i] = raw
        return checksum(raw)

    def prepare(self, item: Item) -> None:
        """Make the array of an item, if it is missing; only for the holder of the store's lock."""
        self._check_writable()
        with write_errors(self.path):
            self._array(item.tile_id, create=True)

    def record(self, item: Item, value: int) -> None:
        """Write down that an item is complete; only for the holder of the store's lock."""
        self._check_writable()
        with write_errors(self.path):
            self._record.mark(item, value)

    def _check_writable(self) -> None:
        if not self.writable:
            raise StoreError(f"The embedding store '{self.path}' is open for reading only.")

    def finish(self) -> None:
        """Write down that every item is complete, as 1.x readers expect it."""
        with write_errors(self.path):
            self._group.update_attributes(size_attributes(self.metadata))

    def forget(self, items: list[Item]) -> None:
        """Write down that items are not complete after all, so that they are computed again."""
        with write_errors(self.path):
            if not self._record.is_on_disk:  # a 1.x store: what it holds so far is complete
                self._group.update_attributes(root_attributes(self.metadata, plain=False))
                self._record.create(self._group)
            if self.is_finished:
                del self._group.attrs["input_size"]
            for item in items:
                self._record.mark(item, MISSING)

    def lost(self) -> list[Item]:
        """The items that are recorded as complete but whose files are gone or cut short; a look at names and sizes."""
        return [item for item in self.metadata.items() if self.is_done(item) and self._is_lost(item)]

    def _is_lost(self, item: Item) -> bool:
        if self._group.attrs.get(OWN, {}).get("plain"):  # known without opening arrays, of which there may be many
            indices = [str(index) for index in ([] if item.i is None else [item.i]) + [0] * (1 + len(FEATURE_SHAPE))]
            key = ".".join(indices) if self._group.metadata.zarr_format == 2 else "/".join(["c", *indices])
            size = int(np.prod(FEATURE_SHAPE)) * np.dtype(self.metadata.dtype).itemsize
            file = self._folder(item) / key
            return not file.is_file() or file.stat().st_size != size
        try:
            return any(not file.is_file() for file in self.files(item))
        except _UNREADABLE:
            return True

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
        return [self._folder(item) / array.metadata.encode_chunk_key(key) for key in itertools.product(*ranges)]

    def _folder(self, item: Item) -> Path:
        folder = self.path / FEATURES
        return folder if item.tile_id is None else folder / str(item.tile_id)

    def _missing_files(self, item: Item) -> bool:
        return not all(file.is_file() for file in self.files(item))

    def _damaged(self, item: Item) -> StoreDamagedError:
        try:
            files = self.files(item)
        except _UNREADABLE:  # not even the array's description is readable
            files = []
        if not 0 < len(files) <= 4:
            files = [self._folder(item)]
        return damaged(f"The embedding of {item} in '{self.path}'", files)

    def _array(self, tile_id: int | None, create: bool = False) -> zarr.Array:
        if tile_id not in self._arrays:
            if self._features is None:
                self._features = open_features(self._group, self.path)
            if self._features is None:
                raise StoreError(f"The embedding store '{self.path}' holds no embeddings yet; compute them first.")
            array = self._features if tile_id is None else self._tile_array(self._features, tile_id, create)
            self._arrays[tile_id] = array.with_config(KEEP_ZEROS)
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
            array.update_attributes(sizes)
        return array
