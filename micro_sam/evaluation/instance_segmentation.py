"""Find the best parameters of automatic segmentation on annotated images, and use them on others."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError, ParameterError
from ..io import load_image_data, replacing, write_labels
from .evaluation import segmentation_scores
from .pairs import PathLike, embeddings_of, load_labels, names_of

if TYPE_CHECKING:
    from ..instance_segmentation import Segmenter

Grid = dict[str, list]
Tiling = Mapping[str, tuple[int, int]]
CRITERIA = ("mSA", "SA50", "SA75")


def _steps(start: float, stop: float, step: float) -> list[float]:
    return [round(float(v), 6) for v in np.arange(start, stop, step)]


def default_grid_search_values_amg(
    iou_thresh_values: list[float] | None = None, stability_score_values: list[float] | None = None
) -> Grid:
    """Values to try for AMG.

    Args:
        iou_thresh_values: For ``pred_iou_thresh``. Default: 0.6, 0.625 … 0.875.
        stability_score_values: For ``stability_score_thresh``. Default: 0.6, 0.625 … 0.925.
    """
    return {
        "pred_iou_thresh": _steps(0.6, 0.9, 0.025) if iou_thresh_values is None else iou_thresh_values,
        "stability_score_thresh": _steps(0.6, 0.95, 0.025)
        if stability_score_values is None
        else stability_score_values,
    }


def default_grid_search_values_instance_segmentation_with_decoder(
    center_distance_threshold_values: list[float] | None = None,
    boundary_distance_threshold_values: list[float] | None = None,
    distance_smoothing_values: list[float] | None = None,
    min_size_values: list[float] | None = None,
) -> Grid:
    """Values to try for AIS.

    Args:
        center_distance_threshold_values: Default: 0.3, 0.4 … 0.7.
        boundary_distance_threshold_values: Default: 0.3, 0.4 … 0.7.
        distance_smoothing_values: Default: 1.0, 1.2 … 2.0.
        min_size_values: Default: 50, 100, 200.
    """
    return {
        "center_distance_threshold": center_distance_threshold_values or _steps(0.3, 0.75, 0.1),
        "boundary_distance_threshold": boundary_distance_threshold_values or _steps(0.3, 0.75, 0.1),
        "distance_smoothing": distance_smoothing_values or _steps(1.0, 2.05, 0.2),
        "min_size": min_size_values or [50, 100, 200],
    }


def default_grid_search_values_apg(
    min_distance_values: list[float] | None = None,
    threshold_abs_values: list[float] | None = None,
    multimasking_values: list[bool] | None = None,
    prompt_selection_values: list[str] | None = None,
    min_size_values: list[float] | None = None,
    nms_threshold_values: list[float] | None = None,
    intersection_over_min_values: list[bool] | None = None,
    mask_threshold_values: list[float | str | None] | None = None,
    center_distance_threshold_values: list[float] | None = None,
    boundary_distance_threshold_values: list[float] | None = None,
) -> Grid:
    """Values to try for APG.

    Args:
        min_distance_values: Of an earlier way to derive prompts; not supported.
        threshold_abs_values: Likewise.
        multimasking_values: Default: only False.
        prompt_selection_values: Of an earlier way to derive prompts; not supported.
        min_size_values: Default: 25, 50, 100.
        nms_threshold_values: Default: 0.5, 0.7, 0.9.
        intersection_over_min_values: Default: False and True.
        mask_threshold_values: Default: None and "auto".
        center_distance_threshold_values: Default: 0.3, 0.4 … 0.7.
        boundary_distance_threshold_values: Default: 0.3, 0.4 … 0.7.

    Raises:
        ParameterError: Values for a parameter that `AutomaticPromptGenerator` does not have.
    """
    earlier = {
        "min_distance_values": min_distance_values,
        "threshold_abs_values": threshold_abs_values,
        "prompt_selection_values": prompt_selection_values,
    }
    for name, values in earlier.items():
        if values is not None:
            raise ParameterError(
                f"{name} belongs to an earlier way to derive prompts; leave it out, or pass your own prompt_function as a "
                "fixed argument of generate."
            )
    return {
        "center_distance_threshold": center_distance_threshold_values or _steps(0.3, 0.75, 0.1),
        "boundary_distance_threshold": boundary_distance_threshold_values or _steps(0.3, 0.75, 0.1),
        "min_size": min_size_values or [25, 50, 100],
        "nms_threshold": nms_threshold_values or [0.5, 0.7, 0.9],
        "intersection_over_min": intersection_over_min_values or [False, True],
        "mask_threshold": mask_threshold_values or [None, "auto"],
        "multimasking": multimasking_values or [False],
    }


def combinations(grid: Mapping[str, Sequence]) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values, as keyword arguments.

    Raises:
        ParameterError: The grid, or one of its lists, is empty.
    """
    empty = [name for name, values in grid.items() if len(values) == 0]
    if empty or not grid:
        raise ParameterError(f"The grid search has no values{f' for {empty[0]}' if empty else ''}.")
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values))


