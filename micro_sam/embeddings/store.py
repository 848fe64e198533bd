"""The embeddings of one image, volume or time series, in memory or on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings.layout import check_place
from micro_sam.embeddings.memory_backend import MemoryBackend
from micro_sam.embeddings.metadata import FEATURE_SHAPE, Item, StoreMetadata
from micro_sam.embeddings.views import FeatureArray, TiledFeatures
from micro_sam.embeddings.zarr_backend import ZarrBackend
from micro_sam.errors import MissingInputError, ParameterError, StoreError, StoreMismatchError

if TYPE_CHECKING:
    from segment_anything import SamPredictor

_CACHED_ITEMS = 16  # of 4 MB each


class EmbeddingStore(Mapping[str, Any]):
    """The embeddings of one image; a mapping with ``features``, ``input_size`` and ``original_size``.

    ``features`` is, as in micro-sam 1.x, an array (1, 256, 64, 64) for an image, (Z, 1, 256, 64, 64) for a volume or
    time series, and with tiling a mapping from tile number (as string) to such arrays, with ``attrs``. ``input_size``
    and ``original_size`` are (height, width), or None with tiling. Items are read from disk when they are needed.

    Make one with `memory`, `create` or `open`.
    """

    def __init__(self, backend: MemoryBackend | ZarrBackend, lazy_loading: bool = True) -> None:
        self._backend = backend
        self._lazy_loading = lazy_loading
        self._loaded: np.ndarray | None = None
        self._recent: OrderedDict[Item, np.ndarray] = OrderedDict()
        self._guard = threading.Lock()

    @classmethod
    def memory(cls, metadata: StoreMetadata) -> EmbeddingStore:
        """An empty store in memory."""
        return cls(MemoryBackend(metadata))

    @classmethod
    def create(
        cls, path: str | Path, metadata: StoreMetadata, zarr_format: Literal[2, 3] = 2, lazy_loading: bool = True
    ) -> EmbeddingStore:
        """Make an empty store on disk, open for writing. The caller must hold its `WriterLock`.

        Raises:
            StoreError: If there is something else at the path.
            StoreDamagedError: If the folder cannot be written.
        """
        check_place(Path(path))
        return cls(ZarrBackend.create(Path(path), metadata, zarr_format), lazy_loading)

    @classmethod
    def open(cls, path: str | Path, lazy_loading: bool = True) -> EmbeddingStore:
        """Open a store for reading, complete or not, written here or by micro-sam 1.x.

        Args:
            path: The store's folder.
            lazy_loading: Give ``features`` of a volume as an array-like that reads single slices, instead of loading
                all of them into memory when ``features`` is first asked for.

        Raises:
            MissingInputError: If there is no embedding store.
            StoreError: If the path holds something else or nothing was computed yet.
            StoreDamagedError: If its description is unreadable.
        """
        backend = ZarrBackend.open(Path(path))
        if backend is None:
            check_place(Path(path))
            raise MissingInputError(f"There is no embedding store at '{path}'; compute the embeddings first.")
        if not backend.is_initialised:
            raise StoreError(f"The embedding store '{path}' was begun but holds nothing yet; compute the embeddings.")
        return cls(backend, lazy_loading)

    @property
    def metadata(self) -> StoreMetadata:
        """What the store belongs to."""
        return self._backend.metadata

    @property
    def path(self) -> Path | None:
        """The store's folder, None in memory."""
        return self._backend.path

    @property
    def ndim(self) -> int:
        """2 for an image, 3 for a volume or time series."""
        return self.metadata.ndim

    @property
    def is_tiled(self) -> bool:
        """Whether planes are cut into tiles."""
        return self.metadata.is_tiled

    @property
    def is_complete(self) -> bool:
        """Whether every item was computed."""
        return not self.missing()

    def missing(self) -> list[Item]:
        """The items that were not computed yet."""
        return [item for item in self.metadata.items() if not self._backend.is_done(item)]

    def has(self, item: Item) -> bool:
        """Whether an item was computed."""
        return self._backend.is_done(item)

    def lost(self) -> list[Item]:
        """The items that were computed but whose files on disk are gone or cut short."""
        return self._backend.lost() if isinstance(self._backend, ZarrBackend) else []

    def check_belongs(self, requested: StoreMetadata) -> None:
        """Refuse the store if it belongs to something else.

        Raises:
            StoreMismatchError: Naming every field that differs.
        """
        known = getattr(self._backend, "known", None)
        found = self.metadata.differences(requested, known)
        if found:
            listed = ", ".join(map(str, found))
            raise StoreMismatchError(
                f"The embedding store '{self.path}' belongs to something else: it differs in {listed};"
                " give another embedding path, or delete the store to compute it anew."
            )

    def check_model(self, predictor: SamPredictor) -> None:
        """Refuse the store if it was computed with other weights than the predictor's, where both are known.

        Raises:
            StoreMismatchError: Naming both models.
        """
        used, stored = getattr(predictor, "_hash", None), self.metadata.model_hash
        if used is not None and stored is not None and used != stored:
            raise StoreMismatchError(
                f"The embeddings were computed with the model '{self.metadata.model_name}' ({stored}), but the predictor"
                f" is '{getattr(predictor, 'model_name', None)}' ({used}); compute embeddings with this model."
            )

    def read(self, item: Item) -> np.ndarray:
        """The embedding of an item, shape (1, 256, 64, 64), float32. Do not write into it.

        Raises:
            ParameterError: If the store has no such item.
            StoreError: If the item was not computed yet.
            StoreDamagedError: If its data on disk is damaged.
        """
        with self._guard:
            if item in self._recent:
                self._recent.move_to_end(item)
                return self._recent[item]
        self._check_item(item)
        features = self._backend.read(item)
        if self.path is not None:
            self._remember(item, features)
        return features

    def _check_item(self, item: Item) -> None:
        rows, columns = self.metadata.record_shape
        if not (0 <= (item.i or 0) < rows and 0 <= (item.tile_id or 0) < columns):
            raise ParameterError(f"The embeddings have {rows} slice(s) and {columns} tile(s), there is no {item}.")
        if not self._backend.is_done(item):
            inside = item.tile_id in self.metadata.tiles_of_slice(item.i)
            raise StoreError(
                f"The embedding of {item} was not computed yet; compute the embeddings first."
                if inside
                else f"There is no embedding of {item} because it lies outside the mask; choose a tile inside."
            )

    def _remember(self, item: Item, features: np.ndarray) -> None:
        with self._guard:
            self._recent[item] = features
            while len(self._recent) > _CACHED_ITEMS:
                self._recent.popitem(last=False)

    def write(self, item: Item, features: np.ndarray) -> None:
        """Store the embedding of an item, shape (1, 256, 64, 64), and write down that it is complete.

        Raises:
            StoreError: If the store is open for reading only, or the features have another shape or are not finite.
            StoreDamagedError: If the disk is full or the folder read-only.
        """
        if features.shape != (1, *FEATURE_SHAPE):
            raise StoreError(f"Expected features of shape {(1, *FEATURE_SHAPE)}, got {features.shape}.")
        if not np.isfinite(features).all():
            raise StoreError(f"The encoder's features of {item} are not finite; check the model and its precision.")
        self._backend.write(item, features)
        with self._guard:
            self._recent.pop(item, None)
            self._loaded = None

    def prepare(self, item: Item) -> None:
        """Make room on disk for an embedding that another process will write."""
        if isinstance(self._backend, ZarrBackend):
            self._backend.prepare(item)

    def record(self, item: Item, checksum: int) -> None:
        """Write down that an embedding, written to disk by another process, is complete.

        Raises:
            StoreError: If the store is in memory or open for reading only.
        """
        if not isinstance(self._backend, ZarrBackend):
            raise StoreError("Other processes can only write to embedding stores on disk, this one is in memory.")
        self._backend.record(item, checksum)

    def finish(self) -> None:
        """Write down that the store is complete, for readers of 1.x stores too.

        Raises:
            StoreError: If items are missing.
        """
        missing = self.missing()
        if missing:
            raise StoreError(f"The embedding store lacks {len(missing)} embeddings, first {missing[0]}; compute them.")
        self._backend.finish()

    def refresh(self) -> None:
        """Look again which items are complete, where another process is writing to the store."""
        if isinstance(self._backend, ZarrBackend):
            self._backend.refresh()

    def __getitem__(self, key: str) -> Any:
        if key == "features":
            return self._features()
        if key in ("input_size", "original_size"):
            return None if self.is_tiled else getattr(self.metadata, key)()
        raise KeyError(key)

    def _features(self) -> np.ndarray | FeatureArray | TiledFeatures:
        if self.is_tiled:
            return self._tiled
        if isinstance(self._backend, MemoryBackend) and self.is_complete:
            return self._backend.array(None)
        view = FeatureArray(self.metadata, self.read)
        if self._lazy_loading or not self.is_complete:
            return view
        if self._loaded is None:
            self._loaded = np.asarray(view)
        return self._loaded

    @cached_property
    def _tiled(self) -> TiledFeatures:
        return TiledFeatures(self.metadata, self.read)

    def __iter__(self) -> Iterator[str]:
        return iter(("features", "input_size", "original_size"))

    def __len__(self) -> int:
        return 3

    def __repr__(self) -> str:
        total = self.metadata.n_items
        place = "memory" if self.path is None else f"'{self.path}'"
        return f"EmbeddingStore({total - len(self.missing())} of {total} embeddings, in {place})"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other
