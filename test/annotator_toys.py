"""Images with known objects, for tests of the annotators."""

from __future__ import annotations

import numpy as np

SIDE = 192
#: Four bright discs: (y, x, radius) by label.
DISCS = {1: (50, 50, 24), 2: (50, 140, 28), 3: (140, 60, 30), 4: (140, 145, 20)}


def discs(side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on a dark background, and their labels."""
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint32)
    for label, (cy, cx, radius) in DISCS.items():
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = label
    noise = np.random.default_rng(0).normal(0, 4, labels.shape)
    image = np.where(labels > 0, 190, 40) + noise
    return np.clip(image, 0, 255).astype(np.uint8), labels


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    mask, other = mask != 0, other != 0
    return float((mask & other).sum() / max(1, (mask | other).sum()))
