"""Nuclei whose labels have known errors, for tests of the review."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from micro_sam.labels import interior_point
from micro_sam.sample_data import synthetic_data

Errors = dict[str, int]


def inner_labels(labels: np.ndarray) -> list[int]:
    """Objects of a usual size away from the edge of the image."""
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    areas = np.bincount(labels.ravel())
    usual = np.median(areas[1:])
    return [int(label) for label in np.unique(labels) if label not in edge and areas[label] > 0.6 * usual]


def with_errors(labels: np.ndarray) -> tuple[np.ndarray, Errors]:
    """Merge two neighbours, cut one object in half, widen one, invent one.

    Returns:
        The labels, and which of them is wrong by what is wrong with it.
    """
    wrong = labels.copy()
    inner = inner_labels(labels)
    first, second = _neighbours(labels, inner)
    pair = np.isin(labels, (first, second))
    wrong[ndimage.binary_closing(pair, iterations=4) & ((labels == 0) | pair)] = first
    cut, wide = [label for label in inner if label not in (first, second)][:2]
    x = int(interior_point(labels == cut)[1])
    wrong[(labels == cut) & (np.arange(labels.shape[1])[None] > x)] = 0
    wrong[ndimage.binary_dilation(labels == wide, iterations=5) & (wrong == 0)] = wide
    far = ndimage.distance_transform_edt(wrong == 0)
    invented = int(labels.max()) + 1
    rows, columns = np.indices(labels.shape)
    y, x = np.unravel_index(far.argmax(), far.shape)
    radius = min(0.9 * far.max(), np.sqrt(np.median(np.bincount(labels.ravel())[1:]) / np.pi))
    wrong[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = invented
    return wrong, {"merged": first, "cut": cut, "widened": wide, "invented": invented}


def _neighbours(labels: np.ndarray, inner: list[int]) -> tuple[int, int]:
    for first in inner:
        around = set(labels[ndimage.binary_dilation(labels == first, iterations=4)].tolist())
        for second in inner:
            if second in around and second != first:
                return first, second
    raise AssertionError("No two objects are near each other.")


@cache
def nuclei_with_errors(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, Errors]:
    """An image of 46 nuclei, its labels, labels with errors, and which these are."""
    image, labels = synthetic_data((384, 384), seed=seed, diameter=40, density=0.4)
    return image, labels, *with_errors(labels)


@cache
def small_with_errors() -> tuple[np.ndarray, np.ndarray, np.ndarray, Errors]:
    """The same with fewer nuclei."""
    image, labels = synthetic_data((256, 256), seed=0, diameter=40, density=0.4)
    return image, labels, *with_errors(labels)
