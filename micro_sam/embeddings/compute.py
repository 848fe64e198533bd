"""Compute image embeddings: item by item, in batches, resumable, for inputs of any size."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings.access import ImageEmbeddings, set_precomputed
from micro_sam.embeddings.encoding import encode_batch
from micro_sam.embeddings.metadata import Item, Normalization, NormalizationMode, StoreDtype, StoreMetadata
from micro_sam.embeddings.prepare import StoreOptions, complete_request, open_store, tiles_in_mask
from micro_sam.embeddings.preprocessing import convert_plane
from micro_sam.embeddings.signature import describe_request
from micro_sam.embeddings.source import ImageSource
from micro_sam.embeddings.store import EmbeddingStore
from micro_sam.errors import ParameterError
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

__all__ = ["ImageEmbeddings", "iter_precompute", "precompute_image_embeddings", "set_precomputed"]

Key = Callable[[Item], float]
Order = Key | Sequence[Item | int]
Work = Generator[Progress, None, EmbeddingStore]
_COMPUTING = "Compute image embeddings"


def precompute_image_embeddings(
    predictor: SamPredictor,
    input_: Any,
    save_path: str | PathLike[str] | None = None,
    lazy_loading: bool = False,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    verbose: bool = True,
    batch_size: int = 1,
    mask: Any | None = None,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
    *,
    normalization: NormalizationMode | Normalization = "minmax",
    dtype_on_disk: StoreDtype = "float32",
    order: Order | None = None,
    lock_timeout: float | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> EmbeddingStore:
    """Compute the embeddings of an image, volume or time series, or open them if they are on disk already.

    An interrupted computation is taken up where it stopped. See `iter_precompute` for the arguments and errors not
    listed here.

    Args:
        predictor: The model.
        input_: The image: YX, YXC, ZYX, TYX, ZYXC or TYXC; numpy or lazy.
        save_path: The folder of the store; None keeps the embeddings in memory.
        lazy_loading: Give ``features`` as an array-like that reads from disk, instead of loading all of it.
        ndim: 2 or 3; None to infer it from the shape.
        tile_shape: The tiles' (height, width), None for no tiling.
        halo: The overlap (y, x) by which tiles are enlarged; needed with tile_shape.
        verbose: Show a progress bar.
        batch_size: How many slices or tiles go through the encoder at once.
        mask: Only tiles that touch its non-zero pixels are computed; YX, or ZYX for a volume.
        pbar_init: Called with (total, description).
        pbar_update: Called with the number of embeddings finished since the last call.
        normalization: "minmax" or "robust", see `micro_sam.embeddings.preprocessing`; or a `Normalization` with a range,
            for a part of a larger image.
        dtype_on_disk: "float32", or "float16" for half the size; for new stores.
        order: Which items to compute first.
        lock_timeout: Seconds to wait for another process that writes to the store.
        zarr_format: 2 or 3, for new stores.

    Returns:
        The embeddings, a mapping with ``features``, ``input_size`` and ``original_size``.
    """
    work = iter_precompute(
        predictor,
        input_,
        save_path,
        lazy_loading=lazy_loading,
        ndim=ndim,
        tile_shape=tile_shape,
        halo=halo,
        batch_size=batch_size,
        mask=mask,
        normalization=normalization,
        dtype_on_disk=dtype_on_disk,
        order=order,
        lock_timeout=lock_timeout,
        zarr_format=zarr_format,
    )
    return drain(work, verbose, pbar_init, pbar_update)


def iter_precompute(
    predictor: SamPredictor,
    input_: Any,
    save_path: str | PathLike[str] | None = None,
    *,
    lazy_loading: bool = False,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    batch_size: int = 1,
    mask: Any | None = None,
    normalization: NormalizationMode | Normalization = "minmax",
    dtype_on_disk: StoreDtype = "float32",
    order: Order | None = None,
    on_store: Callable[[EmbeddingStore], None] | None = None,
    lock_timeout: float | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> Work:
    """`precompute_image_embeddings` as a generator, to be driven, shown and cancelled from outside.

    Closing it at any point leaves a store that the next call completes.

    Args:
        order: Which items come first: a list of `Item` (or of slice or tile numbers), or a function from `Item` to a
            number, smallest first. The function is asked again before every batch, so its answers may follow what
            a person looks at.
        on_store: Called with the store as soon as it is open; embeddings finished so far can be used from then on,
            also from another thread.

    Yields:
        `Progress` after every embedding, and while the input is read or another process is waited for.

    Returns:
        The complete store.

    Raises:
        ImageError: If the input cannot be segmented as it is.
        ParameterError: If a parameter does not fit.
        StoreMismatchError: If the store belongs to another image, model, tiling or normalisation.
        StoreLockedError: If another process keeps writing to the store for longer than lock_timeout.
        StoreDamagedError: If the store cannot be read or written.
        StoreError: If there is something else at save_path.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ParameterError(f"Expected batch_size to be at least 1, got {batch_size!r}.")
    source = ImageSource.from_input(input_, ndim)
    options = StoreOptions(None if save_path is None else Path(save_path), lazy_loading, zarr_format, lock_timeout)
    request = describe_request(predictor, source, tile_shape, halo, normalization).replace(dtype=dtype_on_disk)
    if mask is not None:
        request = request.replace(tiles_in_mask=tiles_in_mask(mask, request))
    key = _order_key(order, request)
    request = yield from complete_request(source, request, options)
    with ExitStack() as resources:
        store = yield from open_store(request, options, resources)
        if on_store is not None:
            on_store(store)
        yield from _compute_missing(predictor, source, store, key, int(batch_size))
    return store


def _compute_missing(
    predictor: SamPredictor, source: ImageSource, store: EmbeddingStore, key: Key | None, batch_size: int
) -> Generator[Progress, None, None]:
    total = store.metadata.n_items
    remaining = dict.fromkeys(store.missing())
    yield Progress(total - len(remaining), total, _COMPUTING)
    while remaining:
        batch = heapq.nsmallest(batch_size, remaining, key) if key else list(itertools.islice(remaining, batch_size))
        features = encode_batch(predictor, [read_item(source, store.metadata, item) for item in batch])
        for item, feature in zip(batch, features):
            store.write(item, feature[None])
            del remaining[item]
            if not remaining:
                store.finish()
            yield Progress(total - len(remaining), total, _COMPUTING)


def read_item(source: ImageSource, metadata: StoreMetadata, item: Item) -> np.ndarray:
    """The 8 bit RGB image of an item."""
    window = () if item.tile_id is None else (metadata.tiling.tile(item.tile_id).outer,)
    return convert_plane(source.read(item.i, *window), metadata.normalization.range)


def _order_key(order: Order | None, metadata: StoreMetadata) -> Key | None:
    """A sort key from what the caller gave as order."""
    if order is None or callable(order):
        return order
    rank: dict[Item, int] = {}
    for position, entry in enumerate(order):
        for item in _items_of(entry, metadata):
            rank.setdefault(item, position)
    unknown = set(rank).difference(metadata.items())
    if unknown:
        raise ParameterError(f"The order names {min(unknown, key=str)}, which is not among the embeddings to compute.")
    return lambda item: rank.get(item, len(rank))


def _items_of(entry: Item | int, metadata: StoreMetadata) -> list[Item]:
    """An item itself, all items of a slice number, or the item of a tile number of an image."""
    if isinstance(entry, Item):
        return [entry]
    if metadata.ndim == 2:
        return [Item(None, int(entry))]
    return [Item(int(entry), tile_id) for tile_id in metadata.tiles_of_slice(int(entry) % metadata.n_slices)]
