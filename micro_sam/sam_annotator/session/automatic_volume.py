"""Automatic segmentation of a whole volume in a session, slice by slice, with the embeddings that are there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.multi_dimensional_segmentation.automatic import collector
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.multi_dimensional_segmentation.volume_settings import VolumeSettings
    from micro_sam.sam_annotator.session.automatic import AutomaticSegmentation
    from micro_sam.sam_annotator.session.image import AnnotatedImage

_KEPT_VOXELS = 2**26  # slices of more than this are computed anew when parameters change, or read from the disk
_TEXT = "Segment slices"


def iter_segment_volume(
    automatic: AutomaticSegmentation,
    image: AnnotatedImage,
    predictor: SamPredictor,
    embeddings: ImageEmbeddings,
    settings: Any,
    volume: VolumeSettings,
) -> Generator[Progress, None, np.ndarray]:
    """Segment all objects of a volume. What is expensive is kept, so that changed parameters only generate again.

    Args:
        automatic: Keeps what is expensive.
        image: The volume.
        predictor: The model.
        embeddings: Its embeddings.
        settings: How slices are segmented, of `micro_sam.instance_segmentation.settings`.
        volume: How slices become objects of the volume.

    Returns:
        Labels (ZYX) from 1 on.

    Raises:
        ParameterError: The model cannot do this, or settings do not fit each other.
    """
    depth, keep, collect = image.shape[0], np.prod(image.shape, dtype=float) <= _KEPT_VOXELS, None
    for z in range(depth):
        work = automatic.iter_prepare(image, predictor, embeddings, settings, z)
        segmenter = yield from _as_slice(work, z, depth)
        if collect is None:
            collect = collector(image.shape, segmenter, volume, settings.generate_kwargs())
        collect(z, segmenter)
        if not keep:
            automatic.release(segmenter)
        yield Progress(z + 1, depth, _TEXT)
    return np.asarray((yield from collect.finish(None)))


def iter_prepare_slices(
    automatic: AutomaticSegmentation,
    image: AnnotatedImage,
    predictor: SamPredictor,
    embeddings: ImageEmbeddings,
    settings: Any,
    slices: Sequence[int],
) -> Generator[Progress, None, None]:
    """The expensive part of automatic segmentation, ahead of time."""
    for done, z in enumerate(slices):
        work = automatic.iter_prepare(image, predictor, embeddings, settings, z)
        yield from _as_slice(work, done, len(slices))
    yield Progress(len(slices), len(slices), _TEXT)


def _as_slice(work: Generator[Progress, None, Any], done: int, total: int) -> Generator[Progress, None, Any]:
    """Run the steps of one slice and tell how many slices are done."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
        yield Progress(done, total, _TEXT)
