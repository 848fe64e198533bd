"""Automatic tracking: segment the frames of a time series, link the objects, and show the tracks in napari."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.errors import ImageError, ParameterError
from micro_sam.multi_dimensional_segmentation.slice_stream import SliceOptions
from micro_sam.multi_dimensional_segmentation.tracking_frames import iter_segment_frames
from micro_sam.multi_dimensional_segmentation.tracking_lap import LinkSettings, link_objects
from micro_sam.multi_dimensional_segmentation.tracking_objects import ObjectSeries, iter_measure_series, measure_objects
from micro_sam.multi_dimensional_segmentation.tracking_trackastra import MODES, link_with_trackastra
from micro_sam.multi_dimensional_segmentation.tracking_tracks import (
    Lineages,
    iter_paint,
    lineages_of,
    tracks_from_links,
)
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor

Linker = Literal["laptrack", "trackastra"]
LINKERS = ("laptrack", "trackastra")


@dataclass(frozen=True)
class TrackingSettings:
    """How segmented frames are linked.

    Attributes:
        gap_closing: How many frames in a row an object may be missing and still be the same; None for one.
        min_time_extent: Tracks, with their ancestors and descendants, that span fewer frames are removed.
        mode: "greedy" or "ilp", or "greedy_nodiv" for objects that do not divide.
        tracking_model: The model of trackastra.
        linker: "laptrack" or "trackastra".
    """

    gap_closing: int | None = None
    min_time_extent: int | None = None
    mode: str = "greedy"
    tracking_model: str = "general_2d"
    linker: Linker = "laptrack"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(f"The mode of tracking is one of {', '.join(MODES)}, got {self.mode!r}.")
        if self.linker not in LINKERS:
            raise ParameterError(f"The linker is one of {', '.join(LINKERS)}, got {self.linker!r}.")
        for name, least in (("gap_closing", 0), ("min_time_extent", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value != int(value) or value < least):
                raise ParameterError(f"{name} is a number of frames, at least {least}, or None, got {value!r}.")


def track_across_frames(
    timeseries: np.ndarray,
    segmentation: np.ndarray,
    gap_closing: int | None = None,
    min_time_extent: int | None = None,
    mode: str = "greedy",
    tracking_model: str = "general_2d",
    verbose: bool = True,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
    output_folder: str | os.PathLike | None = None,
    *,
    linker: Linker = "laptrack",
) -> tuple[np.ndarray, Lineages]:
    """Track the objects of a segmented time series.

    Args:
        timeseries: The images, TYX or TYXC (3d plus time: TZYX, TZYXC).
        segmentation: Integer labels of every frame, TYX (TZYX), 0 is background; labels of different frames are unrelated.
        gap_closing: How many frames in a row an object may be missing and still be the same; it is drawn in those
            frames, in a shape between those before and after. 0 for none, None for one.
        min_time_extent: Tracks, with their ancestors and descendants, that span fewer frames are removed.
        mode: "greedy_nodiv" for objects that do not divide, else "greedy"; trackastra also has "ilp".
        tracking_model: The model of trackastra; not used by laptrack.
        verbose: Show a progress bar.
        pbar_init: Called with (total, description).
        pbar_update: Called with the number of steps done.
        output_folder: Where to write the result as a Cell Tracking Challenge folder.
        linker: "laptrack" (linear assignment with gap closing and division; needs no download) or "trackastra" (a
            transformer; needs that package and its model).

    Returns:
        Labels of the shape of the segmentation, uint32, in which an object has the same label in all frames up to its
        division, and the lineages: one dict per family, label -> labels of the daughters.

    Raises:
        ImageError: Images and labels do not fit each other, or the labels are no integers.
        ParameterError: A parameter is out of range.
        MissingDependencyError: trackastra is asked for and not installed.
        DownloadError: The model of trackastra could not be downloaded.
        OutputError: The folder could not be written.
    """
    settings = TrackingSettings(gap_closing, min_time_extent, mode, tracking_model, linker)
    work = iter_track(timeseries, segmentation, settings, output_folder)
    return drain(work, verbose, pbar_init, pbar_update)


def iter_track(
    timeseries: Any,
    segmentation: Any,
    settings: TrackingSettings | None = None,
    output_folder: str | os.PathLike | None = None,
) -> Generator[Progress, None, tuple[np.ndarray, Lineages]]:
    """`track_across_frames` as a generator of `Progress`; nothing is written before all is computed."""
    settings = settings or TrackingSettings()
    segmentation = _check(timeseries, segmentation)
    series = yield from iter_measure_series(segmentation)
    yield Progress(0, 1, "Link frames")
    links = _link(timeseries, segmentation, series, settings)
    yield Progress(1, 1, "Link frames")
    tracks = tracks_from_links(series.frames, links, settings.min_time_extent)
    labels = yield from iter_paint(segmentation, series.frames, tracks)
    lineages = lineages_of(tracks)
    if output_folder is not None:
        from micro_sam.io.tracks_ctc import write_ctc

        write_ctc(output_folder, labels, lineages)
    return labels, lineages


def _check(timeseries: Any, segmentation: Any) -> Any:
    segmentation = segmentation if hasattr(segmentation, "shape") else np.asarray(segmentation)
    shape, images = tuple(segmentation.shape), tuple(np.shape(timeseries))
    if len(shape) not in (3, 4) or 0 in shape:
        raise ImageError(f"A segmented time series has the axes TYX (or TZYX) and is not empty, got shape {shape}.")
    if not np.issubdtype(segmentation.dtype, np.integer):
        raise ImageError(f"The segmentation must hold integer labels, got {segmentation.dtype}; convert it first.")
    if images[: len(shape)] != shape or len(images) > len(shape) + 1:
        raise ImageError(f"Images and segmentation must cover the same frames and pixels, got {images} and {shape}.")
    return segmentation


def _link(timeseries: Any, segmentation: Any, series: ObjectSeries, settings: TrackingSettings) -> list:
    if settings.linker == "laptrack":
        if settings.mode == "ilp":
            raise ParameterError("mode='ilp' belongs to linker='trackastra'; use 'greedy' or 'greedy_nodiv'.")
        gap_closing = 1 if settings.gap_closing is None else int(settings.gap_closing)
        return link_objects(series, LinkSettings(gap_closing, divisions=settings.mode != "greedy_nodiv"))
    images, labels = np.asarray(timeseries), np.asarray(segmentation)
    if images.ndim > labels.ndim:
        images = images.mean(axis=-1)
    return link_with_trackastra(images, labels, series.frames, settings.mode, settings.tracking_model)


def automatic_tracking_implementation(
    timeseries: np.ndarray,
    predictor: SamPredictor,
    segmentor: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    gap_closing: int | None = None,
    min_time_extent: int | None = None,
    mode: str = "greedy",
    tracking_model: str = "general_2d",
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    verbose: bool = True,
    return_embeddings: bool = False,
    batch_size: int = 1,
    output_folder: str | os.PathLike | None = None,
    *,
    linker: Linker = "laptrack",
    normalization: Literal["minmax", "robust"] = "minmax",
    **kwargs: Any,
) -> tuple[np.ndarray, Lineages] | tuple[np.ndarray, Lineages, ImageEmbeddings]:
    """Segment the frames of a time series and track the objects.

    Args:
        timeseries: The images, TYX or TYXC; numpy or lazy.
        predictor: The model.
        segmentor: What segments a frame.
        embedding_path: Where to keep the embeddings; without it those of a frame are forgotten once it is segmented.
        gap_closing: See `track_across_frames`.
        min_time_extent: See `track_across_frames`.
        mode: See `track_across_frames`.
        tracking_model: See `track_across_frames`.
        tile_shape: Height and width of the tiles; None for no tiling.
        halo: How far tiles reach into their neighbours (y, x).
        verbose: Show a progress bar.
        return_embeddings: Return the embeddings, too.
        batch_size: Tiles or frames encoded at the same time.
        output_folder: Where to write the result as a Cell Tracking Challenge folder.
        linker: See `track_across_frames`.
        normalization: How contrast is made, see `precompute_image_embeddings`.
        **kwargs: Arguments of the segmenter's ``generate``.

    Returns:
        Tracked labels TYX and lineages, as `track_across_frames`; with ``return_embeddings`` also the embeddings.

    Raises:
        ImageError: The input is no time series.
        ParameterError: A parameter is out of range.
    """
    settings = TrackingSettings(gap_closing, min_time_extent, mode, tracking_model, linker)
    options = SliceOptions(tile_shape, halo, batch_size, normalization, return_embeddings)
    work = iter_automatic_tracking(
        timeseries, predictor, segmentor, embedding_path, settings, options, output_folder, kwargs
    )
    labels, lineages, embeddings = drain(work, verbose)
    return (labels, lineages, embeddings) if return_embeddings else (labels, lineages)


def iter_automatic_tracking(
    timeseries: Any,
    predictor: SamPredictor,
    segmenter: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    settings: TrackingSettings | None = None,
    options: SliceOptions | None = None,
    output_folder: str | os.PathLike | None = None,
    generate_kwargs: Mapping[str, Any] | None = None,
) -> Generator[Progress, None, tuple[np.ndarray, Lineages, ImageEmbeddings | None]]:
    """`automatic_tracking_implementation` as a generator of `Progress`.

    Closing it leaves the embeddings of finished frames in ``embedding_path``, from where the next run goes on.

    Returns:
        Tracked labels, lineages, and the embeddings if they were kept.
    """
    settings = settings or TrackingSettings()
    segmentation, embeddings = yield from iter_segment_frames(
        timeseries, predictor, segmenter, embedding_path, options, generate_kwargs
    )
    labels, lineages = yield from iter_track(timeseries, segmentation, settings, output_folder)
    return labels, lineages, embeddings


def get_napari_track_data(
    segmentation: np.ndarray, lineages: Sequence[Mapping[int, Sequence[int]]], n_threads: int | None = None
) -> tuple[np.ndarray, dict[int, list[int]]]:
    """What a tracks layer of napari shows.

    Args:
        segmentation: Tracked labels, TYX or TZYX.
        lineages: The lineages, label -> labels of the daughters.
        n_threads: How many frames are measured at the same time.

    Returns:
        One row per object and frame, sorted by track and frame: label, frame, and the centroid in axis order (y, x or
        z, y, x), float (n, 4 or 5); and the graph, label -> labels of the mothers (one).
    """
    segmentation = segmentation if hasattr(segmentation, "shape") else np.asarray(segmentation)
    if len(segmentation.shape) not in (3, 4):
        raise ImageError(f"Tracked labels have the axes TYX or TZYX, got shape {tuple(segmentation.shape)}.")

    def rows(frame: int) -> np.ndarray:
        objects = measure_objects(np.asarray(segmentation[frame]))
        return np.column_stack([objects.ids, np.full(len(objects), frame), objects.centres])

    with ThreadPoolExecutor(n_threads) as threads:
        found = list(threads.map(rows, range(segmentation.shape[0])))
    data = np.concatenate(found) if found else np.zeros((0, 1 + len(segmentation.shape)))
    data = data[np.lexsort((data[:, 1], data[:, 0]))]
    known = set(data[:, 0].astype(int).tolist())
    graph: dict[int, list[int]] = {}
    for family in lineages:
        for mother, daughters in family.items():
            for daughter in daughters:
                if daughter in known and mother in known:
                    graph.setdefault(int(daughter), []).append(int(mother))
    return data, graph
