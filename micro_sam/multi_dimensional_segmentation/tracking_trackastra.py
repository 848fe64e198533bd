"""Link objects with trackastra (Gallusser and Weigert, ECCV 2024), an optional package whose models are downloaded."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from micro_sam.errors import DownloadError, MissingDependencyError
from micro_sam.multi_dimensional_segmentation.tracking_objects import FrameObjects

logger = logging.getLogger(__name__)

MODES = ("greedy", "greedy_nodiv", "ilp")


def link_with_trackastra(
    timeseries: np.ndarray,
    segmentation: np.ndarray,
    frames: Sequence[FrameObjects],
    mode: str = "greedy",
    model: str = "general_2d",
    device: Any = None,
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Link the objects of a time series with a pretrained transformer.

    Args:
        timeseries: The images, TYX.
        segmentation: Their labels, TYX.
        frames: The objects of every frame.
        mode: "greedy", "greedy_nodiv" (without division) or "ilp".
        model: A pretrained model of trackastra, downloaded when it is first used.
        device: Where to compute; the best device there is by default.

    Returns:
        Links between nodes (frame, index in the frame), the earlier first.

    Raises:
        MissingDependencyError: The package is not installed.
        DownloadError: Its model is neither there nor can be downloaded.
    """
    tracker = _load(model, device)
    graph, *_ = tracker.track(timeseries, segmentation.astype(np.int32), mode=mode)
    times, labels = (dict(graph.nodes(data=name)) for name in ("time", "label"))

    def node(key: Any) -> tuple[int, int]:
        frame = int(times[key])
        return frame, int(np.searchsorted(frames[frame].ids, int(labels[key])))

    return sorted((node(earlier), node(later)) for earlier, later in graph.edges)


def _load(model: str, device: Any) -> Any:
    try:
        package = importlib.import_module("trackastra.model")
    except ImportError as error:
        raise MissingDependencyError(
            "linker='trackastra' needs the package trackastra, which is not installed; run pip install "
            "'micro_sam[trackastra]' or use the default, linker='laptrack', which needs nothing else."
        ) from error
    try:
        return package.Trackastra.from_pretrained(model, device=None if device is None else str(device).split(":")[0])
    except Exception as error:  # what the download raises differs from one version to the next
        logger.debug("trackastra could not be loaded", exc_info=True)
        raise DownloadError(
            f"The trackastra model {model!r} is not there and could not be downloaded ({type(error).__name__}); connect to "
            "the internet once or use the default, linker='laptrack', which needs no download."
        ) from error
