"""Go through a volume slice by slice: embeddings and the segmenter's state of one slice at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings.compute import iter_precompute
from micro_sam.embeddings.source import ImageSource
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor

SEGMENTING = "Segment slices"


@dataclass(frozen=True)
class SliceOptions:
    """How slices are encoded.

    Attributes:
        tile_shape: Height and width of the tiles; None for no tiling.
        halo: How far tiles reach into their neighbours (y, x).
        batch_size: Tiles or slices encoded at the same time.
        normalization: "minmax" for each slice, or "robust" for all slices together.
        keep_embeddings: Keep the embeddings of all slices in memory if they are not kept on disk.
    """

    tile_shape: tuple[int, int] | None = None
    halo: tuple[int, int] | None = None
    batch_size: int = 1
    normalization: Literal["minmax", "robust"] = "minmax"
    keep_embeddings: bool = False

    def arguments(self) -> dict[str, Any]:
        """The arguments of `iter_precompute`."""
        return {name: getattr(self, name) for name in ("tile_shape", "halo", "batch_size", "normalization")}


def iter_slices(
    volume: Any,
    predictor: SamPredictor,
    segmenter: Segmenter,
    consume: Callable[[int, Segmenter], None],
    embedding_path: str | os.PathLike | None = None,
    options: SliceOptions | None = None,
    mask: np.ndarray | None = None,
    text: str = SEGMENTING,
) -> Generator[Progress, None, ImageEmbeddings | None]:
    """Initialize a segmenter with one slice after another.

    Without an embedding path the embeddings of a few slices (``batch_size``) are in memory at a time.

    Args:
        volume: ZYX or ZYXC; numpy or lazy, read slice by slice.
        predictor: The model.
        segmenter: What segments a slice.
        consume: Called with the slice and the segmenter, which is initialized with it.
        embedding_path: Where to keep the embeddings; an interrupted run goes on from those that are there.
        options: How slices are encoded.
        mask: Where to segment (YX); with tiles, those without it are not computed.
        text: What the progress says.

    Yields:
        `Progress` after each slice, and in between.

    Returns:
        The embeddings, if they are kept.
    """
    options = options or SliceOptions()
    source = ImageSource.from_input(volume, 3)
    total, arguments = source.n_slices, options.arguments()
    if mask is not None and options.tile_shape is not None:
        arguments["mask"] = mask
    with ExitStack() as resources:
        embeddings = None
        keep = embedding_path is not None or options.keep_embeddings
        if keep or options.normalization == "robust":
            path = embedding_path if keep else _temporary_store(resources)
            embeddings = yield from iter_precompute(
                predictor, volume, path, ndim=3, lazy_loading=path is not None, **arguments
            )
        for slices in _batches(total, 1 if embeddings is not None else options.batch_size):
            images = [source.read(z) for z in slices]
            batch, offset = embeddings, 0
            if batch is None:
                work = iter_precompute(predictor, np.stack(images), ndim=3, **arguments)
                batch, offset = (yield from _quietly(work, slices[0], total, text)), slices[0]
            for z, image in zip(slices, images, strict=True):
                work = segmenter.iter_initialize(image, image_embeddings=batch, i=z - offset)
                yield from _quietly(work, z, total, text)
                consume(z, segmenter)
                yield Progress(z + 1, total, text)
    return embeddings if keep else None


def _temporary_store(resources: ExitStack) -> Path:
    """The contrast of all slices together is known only after all were read, so embeddings wait on disk, not in memory."""
    return Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="micro_sam_"))) / "embeddings.zarr"


def _batches(total: int, size: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + size, total))) for start in range(0, total, size))


def _quietly(work: Generator[Progress, None, Any], z: int, total: int, text: str) -> Generator[Progress, None, Any]:
    """Run the steps of one slice and show how many slices are done, not how many steps."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
        yield Progress(z, total, text)