def run_instance_segmentation_grid_search(
    segmenter: Segmenter,
    grid_search_values: Mapping[str, list],
    image_paths: Sequence[PathLike],
    gt_paths: Sequence[PathLike],
    result_dir: PathLike,
    embedding_dir: PathLike | None,
    fixed_generate_kwargs: Mapping[str, Any] | None = None,
    verbose_gs: bool = False,
    image_key: str | None = None,
    gt_key: str | None = None,
    rois: tuple[slice, ...] | None = None,
    tiling_window_params: Tiling | None = None,
) -> None:
    """Score every combination of parameters on every image.

    An image is initialised once. Its scores are written to ``<result_dir>/<name>.csv`` when all combinations are done;
    images that have such a file are skipped.

    Args:
        segmenter: What segments.
        grid_search_values: For each argument of ``generate`` the values to try.
        image_paths: Image files (2d).
        gt_paths: Annotated instances, in the same order.
        result_dir: Where the scores are written; made if it does not exist.
        embedding_dir: Where embeddings are kept, or None.
        fixed_generate_kwargs: Further arguments of ``generate``.
        verbose_gs: Show a progress bar over the combinations of each image.
        image_key: The data set inside the image files.
        gt_key: The data set inside the annotations.
        rois: Only this part of each image.
        tiling_window_params: ``tile_shape`` and ``halo`` for a tiled segmenter.

    Raises:
        ParameterError: A parameter is both fixed and searched, or the grid is empty, or the lists do not fit.
    """
    fixed, all_settings = dict(fixed_generate_kwargs or {}), list(combinations(grid_search_values))
    twice = sorted(set(fixed) & set(grid_search_values))
    if twice:
        raise ParameterError(f"{twice[0]} is fixed and searched for at the same time; leave it out of one of the two.")
    names = names_of(image_paths, gt_paths)
    Path(result_dir).mkdir(parents=True, exist_ok=True)
    for image_path, gt_path, name in zip(tqdm(image_paths, "Grid search"), gt_paths, names):
        result_path = Path(result_dir) / f"{name}.csv"
        if result_path.exists():
            continue
        image, labels = load_image_data(os.fspath(image_path), image_key), load_labels(gt_path, gt_key)
        if rois is not None:
            image, labels = image[rois], labels[rois]
        _initialize(segmenter, image, embedding_dir, name, tiling_window_params)
        rows = []
        for settings in tqdm(all_settings, name, leave=False, disable=not verbose_gs):
            prediction = segmenter.generate(**fixed, **settings)
            rows.append(settings | segmentation_scores(np.asarray(prediction), labels))
        _write_rows(result_path, rows, list(grid_search_values))


def _initialize(
    segmenter: Segmenter, image: np.ndarray, embedding_dir: PathLike | None, name: str, tiling: Tiling | None
) -> None:
    embeddings = embeddings_of(segmenter._predictor, image, embedding_dir, name, tiling)
    segmenter.initialize(image, image_embeddings=embeddings)


def _write_rows(path: Path, rows: list[dict[str, Any]], parameters: Sequence[str]) -> None:
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in parameters:
        table[name] = [json.dumps(row[name]) for row in rows]  # keeps None, true and "auto" apart from text
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def evaluate_instance_segmentation_grid_search(
    result_dir: PathLike, grid_search_parameters: Sequence[str], criterion: str = "mSA"
) -> tuple[dict[str, Any], float]:
    """The best combination of parameters over all images of a grid search.

    Args:
        result_dir: Where `run_instance_segmentation_grid_search` wrote.
        grid_search_parameters: The names of the parameters.
        criterion: "mSA", "SA50" or "SA75".

    Returns:
        The parameters, and their score averaged over the images. Of equal ones the first that was tried.

    Raises:
        ParameterError: An unknown criterion or parameter.
        InputError: There are no results.
    """
    import pandas as pd

    if criterion not in CRITERIA:
        raise ParameterError(f"The criterion is one of {', '.join(CRITERIA)}, got {criterion!r}.")
    files = sorted(Path(result_dir).glob("*.csv"))
    if not files:
        raise InputError(f"There are no results of a grid search in '{result_dir}'; run it first.")
    tables = pd.concat([pd.read_csv(path, dtype=dict.fromkeys(grid_search_parameters, str)) for path in files])
    missing = [name for name in grid_search_parameters if name not in tables]
    if missing:
        raise ParameterError(f"The results in '{result_dir}' know no parameter {missing[0]!r}.")
    means = tables.groupby(list(grid_search_parameters), sort=False)[criterion].mean()
    best = means.idxmax()
    values = best if isinstance(best, tuple) else (best,)
    return dict(zip(grid_search_parameters, map(json.loads, values))), float(means.max())


