"""The experiments for automatic segmentation: grid search on validation images, then inference on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..automatic_segmentation import get_predictor_and_segmenter
from .instance_segmentation import (
    Grid,
    Tiling,
    default_grid_search_values_amg,
    default_grid_search_values_apg,
    default_grid_search_values_instance_segmentation_with_decoder,
    run_instance_segmentation_grid_search_and_inference,
)
from .pairs import PathLike

_FOLDERS = {"amg": "amg", "ais": "instance_segmentation_with_decoder", "apg": "apg"}


def run_amg(
    checkpoint: PathLike | None,
    model_type: str,
    experiment_folder: PathLike,
    val_image_paths: Sequence[PathLike],
    val_gt_paths: Sequence[PathLike],
    test_image_paths: Sequence[PathLike],
    iou_thresh_values: list[float] | None = None,
    stability_score_values: list[float] | None = None,
    peft_kwargs: Mapping[str, Any] | None = None,
    cache_embeddings: bool = False,
    tiling_window_params: Tiling | None = None,
) -> str:
    """Automatic mask generation with the thresholds that are best on the validation images.

    Args:
        checkpoint: The model's file, or None for the registered one.
        model_type: The model, or with a checkpoint its encoder.
        experiment_folder: Where everything is written, below ``amg``.
        val_image_paths: Images to search on.
        val_gt_paths: Their annotated instances.
        test_image_paths: Images to segment.
        iou_thresh_values: See `default_grid_search_values_amg`.
        stability_score_values: See `default_grid_search_values_amg`.
        peft_kwargs: How the checkpoint was finetuned parameter-efficiently.
        cache_embeddings: Keep the embeddings in the experiment's folder.
        tiling_window_params: ``tile_shape`` and ``halo`` to segment in tiles.

    Returns:
        The folder with the segmentations.
    """
    grid = default_grid_search_values_amg(iou_thresh_values, stability_score_values)
    images = (val_image_paths, val_gt_paths, test_image_paths)
    model = (checkpoint, model_type, peft_kwargs)
    return _run("amg", model, experiment_folder, images, grid, cache_embeddings, tiling_window_params)


def run_instance_segmentation_with_decoder(
    checkpoint: PathLike | None,
    model_type: str,
    experiment_folder: PathLike,
    val_image_paths: Sequence[PathLike],
    val_gt_paths: Sequence[PathLike],
    test_image_paths: Sequence[PathLike],
    peft_kwargs: Mapping[str, Any] | None = None,
    cache_embeddings: bool = False,
    tiling_window_params: Tiling | None = None,
) -> str:
    """AIS with the parameters that are best on the validation images; arguments and result as in `run_amg`."""
    grid = default_grid_search_values_instance_segmentation_with_decoder()
    images = (val_image_paths, val_gt_paths, test_image_paths)
    model = (checkpoint, model_type, peft_kwargs)
    return _run("ais", model, experiment_folder, images, grid, cache_embeddings, tiling_window_params)


def run_apg(
    checkpoint: PathLike | None,
    model_type: str,
    experiment_folder: PathLike,
    val_image_paths: Sequence[PathLike],
    val_gt_paths: Sequence[PathLike],
    test_image_paths: Sequence[PathLike],
    peft_kwargs: Mapping[str, Any] | None = None,
    cache_embeddings: bool = False,
    tiling_window_params: Tiling | None = None,
) -> str:
    """APG with the parameters that are best on the validation images; arguments and result as in `run_amg`."""
    grid = default_grid_search_values_apg()
    images = (val_image_paths, val_gt_paths, test_image_paths)
    model = (checkpoint, model_type, peft_kwargs)
    return _run("apg", model, experiment_folder, images, grid, cache_embeddings, tiling_window_params)


def _run(
    mode: str,
    model: tuple[PathLike | None, str, Mapping[str, Any] | None],
    experiment_folder: PathLike,
    images: tuple[Sequence[PathLike], Sequence[PathLike], Sequence[PathLike]],
    grid: Grid,
    cache_embeddings: bool,
    tiling: Tiling | None,
) -> str:
    checkpoint, model_type, peft_kwargs = model
    segmenter = get_segmenter(mode, checkpoint, model_type, peft_kwargs, tiling is not None)
    root = Path(experiment_folder)
    folder = root / _FOLDERS[mode]
    prediction_dir = folder / "inference"
    run_instance_segmentation_grid_search_and_inference(
        segmenter,
        grid,
        *images,
        root / "embeddings" if cache_embeddings else None,
        prediction_dir,
        folder,
        folder / "grid_search",
        verbose_gs=False,
        tiling_window_params=tiling,
    )
    return str(prediction_dir)


def get_segmenter(
    mode: str,
    checkpoint: PathLike | None,
    model_type: str,
    peft_kwargs: Mapping[str, Any] | None = None,
    is_tiled: bool = False,
) -> Any:
    """What segments images with a model in a mode ("amg", "ais", "apg")."""
    from ..models.predictor import get_sam_model

    predictor = get_sam_model(model_type, checkpoint_path=checkpoint, peft_kwargs=peft_kwargs)
    return get_predictor_and_segmenter(model_type, predictor=predictor, segmentation_mode=mode, is_tiled=is_tiled)[1]
