"""From the axes a file declares to the axis order of micro_sam: ``YX``, ``ZYX``, channels last."""

from __future__ import annotations

from typing import Any

import numpy as np

_CHANNELS = "CS"


def public_order(shape: tuple[int, ...], axes: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which axes to drop and how to order the others.

    Args:
        shape: The shape in the file.
        axes: One letter per axis as in OME (``TCZYX``; ``S`` are colour samples), or None if the file does not say.

    Returns:
        The axes to drop (length 1, neither y nor x) and the order of the remaining ones, both as positions in ``shape``.
    """
    positions = tuple(range(len(shape)))
    if axes is None or len(axes) != len(shape):
        return (), positions
    dropped = tuple(i for i in positions if shape[i] == 1 and axes[i] not in "YX")
    kept = [i for i in positions if i not in dropped]
    order = sorted(kept, key=lambda i: axes[i] in _CHANNELS)  # a stable sort: channels go last
    return dropped, tuple(order)


def to_public_order(data: Any, axes: str | None) -> Any:
    """Bring an array (numpy, zarr, dask, memory-mapped) to the axis order of micro_sam without reading lazy ones.

    Args:
        data: The array as it is in the file.
        axes: Its axes, or None if the file does not say; then it is returned as it is.
    """
    dropped, order = public_order(data.shape, axes)
    if not dropped and order == tuple(range(len(data.shape))):
        return data
    if not isinstance(data, np.ndarray):
        import dask.array

        data = dask.array.from_array(data, chunks=getattr(data, "chunks", None) or "auto")
    data = data.transpose(dropped + order)
    return data[(0,) * len(dropped)]


def public_shape(shape: tuple[int, ...], axes: str | None) -> tuple[int, ...]:
    """The shape that `to_public_order` gives."""
    _, order = public_order(shape, axes)
    return tuple(shape[i] for i in order)