def save_grid_search_best_params(
    best_kwargs: Mapping[str, Any], best_msa: float, grid_search_result_dir: PathLike | None = None
) -> None:
    """Write the best parameters and their score to ``grid_search_best_params.json``.

    Args:
        best_kwargs: The parameters.
        best_msa: Their score.
        grid_search_result_dir: The folder; the working directory by default.
    """
    path = Path(grid_search_result_dir or ".") / "grid_search_best_params.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"parameters": dict(best_kwargs), "score": best_msa}, indent=2))


def run_instance_segmentation_inference(
    segmenter: Segmenter,
    image_paths: Sequence[PathLike],
    embedding_dir: PathLike | None,
    prediction_dir: PathLike,
    generate_kwargs: Mapping[str, Any] | None = None,
    tiling_window_params: Tiling | None = None,
) -> None:
    """Segment all images and write ``<prediction_dir>/<name>.tif``; those that are there are skipped.

    Args:
        segmenter: What segments.
        image_paths: Image files (2d).
        embedding_dir: Where embeddings are kept, or None.
        prediction_dir: The folder; made if it does not exist.
        generate_kwargs: Arguments of ``generate``.
        tiling_window_params: ``tile_shape`` and ``halo`` for a tiled segmenter.
    """
    Path(prediction_dir).mkdir(parents=True, exist_ok=True)
    for image_path, name in zip(tqdm(image_paths, "Segment"), names_of(image_paths)):
        prediction_path = Path(prediction_dir) / f"{name}.tif"
        if prediction_path.exists():
            continue
        image = load_image_data(os.fspath(image_path))
        _initialize(segmenter, image, embedding_dir, name, tiling_window_params)
        write_labels(prediction_path, segmenter.generate(**(generate_kwargs or {})))


def run_instance_segmentation_grid_search_and_inference(
    segmenter: Segmenter,
    grid_search_values: Mapping[str, list],
    val_image_paths: Sequence[PathLike],
    val_gt_paths: Sequence[PathLike],
    test_image_paths: Sequence[PathLike],
    embedding_dir: PathLike | None,
    prediction_dir: PathLike,
    experiment_folder: PathLike,
    result_dir: PathLike,
    fixed_generate_kwargs: Mapping[str, Any] | None = None,
    verbose_gs: bool = True,
    tiling_window_params: Tiling | None = None,
) -> None:
    """Search the best parameters on validation images and segment test images with them.

    Args:
        segmenter: What segments.
        grid_search_values: For each argument of ``generate`` the values to try.
        val_image_paths: Images to search on.
        val_gt_paths: Their annotated instances.
        test_image_paths: Images to segment.
        embedding_dir: Where embeddings are kept, or None.
        prediction_dir: Where the segmentations are written.
        experiment_folder: Its ``results`` folder receives the best parameters.
        result_dir: Where the scores of the search are written.
        fixed_generate_kwargs: Further arguments of ``generate``.
        verbose_gs: Show a progress bar over the combinations of each image.
        tiling_window_params: ``tile_shape`` and ``halo`` for a tiled segmenter.
    """
    fixed = dict(fixed_generate_kwargs or {})
    run_instance_segmentation_grid_search(
        segmenter,
        grid_search_values,
        val_image_paths,
        val_gt_paths,
        result_dir,
        _sub(embedding_dir, "val"),
        fixed,
        verbose_gs,
        tiling_window_params=tiling_window_params,
    )
    best, score = evaluate_instance_segmentation_grid_search(result_dir, list(grid_search_values))
    results = Path(experiment_folder) / "results"
    results.mkdir(parents=True, exist_ok=True)
    save_grid_search_best_params(best, score, results)
    run_instance_segmentation_inference(
        segmenter,
        test_image_paths,
        _sub(embedding_dir, "test"),
        prediction_dir,
        {**fixed, **best},
        tiling_window_params,
    )


def _sub(folder: PathLike | None, name: str) -> Path | None:
    """Validation and test images may share names, so their embeddings are kept apart."""
    if folder is None:
        return None
    path = Path(folder) / name
    path.mkdir(parents=True, exist_ok=True)
    return path
