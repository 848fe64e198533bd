"""Drawn time series of discs with known tracks, and the measures of the Cell Tracking Challenge."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ctc_metrics import evaluate_sequence

from micro_sam.io import write_ctc

Disc = tuple[float, float, float]
"""Centre (y, x) and radius."""


def draw_discs(
    frames: Sequence[Sequence[Disc | None]], shape: tuple[int, int] = (120, 120), seed: int = 0
) -> np.ndarray:
    """Draw discs with labels that are different in every frame; None draws nothing.

    Returns:
        Labels TYX, uint16. Where discs overlap, a pixel belongs to the one whose centre is nearer.
    """
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[0], : shape[1]]
    labels = np.zeros((len(frames), *shape), np.uint16)
    for frame, discs in enumerate(frames):
        nearest = np.ones(shape)
        for disc, label in zip(discs, rng.permutation(np.arange(1, 200)), strict=False):
            if disc is not None:
                distance = np.hypot(y - disc[0], x - disc[1]) / disc[2]
                labels[frame][distance < nearest] = label
                nearest = np.minimum(nearest, distance)
    return labels


def label_at(labels: np.ndarray, frame: int, place: Sequence[float]) -> int:
    """The label at a place (y, x) of a frame."""
    return int(labels[frame, round(place[0]), round(place[1])])


def labels_along(labels: np.ndarray, discs: Sequence[Disc | None]) -> list[int | None]:
    """The labels of a disc in all frames, None where it was not drawn."""
    return [None if disc is None else label_at(labels, frame, disc) for frame, disc in enumerate(discs)]


def ctc_scores(folder: Path, result: tuple, truth: tuple) -> dict[str, float]:
    """Measures of (labels, lineages) against the true ones, by the package of the challenge's community."""
    (folder / "truth").mkdir(parents=True)
    write_ctc(folder / "result", *result)
    write_ctc(folder / "truth" / "TRA", *truth, reference=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluate_sequence(str(folder / "result"), str(folder / "truth"), ["Valid", "DET", "TRA"], threads=1)
