"""Images with two kinds of nuclei, for tests of the object classifier."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from micro_sam.labels import object_windows
from micro_sam.object_classification import ObjectClass
from micro_sam.sample_data import synthetic_data

FIRST, SECOND = 1, 2
_LARGE, _SMALL = 220, 130
CLASSES = (ObjectClass(FIRST, "first", "#e6194b"), ObjectClass(SECOND, "second", "#4363d8"))


def two_kinds(kind: str, seed: int, shape: tuple[int, ...] = (256, 256)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nuclei of which about half are of another kind.

    Args:
        kind: "brightness" (the second are darker) or "size" (the second are smaller).
        seed: Seed of the random numbers.
        shape: The shape.

    Returns:
        The image, its labels, and the class of each object in ascending order of ids.
    """
    image, labels = synthetic_data(shape, seed=seed, diameter=22 if len(shape) == 2 else 14, density=0.4, noise=0.02)
    rng = np.random.default_rng(seed)
    made, background = image.astype(float), float(np.median(image[labels == 0]))
    classes = []
    for label, window in list(object_windows(labels).items()):
        mask = labels[window] == label
        is_second = rng.random() < 0.5
        if kind == "brightness":
            made[window][mask] = background + (0.25 if is_second else 1) * (made[window][mask] - background)
        else:
            kept = _shrunk(mask) if is_second else mask if mask.sum() > _LARGE else np.zeros_like(mask)
            labels[window][mask & ~kept] = 0
            made[window][mask & ~kept] = background
            if not kept.any():
                continue
        classes.append(SECOND if is_second else FIRST)
    return np.clip(made, 0, 255).astype(np.uint8), labels, np.array(classes)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """Its inner part, no larger than a small nucleus."""
    kept = np.pad(mask, 1)
    while kept.sum() > _SMALL:
        kept = ndimage.binary_erosion(kept)
    return kept[(slice(1, -1),) * mask.ndim]


def a_few_of_each(classes: np.ndarray, n: int = 6) -> np.ndarray:
    """The places of the first objects of each class."""
    return np.concatenate([np.flatnonzero(classes == found)[:n] for found in (FIRST, SECOND)])
