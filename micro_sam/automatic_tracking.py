"""Automatic tracking of a time series, from a file or an array, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.io.tracks import check_track_paths, track_paths, write_tracks
from micro_sam.multi_dimensional_segmentation.tracking import automatic_tracking_implementation

if TYPE_CHECKING:
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor

Lineages = list[dict[int, list[int]]]


def automatic_tracking(
    predictor: SamPredictor,
    segmenter: Segmenter,
    input_path: str | os.PathLike | np.ndarray,
    output_path: str | os.PathLike | None = None,
    embedding_path: str | os.PathLike | None = None,
    key: str | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    verbose: bool = True,
    return_embeddings: bool = False,
    annotate: bool = False,
    batch_size: int = 1,
    mode: str = "greedy",
    tracking_model: str = "general_2d",
    *,
    linker: Literal["laptrack", "trackastra"] = "laptrack",
    gap_closing: int | None = None,
    min_time_extent: int | None = None,
    normalization: Literal["minmax", "robust"] = "minmax",
    automatic_tiling: bool = True,
    **generate_kwargs: Any,
) -> tuple[np.ndarray, Lineages] | tuple[np.ndarray, Lineages, Mapping[str, Any]]:
    """Segment and track the objects of a time series.

    Args:
        predictor: The model.
        segmenter: What segments a frame, from `get_predictor_and_segmenter`; made with ``is_tiled`` to work in tiles.
        input_path: The time series: a file or an array ``TYX`` or ``TYXC``.
        output_path: Where to write the result. A name without suffix is a Cell Tracking Challenge folder;
            ``tracked.tif`` or ``tracked.zarr`` holds the labels, with the tracks beside them in ``tracked.geff``;
            ``tracked.geff`` holds the tracks alone.
        embedding_path: Where to keep the embeddings; those that are there already are used.
        key: The data set inside the file, or the pattern of a folder.
        tile_shape: Height and width of the tiles; by default only frames that are too large for one pass are cut.
        halo: How far tiles reach into their neighbours (y, x).
        verbose: Show progress bars.
        return_embeddings: Return the embeddings, too.
        annotate: Open the result in the annotator for correction.
        batch_size: Tiles or frames encoded at the same time.
        mode: "greedy_nodiv" for objects that do not divide, else "greedy"; trackastra also has "ilp".
        tracking_model: The model of trackastra.
        linker: "laptrack", which needs no download, or "trackastra", which needs that package and its model.
        gap_closing: How many frames in a row an object may be missing and still be the same; None for one.
        min_time_extent: Tracks, with their ancestors and descendants, that span fewer frames are removed.
        normalization: How contrast is made: "minmax" or "robust", see `precompute_image_embeddings`.
        automatic_tiling: Whether large frames are cut into tiles without being asked to.
        **generate_kwargs: Arguments of the segmenter's ``generate``; they win over the defaults that belong to the model.

    Returns:
        Labels ``TYX``, uint32, in which an object has the same label in all frames up to its division, and the lineages:
        one dict per family, label -> labels of the daughters. With ``return_embeddings`` also the embeddings.

    Raises:
        ParameterError: Arguments that do not fit each other.
        ImageError: An input that is no time series.
        InputError: A file that cannot be read.
        OutputError: The result cannot be written; this is found before anything is computed.
    """
    from micro_sam import automatic_segmentation as library

    if output_path is not None:
        check_track_paths(track_paths(output_path))
    series, resolution = library.load_input(input_path, key, lazy=True)
    plane = tuple(series.shape)[1:3]
    if tile_shape is None and halo is None and automatic_tiling and len(plane) == 2:
        segmenter, tile_shape, halo = library.automatic_tiles(segmenter, plane, embedding_path)
    library.check_tiling(segmenter, tile_shape is not None)
    labels, lineages, *embeddings = automatic_tracking_implementation(
        series,
        predictor,
        segmenter,
        embedding_path,
        gap_closing=gap_closing,
        min_time_extent=min_time_extent,
        mode=mode,
        tracking_model=tracking_model,
        tile_shape=tile_shape,
        halo=halo,
        verbose=verbose,
        return_embeddings=return_embeddings,
        batch_size=batch_size,
        linker=linker,
        normalization=normalization,
        **{**library.model_defaults(predictor, segmenter), **generate_kwargs},
    )
    if output_path is not None:
        write_tracks(output_path, labels, lineages, resolution)
    if annotate:
        library.open_annotator(series, labels, embedding_path, predictor, lineages)
    return (labels, lineages, *embeddings)
