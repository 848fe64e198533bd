"""From any microscopy image to the 8 bit RGB image that the encoder expects: contrast and channels.

Contrast (``normalization``):

``minmax``
    The default, compatible with micro-sam 1.x. Every image, of 8 bit too, is scaled from its own finite minimum and
    maximum to 0-255, over all channels together; "image" is what the encoder sees: the whole image, a slice of a
    volume, or a tile with its halo.
``robust``
    One range for the whole image or volume, so that all slices and tiles share it: the percentiles 0.1 and 99.9 of
    all finite pixels. Values outside are clipped. Empty tiles stay empty.

In both, NaN and minus infinity become 0, plus infinity becomes 255.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from micro_sam.embeddings.source import ImageSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NormalizationRange:
    """The intensities that become 0 (low) and 255 (high)."""

    low: float
    high: float

    @classmethod
    def of(cls, array: np.ndarray) -> NormalizationRange:
        """The finite minimum and maximum of an array; (0, 0) if nothing in it is finite."""
        array = _native(array)
        finite = array if array.dtype.kind != "f" else array[np.isfinite(array)]
        if finite.size == 0:
            logger.warning("An image of shape %s has no finite pixel, it is taken as empty.", array.shape)
            return cls(0.0, 0.0)
        return cls(float(finite.min()), float(finite.max()))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Scale an array to uint8, clipping what lies outside the range. An empty range gives zeros below and at it.

        Args:
            array: Any numeric array.

        Returns:
            An array of the same shape, uint8.
        """
        low, high = self.low, self.high
        if array.dtype == np.uint8 and (low, high) == (0, 255):
            return array
        values = _native(array).astype(_working_dtype(array.dtype, high - low), copy=True)
        if not np.isfinite(high - low):  # the span itself overflows
            values, low, high = values * 0.25, low * 0.25, high * 0.25
        span = high - low
        with np.errstate(invalid="ignore", over="ignore"):
            values -= low
            values /= span if span > 0 else 1.0
            values *= 255.0
        if span <= 0:  # constant: only what lies strictly above the constant is bright
            values = np.where(values > 0, 255.0, 0.0)
        values = np.nan_to_num(values, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        return np.clip(values, 0, 255, out=values).astype(np.uint8)


def validate_image(array: Any, ndim: int | None = None) -> ImageSource:
    """Check that something can be segmented, without reading it.

    Args:
        array: An array with axes YX, YXC, ZYX or ZYXC.
        ndim: 2, 3 or None to infer it.

    Returns:
        The image, wrapped for reading piece by piece.

    Raises:
        ImageError: With one sentence saying what is wrong.
    """
    return ImageSource.from_input(array, ndim)


def to_image(array: Any, normalization_range: NormalizationRange | None = None) -> np.ndarray:
    """Make the 8 bit RGB image that the encoder sees.

    Args:
        array: An image with axes YX or YXC and any numeric dtype. One channel is repeated; with two channels the third
            stays empty; of more than three the first three are used, with a warning.
        normalization_range: The intensities for black and white. By default the finite minimum and maximum.

    Returns:
        The image, shape (H, W, 3), uint8, contiguous.

    Raises:
        ImageError: If it is not an image, is empty or not numeric.
    """
    return convert_plane(ImageSource.from_input(array, ndim=2).read(), normalization_range)


def convert_plane(plane: np.ndarray, normalization_range: NormalizationRange | None = None) -> np.ndarray:
    """`to_image` for a plane that `ImageSource.read` returned: at most three channels, already checked."""
    return _three_channels((normalization_range or NormalizationRange.of(plane)).apply(plane))


def _three_channels(plane: np.ndarray) -> np.ndarray:
    if plane.ndim == 2:
        plane = plane[..., None]
    if plane.shape[-1] == 2:
        plane = np.concatenate([plane, np.zeros_like(plane[..., :1])], axis=-1)
    if plane.shape[-1] == 1:
        plane = np.repeat(plane, 3, axis=-1)
    return np.ascontiguousarray(plane)


def _native(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _working_dtype(dtype: np.dtype, span: float) -> type:
    """float32 where it is exact enough, float64 for wide integers, doubles and extreme ranges."""
    narrow = dtype.itemsize <= 2 or dtype == np.float32
    return np.float32 if narrow and 1e-30 < span < 1e37 else np.float64
