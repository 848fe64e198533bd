"""Image embeddings of an image or volume of any size over a Dask cluster, into the same store as on one machine."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from micro_sam.distributed.cluster import Cluster, connect, require_distributed
from micro_sam.distributed.model import ModelSource
from micro_sam.distributed.source import BlockSource
from micro_sam.distributed.tasks import iter_tasks
from micro_sam.embeddings import EmbeddingStore, Item, StoreMetadata, choose_tiling
from micro_sam.embeddings.compute import read_item
from micro_sam.embeddings.encoding import encode_batch
from micro_sam.embeddings.prepare import StoreOptions, complete_request, open_store
from micro_sam.embeddings.signature import describe_request
from micro_sam.embeddings.zarr_backend import ZarrBackend
from micro_sam.errors import StoreError
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from dask.distributed import Client

_COMPUTING = "Compute image embeddings"

Work = Generator[Progress, None, EmbeddingStore]


def distributed_embeddings(
    input_: str | os.PathLike | Any,
    save_path: str | os.PathLike,
    model: ModelSource | str | None = None,
    cluster: Cluster | Client | None = None,
    *,
    verbose: bool = True,
    **options: Any,
) -> EmbeddingStore:
    """Compute embeddings over a Dask cluster; see `iter_distributed_embeddings` for all arguments."""
    return drain(iter_distributed_embeddings(input_, save_path, model, cluster, **options), verbose)


def iter_distributed_embeddings(
    input_: str | os.PathLike | Any,
    save_path: str | os.PathLike,
    model: ModelSource | str | None = None,
    cluster: Cluster | Client | None = None,
    *,
    key: str | None = None,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    batch_size: int = 1,
    normalization: str = "minmax",
    automatic_tiling: bool = True,
    lock_timeout: float | None = None,
) -> Work:
    """`distributed_embeddings` as a generator of `Progress`.

    The store is the one that `precompute_image_embeddings` makes. Workers write embeddings; this process alone writes
    down which of them are complete, so that an interrupted computation goes on with those that are missing.

    Args:
        input_: A file or zarr folder that all workers see (see `load_image_data`), or a lazy zarr or dask array.
        save_path: The folder of the store; all workers must see it, too.
        model: The model, by default the registered default.
        cluster: Where to compute; by default one worker on this machine. A client of your own is left open.
        key: The data set inside the file, or the level of a pyramid.
        ndim: 2 or 3; by default inferred from the shape.
        tile_shape: The tiles' (height, width); by default only what is too large for one pass is cut into tiles.
        halo: The overlap (y, x) by which tiles are enlarged; needed with tile_shape.
        batch_size: How many slices or tiles go through the encoder at once.
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.
        automatic_tiling: Choose tiles where none are given and an image or slice is too large for one pass.
        lock_timeout: Seconds to wait for another program that writes to the store.

    Returns:
        The complete store.

    Raises:
        MicroSamError: As `iter_distributed_segmentation` and `iter_precompute` do.
    """
    require_distributed()
    source = BlockSource.of(input_, key, ndim)
    model = model if isinstance(model, ModelSource) else ModelSource(*([] if model is None else [model]))
    options = StoreOptions(Path(save_path).absolute(), lazy_loading=True, lock_timeout=lock_timeout)
    if tile_shape is None and halo is None and automatic_tiling:
        tile_shape, halo = choose_tiling(source.shape[-2:], options.path) or (None, None)
    facts = model.facts()
    model = model.checked(facts)
    request = describe_request(_stand_in(facts), source.open(), tile_shape, halo, normalization)
    request = yield from complete_request(source.open(), request, options)
    with ExitStack() as resources:
        store = yield from open_store(request, options, resources)
        missing = store.missing()
        total, done = request.n_items, request.n_items - len(missing)
        yield Progress(done, total, _COMPUTING)
        if missing:
            client = resources.enter_context(connect(Cluster() if cluster is None else cluster))
            yield from _compute(client, source, model, store, missing, int(batch_size))
            store.finish()
    return store


def _compute(
    client: Client, source: BlockSource, model: ModelSource, store: EmbeddingStore, missing: list[Item], batch_size: int
) -> Generator[Progress, None, None]:
    total = store.metadata.n_items
    done = total - len(missing)
    batches = [tuple(missing[start : start + batch_size]) for start in range(0, len(missing), batch_size)]

    def work() -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number, batch in enumerate(batches):
            for item in batch:
                store.prepare(item)  # two workers must not make the same array
            yield number, (source, model, store.path, store.metadata, tuple(batch))

    for number, checksums in iter_tasks(client, compute_items, work(), "batch of tiles"):
        for item, checksum in zip(batches[number], checksums):
            store.record(item, checksum)
            done += 1
            yield Progress(done, total, _COMPUTING)


def compute_items(
    source: BlockSource, model: ModelSource, path: Path, metadata: StoreMetadata, items: tuple[Item, ...]
) -> list[int]:
    """Compute embeddings and write them, on a worker; returns their checksums, which say that they are complete."""
    import dask

    with dask.config.set(scheduler="synchronous"):
        images = [read_item(source.open(), metadata, item) for item in items]
    with model.in_use() as predictor:
        features = encode_batch(predictor, images)
    backend = _backend(path, metadata)
    return [backend.write_features(item, feature[None]) for item, feature in zip(items, features)]


@lru_cache(maxsize=2)
def _backend(path: Path, metadata: StoreMetadata) -> ZarrBackend:
    """The store on this worker, opened once."""
    backend = ZarrBackend.open(path, writable=True)
    if backend is None:
        raise StoreError(f"A worker sees no embedding store at '{path}'; put it on a disk that all of them share.")
    return backend


def _stand_in(facts: Mapping[str, Any]) -> Any:
    """What `describe_request` asks of a predictor, without loading one."""
    return SimpleNamespace(model_type=facts["model_type"], model_name=facts["model_name"], _hash=facts["model_hash"])
