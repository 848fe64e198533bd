"""Before anything is encoded: what the input is, and a store that belongs to it and may be written."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from micro_sam.embeddings.layout import check_place
from micro_sam.embeddings.lock import WriterLock
from micro_sam.embeddings.metadata import Item, Normalization, StoreMetadata
from micro_sam.embeddings.signature import DataHasher
from micro_sam.embeddings.source import ImageSource
from micro_sam.embeddings.statistics import PercentileCounter
from micro_sam.embeddings.store import EmbeddingStore
from micro_sam.embeddings.zarr_backend import ZarrBackend
from micro_sam.errors import ParameterError, StoreDamagedError
from micro_sam.progress import Progress

logger = logging.getLogger(__name__)

_MIB = 2**20


@dataclass(frozen=True)
class StoreOptions:
    """Where embeddings go and how.

    Attributes:
        path: The store's folder, None for memory.
        lazy_loading: See `EmbeddingStore.open`.
        zarr_format: The zarr format of a new store; 2 is read by every version of micro-sam.
        lock_timeout: Seconds to wait for another process that writes to the store, None for as long as it takes.
    """

    path: Path | None
    lazy_loading: bool = False
    zarr_format: Literal[2, 3] = 2
    lock_timeout: float | None = None


def tiles_in_mask(mask: Any, request: StoreMetadata) -> tuple[tuple[int, ...], ...] | None:
    """The tiles whose inner block touches a mask, per slice.

    Args:
        mask: Non-zero where embeddings are wanted; YX, or ZYX for a volume. A YX mask holds for all slices.
        request: The metadata of the embeddings, which must be tiled.

    Returns:
        For every slice (one entry for an image) the tile numbers; None, with a warning, without tiling.

    Raises:
        ParameterError: If the mask has another shape than the image, or is empty.
    """
    if not request.is_tiled:
        warnings.warn("The mask has no effect without tile_shape and halo.", UserWarning, stacklevel=2)
        return None
    mask = mask if hasattr(mask, "shape") else np.asarray(mask)
    volume = () if request.n_slices is None else (request.n_slices,)
    if tuple(mask.shape) not in (request.shape, volume + request.shape):
        raise ParameterError(f"Expected a mask of shape {volume + request.shape}, got {tuple(mask.shape)}.")
    slices: Sequence[int | None] = range(request.n_slices) if len(mask.shape) == 3 else (None,)
    found = tuple(tuple(_touched(mask, i, request)) for i in slices)
    if not any(found):
        raise ParameterError("The mask is empty, there is nothing to compute; leave it out to compute everything.")
    return found * (request.n_slices or 1) if len(mask.shape) == 2 else found


def _touched(mask: Any, i: int | None, request: StoreMetadata) -> list[int]:
    tiles = ((tile.index, tile.inner if i is None else (i, *tile.inner)) for tile in request.tiling)
    return [index for index, window in tiles if np.any(np.asarray(mask[window]))]


def complete_request(
    source: ImageSource, request: StoreMetadata, options: StoreOptions
) -> Generator[Progress, None, StoreMetadata]:
    """Add what depends on the input's content: data signature and shared intensity range.

    A store that is already there and differs in what is known without reading the input is refused at once.

    Returns:
        The completed metadata.
    """
    stored = _peek(request, options)
    range_ = (request if stored is None else stored).normalization.range
    hasher = None if options.path is None else DataHasher()
    counter = PercentileCounter(source.dtype) if request.normalization.mode == "robust" and range_ is None else None
    yield from _feed(source, [consumer for consumer in (hasher, counter) if consumer is not None])
    if counter is not None:
        if counter.refine():
            yield from _feed(source, [counter])
        range_ = counter.range()
    signature = None if hasher is None else hasher.hexdigest()
    return request.replace(data_signature=signature, normalization=Normalization(request.normalization.mode, range_))


def _peek(request: StoreMetadata, options: StoreOptions) -> StoreMetadata | None:
    if options.path is None:
        return None
    check_place(options.path)
    backend = ZarrBackend.open(options.path)
    if backend is None or not backend.is_initialised:
        return None
    stored = backend.metadata
    EmbeddingStore(backend).check_belongs(request.replace(data_signature=stored.data_signature))
    return stored


def _feed(source: ImageSource, consumers: Sequence[DataHasher | PercentileCounter]) -> Generator[Progress, None, None]:
    """Pass all blocks of the input to the consumers; progress in MiB, for inputs of several blocks."""
    if not consumers:
        return
    done, total = 0, source.n_bytes
    for block in source.blocks():
        for consumer in consumers:
            consumer.update(block)
        done += block.nbytes
        if block.nbytes < total:
            yield Progress(done // _MIB, total // _MIB, "Read the input (MiB)")


def open_store(
    request: StoreMetadata, options: StoreOptions, resources: ExitStack
) -> Generator[Progress, None, EmbeddingStore]:
    """Open or make the store for a completed request, ready for writing what it lacks.

    Args:
        request: What the store must belong to.
        options: Where and how.
        resources: Takes over the release of the store's lock.

    Yields:
        `Progress` while another process writes to the store.
    """
    if options.path is None:
        return EmbeddingStore.memory(request)
    complete = _open_complete(request, options)
    if complete is not None and not complete.lost():
        return complete
    lock = WriterLock(options.path)
    resources.callback(lock.release)
    try:
        for waited in lock.wait(options.lock_timeout):
            yield Progress(int(waited), 0, f"Waiting for another program that writes to '{options.path}' (s)")
    except StoreDamagedError as error:
        if complete is not None and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            logger.warning("Some embeddings are damaged, and the folder is read-only: %s", error)
            return complete
        raise
    return _open_locked(request, options)


def _open_complete(request: StoreMetadata, options: StoreOptions) -> EmbeddingStore | None:
    """The finished store on disk, refused if it belongs to something else; None if there is none."""
    backend = ZarrBackend.open(options.path)
    if backend is None or not backend.is_initialised:
        return None
    store = EmbeddingStore(backend, options.lazy_loading)
    store.check_belongs(request)
    return store if backend.is_finished else None


def _open_locked(request: StoreMetadata, options: StoreOptions) -> EmbeddingStore:
    backend = ZarrBackend.open(options.path, writable=True)
    if backend is None:
        return EmbeddingStore.create(options.path, request, options.zarr_format, options.lazy_loading)
    store = EmbeddingStore(backend, options.lazy_loading)
    store.check_belongs(request)
    backend.remove_leftovers()
    if not backend.is_initialised:
        backend.initialise(request)
    lost: list[Item] = backend.lost()
    if lost:
        logger.warning("%d embeddings in '%s' are lost and computed again: %s", len(lost), options.path, _listed(lost))
        backend.forget(lost)
    if store.is_complete and not backend.is_finished:
        backend.finish()
    return store


def _listed(items: list[Item]) -> str:
    return "; ".join(map(str, items[:5])) + (" ..." if len(items) > 5 else "")
