"""A picture of an image with the outlines of its objects, to look at."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from micro_sam.errors import OutputError, ParameterError
from micro_sam.io.paths import check_folder_of, replacing

_PERCENTILES = (0.5, 99.5)
_SMALL = 512
_LARGE = 2048
_GOLDEN_RATIO = 0.618034


def check_overlay_path(path: str | os.PathLike) -> None:
    """Raise an `OutputError` if an overlay cannot be written to a path."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"The overlay is a PNG picture, but its path is '{path}'; give it the suffix .png.")
    check_folder_of(path)
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder, expected the name of a file to write; choose another path.")


def write_overlay(path: str | os.PathLike, image: np.ndarray, labels: np.ndarray) -> None:
    """Write `draw_overlay` as a PNG; raises `OutputError` if that is not possible."""
    import imageio.v3 as iio

    check_overlay_path(path)
    picture = draw_overlay(image, labels)
    with replacing(path) as temporary:
        temporary.write_bytes(iio.imwrite("<bytes>", picture, extension=".png"))


def draw_overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw the outline of each object in a colour of its own over a contrast-stretched image.

    Args:
        image: ``YX`` or ``YXC``; of a volume ``ZYX`` or ``ZYXC`` the middle slice is drawn.
        labels: Integer labels of the same spatial shape.

    Returns:
        RGB picture, uint8, ``YXC``. Small images are enlarged by a whole factor so that outlines do not cover objects.
    """
    if labels.ndim == 3:
        image, labels = image[len(labels) // 2], labels[len(labels) // 2]
    if image.shape[:2] != labels.shape:
        raise ParameterError(
            f"Image and labels must cover the same pixels, got shapes {image.shape} and {labels.shape}."
        )
    picture = _to_rgb(np.asarray(image))
    factor = max(1, _SMALL // max(1, max(labels.shape)))
    picture, labels = (np.repeat(np.repeat(array, factor, 0), factor, 1) for array in (picture, labels))
    outline = _outlines(labels, thickness=1 if max(labels.shape) < _LARGE else max(labels.shape) // 1024)
    picture[outline] = _colours(labels[outline])
    return picture


def _to_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] in (1, 2):
        image = image[..., 0]
    elif image.ndim == 3:
        image = image[..., :3]
    if image.dtype != np.uint8 or image.ndim == 2:
        image = _stretch(image.astype(np.float32))
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else np.array(image)


def _stretch(image: np.ndarray) -> np.ndarray:
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return np.zeros(image.shape, np.uint8)
    low, high = np.percentile(finite, _PERCENTILES)
    scaled = (np.nan_to_num(image, nan=low) - low) / max(float(high - low), 1e-12)
    return (255 * scaled.clip(0, 1)).astype(np.uint8)


def _outlines(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels inside an object that have another label (or the picture's edge, which does not count) next to them."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = 2 * thickness + 1
    differs = maximum_filter(labels, size, mode="nearest") != minimum_filter(labels, size, mode="nearest")
    return differs & (labels > 0)


def _colours(ids: np.ndarray) -> np.ndarray:
    """Bright colours, far apart for neighbouring ids."""
    hue = (ids.astype(np.float64) * _GOLDEN_RATIO % 1.0)[..., None]
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return (255 * (0.15 + 0.85 * wheel.clip(0, 1))).astype(np.uint8)
