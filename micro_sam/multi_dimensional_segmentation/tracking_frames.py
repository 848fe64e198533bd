"""Segment a time series frame by frame, in a stream."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings.source import ImageSource
from micro_sam.errors import ImageError
from micro_sam.multi_dimensional_segmentation.slice_stream import SliceOptions, iter_slices
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor

_SEGMENTING = "Segment frames"


def iter_segment_frames(
    timeseries: Any,
    predictor: SamPredictor,
    segmenter: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    options: SliceOptions | None = None,
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
    source = _as_timeseries(timeseries)
    labels = np.zeros((source.n_slices, *source.shape), np.uint32)

    def segment(frame: int, segmenter: Segmenter) -> None:
        labels[frame] = segmenter.generate(**(generate_kwargs or {}))

    embeddings = yield from iter_slices(
        timeseries, predictor, segmenter, segment, embedding_path, options, text=_SEGMENTING
    )
    return labels, embeddings


def _as_timeseries(timeseries: Any) -> ImageSource:
    shape = tuple(np.shape(timeseries))
    if len(shape) not in (3, 4):
        raise ImageError(f"A time series has the axes TYX or TYXC, got an array of shape {shape}; pass several frames.")
    return ImageSource.from_input(timeseries, 3)
