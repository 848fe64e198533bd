"""Long work on a time series as generators of `Progress`: track everything automatically, and save tracks."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.io.resolution import Resolution
from micro_sam.io.tracks import write_tracks
from micro_sam.multi_dimensional_segmentation.tracking import iter_track
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.automatic import AutomaticSegmentation
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.saving import write_origins

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.sam_annotator.session.follow_settings import LinkSettings
    from micro_sam.sam_annotator.session.image import AnnotatedImage
    from micro_sam.sam_annotator.session.prompts import Prompts

_KEPT_BYTES = 2**30  # of prepared frames in memory; more are prepared again when parameters change
_BYTES_PER_PIXEL = 12


def iter_track_everything(
    automatic: AutomaticSegmentation,
    image: AnnotatedImage,
    predictor: SamPredictor,
    embeddings: ImageEmbeddings,
    settings: Any,
    links: LinkSettings,
) -> Generator[Progress, None, tuple[np.ndarray, Lineage]]:
    """Segment every frame and link the objects.

    Args:
        automatic: What is ready from the last time.
        image: The time series.
        predictor: The model.
        embeddings: Its embeddings.
        settings: How to segment, one of the settings of `micro_sam.instance_segmentation.settings`.
        links: How to link.

    Returns:
        Tracked labels (TYX), uint32, and which tracks come from which.
    """
    labels = np.zeros(image.shape, np.uint32)
    for frame in range(len(labels)):
        work = automatic.iter_segment(image, predictor, embeddings, settings, frame)
        labels[frame] = yield from _as_one_step(work, frame, len(labels))
        if labels.size * _BYTES_PER_PIXEL > _KEPT_BYTES:
            automatic.forget()
    tracked, families = yield from iter_track(image.source.array, labels, links.tracking())
    return tracked, Lineage.from_families(families)


def _as_one_step(work: Generator[Progress, None, Any], done: int, total: int) -> Generator[Progress, None, Any]:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
        yield Progress(done, total, "Segment frames")


def iter_save_tracks(
    path: str | Path,
    labels: np.ndarray,
    families: Sequence[Mapping[int, Sequence[int]]],
    origins: Mapping[int, Prompts],
    resolution: Resolution | None,
    journal: Path | None = None,
) -> Generator[Progress, None, Path]:
    """Save tracks, and the prompts they were made with beside them.

    Args:
        path: ``.tif`` or ``.zarr``: labels, with the graph in a ``.geff`` beside them (``.geff``: the same, with labels as
            ``.tif``); any other name is a Cell Tracking Challenge folder.
        labels: Tracked labels (TYX).
        families: The lineages.
        origins: For tracks the prompts they were made with.
        resolution: The pixel size.
        journal: Where it is written down how the labels were made.

    Returns:
        What was written: the labels, or the folder.

    Raises:
        OutputError: It cannot be written.
    """
    yield Progress(0, 2, "Save tracks")
    path = Path(path)
    path = path.with_suffix(".tif") if path.suffix.lower() == ".geff" else path
    write_tracks(path, labels, families, resolution)
    yield Progress(1, 2, "Save prompts")
    write_origins(path, labels, origins, journal)
    yield Progress(2, 2, "Save prompts")
    return path
