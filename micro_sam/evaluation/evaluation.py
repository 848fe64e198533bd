"""Compare predicted instances with annotated ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())
"""The IoU thresholds of mSA: 0.5, 0.55 … 0.95."""


def segmentation_scores(
    prediction: np.ndarray, ground_truth: np.ndarray, thresholds: Sequence[float] | None = None
) -> dict[str, float]:
    """Mean segmentation accuracy of one segmentation.

    Segmentation accuracy at an IoU threshold is TP / (TP + FP + FN) over matched objects; mSA is its mean over the
    thresholds (Everingham et al., "The Pascal VOC challenge", 2010; Caicedo et al., 2019, for microscopy).

    Args:
        prediction: Predicted instances, integer, 0 is background.
        ground_truth: Annotated instances of the same shape.
        thresholds: IoU thresholds. Default: `THRESHOLDS`.

    Returns:
        ``mSA``, and with the default thresholds ``SA50`` and ``SA75``; else one ``SA<percent>`` per threshold.

    Raises:
        ParameterError: If the shapes differ or an array does not hold integers.
    """
    from elf.evaluation import mean_segmentation_accuracy

    _check_pair(prediction, ground_truth)
    chosen = list(THRESHOLDS if thresholds is None else thresholds)
    if not ground_truth.any() and not prediction.any():
        accuracies = [1.0] * len(chosen)  # nothing to find and nothing found
    elif not ground_truth.any() or not prediction.any():
        accuracies = [0.0] * len(chosen)
    else:
        accuracies = mean_segmentation_accuracy(prediction, ground_truth, chosen, return_accuracies=True)[1]
    reported = (0.5, 0.75) if thresholds is None else chosen
    each = {f"SA{round(100 * t)}": float(accuracies[chosen.index(t)]) for t in reported}
    return {"mSA": float(np.mean(accuracies)), **each}


def _check_pair(prediction: np.ndarray, ground_truth: np.ndarray) -> None:
    if prediction.shape != ground_truth.shape:
        raise ParameterError(
            f"Prediction and ground truth must have the same shape, got {prediction.shape} and {ground_truth.shape}."
        )
    for name, array in (("prediction", prediction), ("ground truth", ground_truth)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ParameterError(f"The {name} must hold integer object ids, got {array.dtype}.")


def run_evaluation(
    gt_paths: Sequence[np.ndarray | os.PathLike | str],
    prediction_paths: Sequence[np.ndarray | os.PathLike | str],
    save_path: str | os.PathLike | None = None,
    verbose: bool = True,
    thresholds: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Mean scores over pairs of annotated and predicted instances.

    Args:
        gt_paths: Annotated instances, arrays or image files.
        prediction_paths: Predicted instances, in the same order.
        save_path: Where to write the scores as CSV.
        verbose: Show a progress bar.
        thresholds: IoU thresholds. Default: 0.5, 0.55 … 0.95.

    Returns:
        One row with the columns of `segmentation_scores`, each the mean over the pairs.

    Raises:
        ParameterError: If the two lists have different lengths or are empty, or a pair does not match.
    """
    import pandas as pd
    from tqdm import tqdm

    from ..io import replacing

    if len(gt_paths) != len(prediction_paths) or len(gt_paths) == 0:
        raise ParameterError(
            f"Expected as many predictions as ground truths, got {len(prediction_paths)} and {len(gt_paths)}."
        )
    pairs = tqdm(zip(gt_paths, prediction_paths), "Evaluate", len(gt_paths), disable=not verbose)
    scores = pd.DataFrame([segmentation_scores(_load(p), _load(gt), thresholds) for gt, p in pairs])
    result = scores.mean().to_frame().T
    if save_path is not None:
        Path(save_path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(save_path) as temporary:
            result.to_csv(temporary, index=False)
    return result


def _load(source: np.ndarray | os.PathLike | str) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    from ..io import load_image_data

    return np.asarray(load_image_data(os.fspath(source)))


def run_evaluation_for_iterative_prompting(
    gt_paths: Sequence[os.PathLike | str],
    prediction_root: str | os.PathLike,
    experiment_folder: str | os.PathLike,
    start_with_box_prompt: bool = False,
    overwrite_results: bool = False,
    use_masks: bool = False,
) -> pd.DataFrame:
    """Score every round of `run_inference_with_iterative_prompting`.

    Args:
        gt_paths: Annotated instances, in the order and with the file names of the images that were segmented.
        prediction_root: The folder with ``iteration00``, ``iteration01`` …
        experiment_folder: Receives ``results/iterative_prompting_with(out)_mask/iterative_prompts_start_(box|point).csv``.
        start_with_box_prompt: Whether the first prompt was a box; names the file.
        overwrite_results: Compute the scores again although the file is there.
        use_masks: Whether masks were given as prompts; names the folder.

    Returns:
        One row an iteration.

    Raises:
        InputError: There are no results, or those of an image are missing.
    """
    import pandas as pd

    from ..errors import InputError
    from ..io import replacing

    folder = Path(experiment_folder) / "results" / f"iterative_prompting_{'with' if use_masks else 'without'}_mask"
    path = folder / f"iterative_prompts_start_{'box' if start_with_box_prompt else 'point'}.csv"
    if path.exists() and not overwrite_results:
        return pd.read_csv(path, index_col="iteration")
    iterations = sorted(Path(prediction_root).glob("iteration[0-9]*"))
    if not iterations:
        raise InputError(f"There are no folders 'iteration00', … in '{prediction_root}'; run the inference first.")
    rows = [run_evaluation(gt_paths, _predictions_of(gt_paths, i), verbose=False).iloc[0] for i in iterations]
    result = pd.DataFrame(rows).reset_index(drop=True).rename_axis("iteration")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        result.to_csv(temporary)
    return result


def _predictions_of(gt_paths: Sequence[os.PathLike | str], folder: Path) -> list[Path]:
    """The prediction for each annotation: of the same name, or else in the same natural order."""
    from ..errors import InputError
    from ..io import unique_names
    from ..io.paths import natural_order

    expected = [folder / f"{name}.tif" for name in unique_names([Path(p) for p in gt_paths])]
    if all(path.exists() for path in expected):
        return expected
    found = sorted(folder.glob("*.tif"), key=natural_order)
    if len(found) != len(gt_paths):
        raise InputError(f"There are {len(found)} segmentations in '{folder}' for {len(gt_paths)} annotations.")
    order = sorted(range(len(gt_paths)), key=lambda k: natural_order(Path(gt_paths[k])))
    return [path for _, path in sorted(zip(order, found))]
