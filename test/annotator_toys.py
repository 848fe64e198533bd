"""Images with known objects, for tests of the annotators."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import binary_dilation

from micro_sam.labels import interior_point
from micro_sam.sample_data import synthetic_data

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


@cache
def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """Four slices of nuclei and the labels 1 to 4 of some of them; the first is missing in the lowest slice."""
    image, truth = (array[5:9] for array in synthetic_data((16, 256, 256), seed=3, diameter=30))
    labels = np.zeros_like(truth)
    for label, number in enumerate((1, 3, 6, 9), start=1):
        labels[truth == number] = label
    image, gone = image.copy(), binary_dilation(labels[0] == 1, iterations=4)
    image[0][gone] = np.median(image[0][truth[0] == 0])
    labels[0][labels[0] == 1] = 0
    return image, labels


def place(label: int) -> tuple[int, int]:
    """The middle of an object."""
    return tuple(int(v) for v in interior_point(nuclei()[1][2] == label))
