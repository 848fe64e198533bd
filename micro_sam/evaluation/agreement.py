"""How much two people agree: the yardstick for what a model can be expected to reach."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ParameterError
from .evaluation import _load, segmentation_scores

if TYPE_CHECKING:
    import pandas as pd


def annotator_agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compare the labels of two people, neither of whom is the truth.

    Args:
        first: Instances, integer, 0 is background.
        second: Instances of the same shape.

    Returns:
        ``mSA``, ``SA50`` and ``SA75``, which do not depend on the order; ``objects_first`` and ``objects_second``;
        ``matched`` objects with an IoU of at least 0.5 and their ``mean_iou``; ``foreground_dice``.
    """
    scores = segmentation_scores(first, second)
    ious = matched_ious(first, second)
    foreground = (first > 0).sum() + (second > 0).sum()
    dice = 2 * ((first > 0) & (second > 0)).sum() / foreground if foreground else 1.0
    counts = [len(np.unique(labels[labels > 0])) for labels in (first, second)]
    return {
        **scores,
        "objects_first": counts[0],
        "objects_second": counts[1],
        "matched": len(ious),
        "mean_iou": float(np.mean(ious)) if len(ious) else float("nan"),
        "foreground_dice": float(dice),
    }


def matched_ious(first: np.ndarray, second: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """IoU of all pairs of objects that overlap by more than the threshold; at 0.5 or more an object has at most one."""
    if threshold < 0.5:
        raise ParameterError(f"Below an IoU of 0.5 matches are not unique, got {threshold}.")
    ids_first, compact_first = np.unique(first, return_inverse=True)
    ids_second, compact_second = np.unique(second, return_inverse=True)
    pairs = compact_first.ravel().astype(np.int64) * len(ids_second) + compact_second.ravel()
    found, overlap = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(found, len(ids_second))
    sizes_first, sizes_second = (np.bincount(c.ravel()) for c in (compact_first, compact_second))
    iou = overlap / (sizes_first[rows] + sizes_second[columns] - overlap)
    return iou[(ids_first[rows] > 0) & (ids_second[columns] > 0) & (iou > threshold)]


def run_annotator_agreement(
    first_paths: Sequence[np.ndarray | os.PathLike | str],
    second_paths: Sequence[np.ndarray | os.PathLike | str],
    save_path: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """`annotator_agreement` of several images.

    Args:
        first_paths: Instances of the one person, arrays or files.
        second_paths: Instances of the other, in the same order.
        save_path: Where to write the table as CSV.

    Returns:
        One row an image, indexed by the name of the first person's file.

    Raises:
        ParameterError: The lists have different lengths or are empty.
    """
    import pandas as pd

    from ..io import replacing

    if len(first_paths) != len(second_paths) or len(first_paths) == 0:
        raise ParameterError(f"Expected as many labels of both people, got {len(first_paths)} and {len(second_paths)}.")
    names = [k if isinstance(p, np.ndarray) else Path(p).name for k, p in enumerate(first_paths)]
    rows = [annotator_agreement(_load(a), _load(b)) for a, b in zip(first_paths, second_paths)]
    table = pd.DataFrame(rows, index=pd.Index(names, name="image"))
    if save_path is not None:
        with replacing(save_path) as temporary:
            table.to_csv(temporary)
    return table
