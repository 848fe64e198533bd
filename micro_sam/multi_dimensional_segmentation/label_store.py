"""Labels of a volume, in memory or, where that would take too much, in a zarr array on disk; changed slice by slice."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from micro_sam.embeddings.tiling import get_block_shape
from micro_sam.errors import OutputError, ParameterError

#: Arrays of more bytes than this are kept on disk.
MOST_BYTES = 2**32


def label_dtype(largest: int) -> np.dtype:
    """uint32, or uint64 where that does not hold the largest label."""
    return np.dtype(np.uint32 if largest <= np.iinfo(np.uint32).max else np.uint64)


def new_array(shape: Sequence[int], dtype: Any, most_bytes: int | None = None) -> Any:
    """An array of zeros: numpy, or zarr in a temporary folder that goes away with the array.

    Args:
        shape: The shape, slices first.
        dtype: The data type.
        most_bytes: How large it may be in memory; by default `MOST_BYTES`.

    Raises:
        OutputError: There is no place for it on the disk.
    """
    shape, dtype = tuple(int(s) for s in shape), np.dtype(dtype)
    if np.prod(shape, dtype=np.float64) * dtype.itemsize <= (MOST_BYTES if most_bytes is None else most_bytes):
        return np.zeros(shape, dtype=dtype)
    import zarr

    try:
        folder = tempfile.mkdtemp(prefix="micro_sam_labels_")
        chunks = (1, *get_block_shape(shape[-2:]))[-len(shape) :] if len(shape) <= 3 else None
        array = zarr.create_array(folder, shape=shape, dtype=dtype, chunks=chunks or "auto", fill_value=0)
    except OSError as error:
        raise OutputError(
            f"A temporary array of {shape} cannot be made in '{tempfile.gettempdir()}' ({error.strerror}); set TMPDIR to "
            "a folder with more space."
        ) from error
    weakref.finalize(array, shutil.rmtree, folder, ignore_errors=True)
    return array


def check_out(out: Any, shape: Sequence[int], largest: int) -> None:
    """Raise `ParameterError` unless an array takes labels of a volume."""
    if tuple(out.shape) != tuple(shape) or np.dtype(out.dtype).kind not in "iu":
        raise ParameterError(
            f"out must be an integer array of shape {tuple(shape)}, got {out.dtype} of {tuple(out.shape)}."
        )
    if largest > np.iinfo(out.dtype).max:
        raise ParameterError(
            f"There are {largest} labels, which out of type {out.dtype} cannot hold; pass a wider type."
        )


def rewrite(labels: Any, numbers: Callable[[int], np.ndarray], out: Any) -> None:
    """Renumber labels slice by slice.

    Args:
        labels: The labels, ZYX.
        numbers: Gives for a slice the new number of each of its labels.
        out: Where they go; may be ``labels``.
    """
    for z in range(len(labels)):
        out[z] = numbers(z)[np.asarray(labels[z])].astype(out.dtype, copy=False)
