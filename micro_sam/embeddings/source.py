"""Read an image or volume piece by piece, whatever holds it: numpy, memory map, dask, zarr or HDF5."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from micro_sam.errors import ImageError

MAX_CHANNELS = 4  # a last axis up to this size is taken for channels when ndim is not given
_LONG_SIDE = 1024
_READ_BYTES = 32 * 2**20


def infer_ndim(shape: tuple[int, ...], ndim: int | None = None) -> int:
    """How many spatial dimensions an array has: 2 (YX, YXC) or 3 (ZYX, TYX, ZYXC, TYXC).

    Args:
        shape: The array's shape.
        ndim: What the caller says, or None. Without it a last axis of at most four is taken for channels.

    Raises:
        ImageError: If the shape does not fit ndim, or could be either.
    """
    dims = len(shape)
    if ndim not in (None, 2, 3):
        raise ImageError(f"Expected ndim to be 2 (image), 3 (volume or time series) or None, got {ndim!r}.")
    if dims not in ((2, 3, 4) if ndim is None else (ndim, ndim + 1)):
        expected = {2: "YX or YXC", 3: "ZYX or ZYXC", None: "YX, YXC, ZYX or ZYXC"}[ndim]
        raise ImageError(
            f"Expected an array with axes {expected}{_for(ndim)}, got shape {shape}; pass one image of it."
        )
    if dims == 3 and ndim is None:
        _refuse_ambiguous(shape)
    has_channels = dims == 4 or (dims == 3 and (ndim == 2 or (ndim is None and shape[-1] <= MAX_CHANNELS)))
    if has_channels:
        _check_channels(shape)
    return dims - 1 if has_channels else dims


def _for(ndim: int | None) -> str:
    return "" if ndim is None else f" for ndim={ndim}"


def _refuse_ambiguous(shape: tuple[int, ...]) -> None:
    if MAX_CHANNELS < shape[-1] <= 10 and min(shape[:2]) >= 4 * shape[-1]:
        raise ImageError(
            f"The shape {shape} could be an image with {shape[-1]} channels or a volume; say which with ndim=2 or ndim=3."
        )


def _check_channels(shape: tuple[int, ...]) -> None:
    many = shape[-1] > 4 * MAX_CHANNELS
    if many and len(shape) == 4:
        raise ImageError(f"Expected ZYX, or ZYXC with few channels, got shape {shape}; pass one volume or time point.")
    if many and shape[0] <= MAX_CHANNELS:
        raise ImageError(f"Expected channels on the last axis, got shape {shape}; use np.moveaxis(image, 0, -1).")


@dataclass(frozen=True)
class ImageSource:
    """An image or volume that is read plane by plane or tile by tile.

    Attributes:
        array: What was given; nothing of it is read before `read` is called.
        ndim: 2 for an image, 3 for a volume or time series.
        shape: The (height, width) of a plane.
        n_slices: The number of planes, None for an image.
        n_channels: The length of the trailing channel axis, None without one.
    """

    array: Any
    ndim: int
    shape: tuple[int, int]
    n_slices: int | None
    n_channels: int | None

    @classmethod
    def from_input(cls, input_: Any, ndim: int | None = None) -> ImageSource:
        """Wrap an array, checking shape and dtype but reading nothing.

        Args:
            input_: An array with axes YX, YXC, ZYX or ZYXC: numpy, memory map, dask, zarr, HDF5 or a nested list.
            ndim: 2 or 3; None to infer it from the shape, see `infer_ndim`.

        Raises:
            ImageError: If it is no array of numbers, is empty, or its shape cannot be an image.
        """
        array = _as_array(input_)
        shape = tuple(int(size) for size in array.shape)
        _check_dtype(np.dtype(array.dtype))
        if len(shape) < 2 or 0 in shape:
            raise ImageError(f"Expected an image with at least one pixel, got an array of shape {shape}.")
        ndim = infer_ndim(shape, ndim)
        has_channels = len(shape) > ndim
        plane = shape[ndim - 2 : ndim]
        _check_aspect(plane)
        _warn_about_channels(shape[-1] if has_channels else None)
        return cls(array, ndim, plane, shape[0] if ndim == 3 else None, shape[-1] if has_channels else None)

    @property
    def dtype(self) -> np.dtype:
        """The array's data type."""
        return np.dtype(self.array.dtype)

    def read(self, i: int | None = None, window: tuple[slice, slice] = (slice(None), slice(None))) -> np.ndarray:
        """Read a window (y, x) of plane i (None for an image): shape (h, w) or (h, w, at most 3)."""
        index: tuple[Any, ...] = window if self.ndim == 2 else (i, *window)
        if self.n_channels is not None:
            index = (*index, slice(0, min(self.n_channels, 3)))
        return np.asarray(self.array[index])

    def blocks(self, max_bytes: int | None = None) -> Iterator[np.ndarray]:
        """The whole array as a sequence of blocks whose C-order bytes, one after another, are those of the array."""
        return iter_c_order_blocks(self.array, max_bytes or _READ_BYTES)

    @property
    def n_bytes(self) -> int:
        """The size of the whole array in bytes."""
        return int(np.prod(self.array.shape, dtype=np.int64)) * self.dtype.itemsize


