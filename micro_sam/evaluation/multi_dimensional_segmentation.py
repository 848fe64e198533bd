"""How well objects are followed through volumes, and which parameters follow them best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from ..embeddings import precompute_image_embeddings
from ..errors import ParameterError
from ..inference import batched_inference
from ..io import replacing, write_labels
from ..labels import get_centers_and_bounding_boxes, object_windows
from ..multi_dimensional_segmentation import PropagationSettings, propagate
from .evaluation import segmentation_scores
from .instance_segmentation import combinations
from .pairs import PathLike

if TYPE_CHECKING:
    import torch

    from ..models.predictor import SamPredictor

Metric = Literal["sa", "dice"]
_PROJECTIONS = ("mask", "points", "box", "points_and_mask", "single_point")


def default_grid_search_values_multi_dimensional_segmentation(
    iou_threshold_values: list[float] | None = None,
    projection_method_values: list[str | dict] | str | dict | None = None,
    box_extension_values: list[float] | float | None = None,
) -> dict[str, list]:
    """Values to try for following objects through a volume.

    Args:
        iou_threshold_values: Default: 0.5, 0.6 … 0.9.
        projection_method_values: One or several projections. Default: all five.
        box_extension_values: One or several. Default: 0, 0.025, 0.05 … 0.25.
    """
    return {
        "iou_threshold": iou_threshold_values or [0.5, 0.6, 0.7, 0.8, 0.9],
        "projection": _listed(projection_method_values) or list(_PROJECTIONS),
        "box_extension": _listed(box_extension_values) or [round(0.025 * k, 3) for k in range(11)],
    }


def _listed(values: Any) -> list | None:
    return values if values is None or isinstance(values, list) else [values]


def segment_slices_from_ground_truth(
    volume: np.ndarray,
    ground_truth: np.ndarray,
    model_type: str,
    checkpoint_path: PathLike | None = None,
    embedding_path: PathLike | None = None,
    save_path: PathLike | None = None,
    iou_threshold: float = 0.8,
    projection: str | dict = "mask",
    box_extension: float = 0.025,
    device: str | torch.device | None = None,
    interactive_seg_mode: str = "box",
    verbose: bool = False,
    return_segmentation: bool = False,
    min_size: int = 0,
    evaluation_metric: Metric = "sa",
) -> dict[str, float] | tuple[dict[str, float], np.ndarray]:
    """Prompt every object in the middle slice of its annotation and follow all of them through the volume.

    Args:
        volume: The volume (ZYX).
        ground_truth: Its annotated instances (ZYX).
        model_type: The model, or with a checkpoint its encoder.
        checkpoint_path: The model's file, or None for the registered one.
        embedding_path: Where embeddings are kept (zarr).
        save_path: Where the segmentation is written (.tif or .zarr).
        iou_threshold: An object ends where masks of neighbouring slices overlap by less than this.
        projection: Which prompts are made from the mask of the neighbouring slice.
        box_extension: How much boxes are enlarged.
        device: Where to compute.
        interactive_seg_mode: "box" or "points": the prompt in the middle slice.
        verbose: Show progress bars.
        return_segmentation: Return the segmentation, too.
        min_size: Smaller annotated objects, in voxels, are left out.
        evaluation_metric: "sa" for mSA, SA50 and SA75 over objects, "dice" for the mean Dice score of the objects.

    Returns:
        The scores, and the segmentation (ZYX) with the ids of the annotation if it is asked for.

    Raises:
        ParameterError: Shapes differ, an unknown mode or metric, or no object is left.
    """
    _check(volume, ground_truth, interactive_seg_mode, evaluation_metric)
    from ..models.predictor import get_sam_model

    truth = _without_small(ground_truth, min_size)
    predictor = get_sam_model(model_type, device, checkpoint_path=checkpoint_path)
    embeddings = precompute_image_embeddings(predictor, volume, embedding_path, ndim=3, verbose=verbose)
    start = prompted_slices(predictor, embeddings, truth, interactive_seg_mode)
    settings = PropagationSettings(projection, iou_threshold, box_extension)
    segmentation = propagate(start, predictor, embeddings, settings, verbose=verbose).segmentation
    if save_path is not None:
        write_labels(save_path, segmentation)
    scores = _scores(segmentation, truth, evaluation_metric)
    return (scores, segmentation) if return_segmentation else scores


def _check(volume: np.ndarray, truth: np.ndarray, mode: str, metric: str) -> None:
    if volume.shape != truth.shape or volume.ndim != 3:
        raise ParameterError(f"Expected a volume (ZYX) and labels of its shape, got {volume.shape} and {truth.shape}.")
    if mode not in ("box", "points"):
        raise ParameterError(f"interactive_seg_mode is 'box' or 'points', got {mode!r}.")
    if metric not in ("sa", "dice"):
        raise ParameterError(f"evaluation_metric is 'sa' or 'dice', got {metric!r}.")


def _without_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    ids, sizes = np.unique(labels, return_counts=True)
    kept = ids[(ids > 0) & (sizes >= min_size)]
    if len(kept) == 0:
        raise ParameterError(f"No annotated object has {min_size} voxels or more.")
    return np.where(np.isin(labels, kept), labels, 0)


def prompted_slices(
    predictor: SamPredictor, embeddings: Any, ground_truth: np.ndarray, mode: str
) -> dict[int, dict[int, np.ndarray]]:
    """Each object as the model segments it in the middle slice of its extent: id -> slice -> mask (YX).

    Args:
        predictor: The model.
        embeddings: Embeddings of the volume.
        ground_truth: Annotated instances (ZYX).
        mode: "box" or "points".
    """
    by_slice: dict[int, list[int]] = {}
    for label, window in object_windows(ground_truth).items():
        there = np.flatnonzero((ground_truth[window] == label).any(axis=(1, 2))) + window[0].start
        by_slice.setdefault(int(there[len(there) // 2]), []).append(label)
    found: dict[int, dict[int, np.ndarray]] = {}
    for z, labels in by_slice.items():
        centers, boxes = get_centers_and_bounding_boxes(np.where(np.isin(ground_truth[z], labels), ground_truth[z], 0))
        if mode == "box":
            prompts = {"boxes": np.array([[x0, y0, x1, y1] for y0, x0, y1, x1 in boxes.values()], dtype=float)}
        else:
            points = np.array([[c[::-1]] for c in centers.values()], dtype=float)
            prompts = {"points": points, "point_labels": np.ones((len(points), 1))}
        records = batched_inference(
            predictor, None, 32, embedding_path=embeddings, i=z, return_instance_segmentation=False, **prompts
        )
        for label, record in zip(centers, records):
            if record[0]["area"] > 0:
                found[int(label)] = {z: record[0]["segmentation"]}
    if not found:
        raise ParameterError("The model segments none of the objects in its middle slice.")
    return found


def _scores(segmentation: np.ndarray, truth: np.ndarray, metric: Metric) -> dict[str, float]:
    if metric == "sa":
        return segmentation_scores(segmentation.astype(np.int64), truth.astype(np.int64))
    dice = []
    for label in np.unique(truth[truth > 0]):
        found, true = segmentation == label, truth == label
        dice.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    return {"Dice": float(np.mean(dice))}


def run_multi_dimensional_segmentation_grid_search(
    volume: np.ndarray,
    ground_truth: np.ndarray,
    model_type: str,
    checkpoint_path: PathLike | None,
    embedding_path: PathLike | None,
    result_dir: PathLike,
    interactive_seg_mode: str = "box",
    verbose: bool = False,
    grid_search_values: Mapping[str, Sequence] | None = None,
    min_size: int = 0,
    evaluation_metric: Metric = "sa",
    store_segmentation: bool = False,
) -> str:
    """Score every combination of parameters for following objects through a volume.

    Combinations that are in the table already are not computed again.

    Args:
        volume: The volume (ZYX).
        ground_truth: Its annotated instances (ZYX).
        model_type: The model, or with a checkpoint its encoder.
        checkpoint_path: The model's file, or None for the registered one.
        embedding_path: Where embeddings are kept; ``<result_dir>/embeddings.zarr`` by default.
        result_dir: Receives ``grid_search_results.csv`` and ``grid_search_best_params.json``.
        interactive_seg_mode: "box" or "points": the prompt in the middle slice.
        verbose: Show progress bars of every combination.
        grid_search_values: See `default_grid_search_values_multi_dimensional_segmentation`.
        min_size: Smaller annotated objects, in voxels, are left out.
        evaluation_metric: "sa" or "dice".
        store_segmentation: Keep the segmentation of each combination, as ``segmentation_<number>.tif``.

    Returns:
        The path of the file with the best parameters.
    """
    import pandas as pd

    grid = dict(grid_search_values or default_grid_search_values_multi_dimensional_segmentation())
    folder = Path(result_dir)
    folder.mkdir(parents=True, exist_ok=True)
    table_path = folder / "grid_search_results.csv"
    rows = pd.read_csv(table_path).to_dict("records") if table_path.exists() else []
    known = {row["parameters"] for row in rows}
    embeddings = embedding_path if embedding_path is not None else folder / "embeddings.zarr"
    for number, settings in enumerate(tqdm(list(combinations(grid)), "Grid search")):
        name = json.dumps(settings, sort_keys=True)
        if name in known:
            continue
        save_path = folder / f"segmentation_{number:04}.tif" if store_segmentation else None
        scores = segment_slices_from_ground_truth(
            volume,
            ground_truth,
            model_type,
            checkpoint_path,
            embeddings,
            save_path,
            interactive_seg_mode=interactive_seg_mode,
            verbose=verbose,
            min_size=min_size,
            evaluation_metric=evaluation_metric,
            **settings,
        )
        rows.append({"parameters": name, **scores})
        with replacing(table_path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
    criterion = "mSA" if evaluation_metric == "sa" else "Dice"
    best = max(rows, key=lambda row: row[criterion])
    path = folder / "grid_search_best_params.json"
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps({"parameters": json.loads(best["parameters"]), "score": best[criterion]}, indent=2)
        )
    return str(path)
