"""Labels of another pixel size than the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from micro_sam.errors import InputError


def check_size(found: Sequence[int], expected: Sequence[int], scale: float, path: Path) -> None:
    """Check height and width of what a file holds, already scaled; a scale moves them by less than a pixel.

    Raises:
        InputError: They do not fit; the message names a scale that would.
    """
    if all(abs(f - e) < max(1, scale) for f, e in zip(found, expected)) and (
        scale != 1 or tuple(found) == tuple(expected)
    ):
        return
    ratios = [scale * e / f for f, e in zip(found, expected) if f]
    fits = len(ratios) == 2 and abs(ratios[0] - ratios[1]) < 0.02 * ratios[0]
    advice = f"with the scale {ratios[0]:.4g} they fit" if fits else "choose the labels of this image"
    raise InputError(
        f"'{path}' belongs to an image of {_times(found)} pixels, but this one has {_times(expected)}; {advice}."
    )


def fitted(labels: np.ndarray, shape: Sequence[int] | None, scale: float, path: Path) -> np.ndarray:
    """Labels with the pixels of the image; each pixel gets the label that its centre lies on.

    Args:
        labels: Labels YX, ZYX or TYX.
        shape: The shape of the image, None if it is not known.
        scale: How many of its pixels one pixel of the labels is wide.
        path: The file, for messages.

    Raises:
        InputError: They do not fit the image.
    """
    scaled = tuple(round(size * scale) for size in labels.shape[-2:])
    if shape is not None:
        if labels.ndim != len(shape) or labels.shape[:-2] != tuple(shape[:-2]):
            raise InputError(
                f"'{path}' holds labels of the shape {_times(labels.shape)}, but the image has {_times(shape)}; choose the "
                "labels of this image."
            )
        check_size(scaled, shape[-2:], scale, path)
        scaled = tuple(shape[-2:])
    if scale == 1:
        return labels
    places = [
        np.minimum(((np.arange(new) + 0.5) / scale).astype(int), old - 1) for new, old in zip(scaled, labels.shape[-2:])
    ]
    return labels[(..., *np.ix_(*places))]


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