def iter_c_order_blocks(array: Any, max_bytes: int = _READ_BYTES) -> Iterator[np.ndarray]:
    """Read an array of any size in blocks of at most about max_bytes, in C order.

    A block is cut along one of the first two axes only and is at least one entry of it, whatever its size.
    """
    shape = tuple(array.shape)
    entry = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(array.dtype).itemsize
    if entry > max_bytes and len(shape) > 2:
        for index in range(shape[0]):
            yield from _blocks_of_plane(array, index, max_bytes)
        return
    step = _align(max(1, max_bytes // max(entry, 1)), array, axis=0)
    for start in range(0, shape[0], step):
        yield np.asarray(array[start : start + step])


def _blocks_of_plane(array: Any, index: int, max_bytes: int) -> Iterator[np.ndarray]:
    shape = tuple(array.shape)
    line = int(np.prod(shape[2:], dtype=np.int64)) * np.dtype(array.dtype).itemsize
    step = _align(max(1, max_bytes // max(line, 1)), array, axis=1)
    for start in range(0, shape[1], step):
        yield np.asarray(array[index, start : start + step])


def _align(step: int, array: Any, axis: int) -> int:
    """Round a step along an axis down to whole chunks, so that no chunk is decompressed twice."""
    chunks = getattr(array, "chunks", None)
    depth = chunks[axis] if chunks else 1
    depth = max(depth) if isinstance(depth, tuple) else depth  # dask lists the size of every chunk
    return step - step % depth if depth and step > depth else step


def _as_array(input_: Any) -> Any:
    dtype = getattr(input_, "dtype", None)
    if isinstance(dtype, np.dtype) and hasattr(input_, "shape") and hasattr(input_, "__getitem__"):
        return input_
    try:
        return np.asarray(input_)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ImageError(f"Expected an array, got {type(input_).__name__} that cannot be made into one.") from error


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in "buif":
        raise ImageError(f"Expected an image of integers, floats or booleans, got dtype {dtype}; convert it first.")


def _check_aspect(plane: tuple[int, int]) -> None:
    if min(plane) * _LONG_SIDE / max(plane) + 0.5 < 1:
        raise ImageError(
            f"Expected an image at most {2 * _LONG_SIDE} times longer than wide, got {plane[0]} x {plane[1]}; cut it."
        )


def _warn_about_channels(n_channels: int | None) -> None:
    if n_channels is None or n_channels <= 3:
        return
    what = "the alpha channel is dropped" if n_channels == 4 else "only the first three are used"
    warnings.warn(f"The image has {n_channels} channels: {what}.", UserWarning, stacklevel=4)
