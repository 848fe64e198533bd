"""The experiments on LIVECell (Edlund et al., Nature Methods 2021), scored for each cell type.

The data lies as torch-em's ``get_livecell_data`` puts it: ``images/livecell_test_images`` with the images (directly or
in a folder a cell type) and ``annotations/livecell_test_images/<cell type>``, and the same with ``train_val``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..io import replacing
from ..models.predictor import SamPredictor, get_sam_model
from ..models.spec import DEFAULT_MODEL
from .automatic import get_segmenter
from .evaluation import run_evaluation
from .experiments import get_experiment_setting_name
from .inference import (
    precompute_all_embeddings,
    run_inference_with_iterative_prompting,
    run_inference_with_prompts,
)
from .instance_segmentation import (
    Grid,
    default_grid_search_values_amg,
    default_grid_search_values_instance_segmentation_with_decoder,
    run_instance_segmentation_grid_search_and_inference,
)
from .pairs import PathLike

if TYPE_CHECKING:
    import pandas as pd

CELL_TYPES = ("A172", "BT474", "BV2", "Huh7", "MCF7", "SHSY5Y", "SkBr3", "SKOV3")


def livecell_paths(
    input_folder: PathLike, split: str = "test", n_val_per_cell_type: int | None = None
) -> tuple[list[Path], list[Path]]:
    """Images and annotations of LIVECell.

    Args:
        input_folder: The folder of the data set.
        split: "test", or "train_val".
        n_val_per_cell_type: Take only that many of each cell type, evenly spread.

    Raises:
        InputError: There is no image, or an annotation has no image.
    """
    root, part = Path(input_folder), f"livecell_{split}_images"
    images, labels = [], []
    for cell_type in CELL_TYPES:
        found = sorted((root / "annotations" / part / cell_type).glob("*.tif"))
        step = 1 if n_val_per_cell_type is None else max(1, len(found) // n_val_per_cell_type)
        chosen = found[::step][:n_val_per_cell_type]
        labels += chosen
        images += [_image_of(root / "images" / part, path) for path in chosen]
    if not images:
        raise InputError(f"There are no annotations in '{root / 'annotations' / part}'; expected a folder a cell type.")
    return images, labels


def _image_of(folder: Path, label_path: Path) -> Path:
    for candidate in (folder / label_path.name, folder / label_path.parent.name / label_path.name):
        if candidate.exists():
            return candidate
    raise InputError(f"The annotation '{label_path}' has no image of the same name in '{folder}'.")


def run_livecell_precompute_embeddings(
    checkpoint: PathLike | None,
    input_folder: PathLike,
    model_type: str,
    experiment_folder: PathLike,
    n_val_per_cell_type: int = 25,
) -> None:
    """Compute the embeddings of the test images and of some validation images.

    Args:
        checkpoint: The model's file, or None for the registered one.
        input_folder: The folder of the data set.
        model_type: The model, or with a checkpoint its encoder.
        experiment_folder: Its ``embeddings`` folder receives them.
        n_val_per_cell_type: Validation images of each cell type.
    """
    predictor = get_sam_model(model_type, checkpoint_path=checkpoint)
    for split, name, count in (("test", "test", None), ("train_val", "val", n_val_per_cell_type)):
        folder = Path(experiment_folder) / "embeddings" / name
        precompute_all_embeddings(predictor, livecell_paths(input_folder, split, count)[0], folder)


def livecell_inference(
    checkpoint: PathLike | None,
    input_folder: PathLike,
    model_type: str,
    experiment_folder: PathLike,
    use_points: bool,
    use_boxes: bool,
    n_positives: int | None = None,
    n_negatives: int | None = None,
    prompt_folder: PathLike | None = None,
    predictor: SamPredictor | None = None,
) -> None:
    """Segment the test images from prompts made of their annotations.

    Args:
        checkpoint: The model's file, or None for the registered one.
        input_folder: The folder of the data set.
        model_type: The model, or with a checkpoint its encoder.
        experiment_folder: Receives ``embeddings`` and a folder for the setting with the segmentations.
        use_points: Give points.
        use_boxes: Give the bounding box.
        n_positives: Positive points for each object; 1 by default, 0 without points.
        n_negatives: Negative points; 0 by default.
        prompt_folder: Where prompts are kept; ``<experiment_folder>/prompts`` by default.
        predictor: A loaded model to use instead.
    """
    predictor = predictor or get_sam_model(model_type, checkpoint_path=checkpoint)
    images, labels = livecell_paths(input_folder)
    setting = {
        "use_points": use_points,
        "use_boxes": use_boxes,
        "n_positives": (1 if n_positives is None else n_positives) if use_points else 0,
        "n_negatives": n_negatives or 0,
    }
    root = Path(experiment_folder)
    run_inference_with_prompts(
        predictor,
        images,
        labels,
        root / "embeddings" / "test",
        root / get_experiment_setting_name(setting),
        **setting,
        prompt_save_dir=prompt_folder if prompt_folder is not None else root / "prompts",
    )


def run_livecell_iterative_prompting(
    checkpoint: PathLike | None,
    input_folder: PathLike,
    model_type: str,
    experiment_folder: PathLike,
    start_with_box: bool = False,
    use_masks: bool = False,
) -> str:
    """Segment the test images by prompts that are corrected; returns the folder with an ``iteration..`` folder a round."""
    predictor = get_sam_model(model_type, checkpoint_path=checkpoint)
    images, labels = livecell_paths(input_folder)
    root = Path(experiment_folder)
    folder = root / ("start_with_box" if start_with_box else "start_with_point")
    run_inference_with_iterative_prompting(
        predictor, images, labels, root / "embeddings" / "test", folder, start_with_box, use_masks=use_masks
    )
    return str(folder)


def run_livecell_amg(
    checkpoint: PathLike | None,
    input_folder: PathLike,
    model_type: str,
    experiment_folder: PathLike,
    iou_thresh_values: list[float] | None = None,
    stability_score_values: list[float] | None = None,
    verbose_gs: bool = False,
    n_val_per_cell_type: int = 25,
) -> str:
    """AMG with the thresholds that are best on validation images; returns the folder with the segmentations."""
    grid = default_grid_search_values_amg(iou_thresh_values, stability_score_values)
    model = (checkpoint, model_type)
    return _automatic("amg", model, input_folder, experiment_folder, grid, verbose_gs, n_val_per_cell_type)


def run_livecell_instance_segmentation_with_decoder(
    checkpoint: PathLike | None,
    input_folder: PathLike,
    model_type: str,
    experiment_folder: PathLike,
    center_distance_threshold_values: list[float] | None = None,
    boundary_distance_threshold_values: list[float] | None = None,
    distance_smoothing_values: list[float] | None = None,
    min_size_values: list[float] | None = None,
    verbose_gs: bool = False,
    n_val_per_cell_type: int = 25,
) -> str:
    """AIS with the parameters that are best on validation images; returns the folder with the segmentations."""
    grid = default_grid_search_values_instance_segmentation_with_decoder(
        center_distance_threshold_values, boundary_distance_threshold_values, distance_smoothing_values, min_size_values
    )
    model = (checkpoint, model_type)
    return _automatic("ais", model, input_folder, experiment_folder, grid, verbose_gs, n_val_per_cell_type)


def _automatic(
    mode: str,
    model: tuple[PathLike | None, str],
    input_folder: PathLike,
    experiment_folder: PathLike,
    grid: Grid,
    verbose_gs: bool,
    n_val: int,
) -> str:
    root = Path(experiment_folder)
    predictions = root / mode / "inference"
    run_instance_segmentation_grid_search_and_inference(
        get_segmenter(mode, *model),
        grid,
        *livecell_paths(input_folder, "train_val", n_val),
        livecell_paths(input_folder)[0],
        root / "embeddings",
        predictions,
        root / mode,
        root / mode / "grid_search",
        verbose_gs=verbose_gs,
    )
    return str(predictions)


def evaluate_livecell(input_folder: PathLike, prediction_folder: PathLike) -> pd.DataFrame:
    """Scores of each cell type and of all test images.

    Args:
        input_folder: The folder of the data set.
        prediction_folder: Segmentations with the names of the images.

    Raises:
        InputError: The segmentation of an image is missing.
    """
    import pandas as pd

    _, labels = livecell_paths(input_folder)
    predictions = [Path(prediction_folder) / path.name for path in labels]
    missing = [path for path in predictions if not path.exists()]
    if missing:
        raise InputError(f"{len(missing)} of {len(predictions)} segmentations are missing, such as '{missing[0]}'.")
    groups = {"all": list(range(len(labels)))}
    for k, path in enumerate(labels):
        groups.setdefault(path.parent.name, []).append(k)
    rows = {
        name: run_evaluation([labels[k] for k in which], [predictions[k] for k in which], verbose=False).iloc[0]
        for name, which in groups.items()
    }
    return pd.DataFrame(rows).T.rename_axis("cell_type")


def _parser(task: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"{task} on LIVECell.")
    parser.add_argument("-i", "--input", required=True, help="The folder of the data set.")
    parser.add_argument("-e", "--experiment_folder", required=True, help="Where the experiments are written.")
    return parser


def run_livecell_inference(argv: Sequence[str] | None = None) -> None:
    """Command line for one experiment on the test images: a set of prompts, AMG or AIS."""
    parser = _parser("Run an experiment")
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help="The model, or with a checkpoint its encoder.")
    parser.add_argument("-c", "--ckpt", help="The model's file.")
    parser.add_argument("--amg", action="store_true", help="Automatic mask generation.")
    parser.add_argument("--ais", action="store_true", help="Instance segmentation with the decoder.")
    parser.add_argument("--points", action="store_true", help="Prompt with points.")
    parser.add_argument("--boxes", action="store_true", help="Prompt with boxes.")
    parser.add_argument("-p", "--positive", type=int, default=1, help="Positive points for each object.")
    parser.add_argument("-n", "--negative", type=int, default=0, help="Negative points for each object.")
    args = parser.parse_args(argv)
    common = (args.ckpt, args.input, args.model, args.experiment_folder)
    if args.amg:
        run_livecell_amg(*common)
    if args.ais:
        run_livecell_instance_segmentation_with_decoder(*common)
    if args.points or args.boxes:
        livecell_inference(*common, args.points, args.boxes, args.positive, args.negative)
    if not (args.amg or args.ais or args.points or args.boxes):
        parser.error("choose at least one of --amg, --ais, --points and --boxes")


def run_livecell_evaluation(argv: Sequence[str] | None = None) -> None:
    """Command line that scores a folder of segmentations of the test images and writes ``scores.csv`` beside it."""
    parser = _parser("Score segmentations")
    parser.add_argument("-p", "--prediction_folder", required=True, help="The folder with the segmentations.")
    args = parser.parse_args(argv)
    table = evaluate_livecell(args.input, args.prediction_folder)
    path = Path(args.experiment_folder) / "results" / f"{Path(args.prediction_folder).name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_csv(temporary)
