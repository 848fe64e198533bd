"""Segment a time series frame by frame, in a stream."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings.compute import iter_precompute
from micro_sam.embeddings.source import ImageSource
from micro_sam.errors import ImageError
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor

_SEGMENTING = "Segment frames"


@dataclass(frozen=True)
class FrameOptions:
    """How frames are encoded.

    Attributes:
        tile_shape: Height and width of the tiles; None for no tiling.
        halo: How far tiles reach into their neighbours (y, x).
        batch_size: Tiles or frames encoded at the same time.
        normalization: "minmax" or "robust"; robust looks at all frames together.
        keep_embeddings: Keep the embeddings of all frames in memory if they are not kept on disk.
    """

    tile_shape: tuple[int, int] | None = None
    halo: tuple[int, int] | None = None
    batch_size: int = 1
    normalization: Literal["minmax", "robust"] = "minmax"
    keep_embeddings: bool = False

    def embedding_arguments(self) -> dict[str, Any]:
        """The arguments of `iter_precompute`."""
        names = ("tile_shape", "halo", "batch_size", "normalization")
        return {name: getattr(self, name) for name in names}


def iter_segment_frames(
    timeseries: Any,
    predictor: SamPredictor,
    segmenter: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    options: FrameOptions | None = None,
    generate_kwargs: Mapping[str, Any] | None = None,
) -> Generator[Progress, None, tuple[np.ndarray, ImageEmbeddings | None]]:
    """Segment every frame of a time series for itself.

    Args:
        timeseries: The images, TYX or TYXC; numpy or lazy, one frame is read at a time.
        predictor: The model.
        segmenter: What segments a frame.
        embedding_path: Where to keep the embeddings; an interrupted run goes on from those that are there.
        options: How frames are encoded.
        generate_kwargs: Arguments of the segmenter's ``generate``.

    Returns:
        Labels TYX, uint32, of which those of different frames are unrelated; and the embeddings if they were kept.

    Raises:
        ImageError: The input is no time series.
    """
    options = options or FrameOptions()
    source = _as_timeseries(timeseries)
    embeddings = None
    if embedding_path is not None or options.keep_embeddings or options.normalization == "robust":
        embeddings = yield from iter_precompute(
            predictor, timeseries, embedding_path, ndim=3, lazy_loading=True, **options.embedding_arguments()
        )
    labels = np.zeros((source.n_slices, *source.shape), np.uint32)
    for frames in _batches(source.n_slices, 1 if embeddings is not None else options.batch_size):
        images = [source.read(frame) for frame in frames]
        batch, offset = embeddings, 0
        if batch is None:
            work = iter_precompute(predictor, np.stack(images), ndim=3, **options.embedding_arguments())
            batch, offset = (yield from _instead(work, frames[0], source.n_slices)), frames[0]
        for frame, image in zip(frames, images, strict=True):
            work = segmenter.iter_initialize(image, image_embeddings=batch, i=frame - offset)
            yield from _instead(work, frame, source.n_slices)
            labels[frame] = segmenter.generate(**(generate_kwargs or {}))
            yield Progress(frame + 1, source.n_slices, _SEGMENTING)
    return labels, embeddings


def _as_timeseries(timeseries: Any) -> ImageSource:
    shape = tuple(np.shape(timeseries))
    if len(shape) not in (3, 4):
        raise ImageError(f"A time series has the axes TYX or TYXC, got an array of shape {shape}; pass several frames.")
    return ImageSource.from_input(timeseries, 3)


def _batches(total: int, size: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + size, total))) for start in range(0, total, size))


def _instead(work: Generator[Progress, None, Any], frame: int, total: int) -> Generator[Progress, None, Any]:
    """Run the steps of one frame and show how many frames are done, not how many steps."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
        yield Progress(frame, total, _SEGMENTING)
