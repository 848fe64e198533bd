"""Percentiles of an image of any size, from one or two passes over its blocks.

Every value is mapped to an integer key of at most 32 bits that sorts like the value. The first pass counts the upper
16 bits of the keys; for data of more than 16 bits a second pass counts the lower 16 bits inside the bins that hold the
wanted ranks. The result is an exact order statistic (numpy's ``inverted_cdf`` percentile) in float32 precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from micro_sam.embeddings.preprocessing import NormalizationRange

ROBUST_PERCENTILES = (0.1, 99.9)
_BINS = 2**16


class PercentileCounter:
    """Counts the finite values of a stream of blocks and finds percentiles among them.

    Feed all blocks to `update`, then call `refine` and, while it is True, feed all blocks again; then ask `range`.
    """

    def __init__(self, dtype: np.dtype, percentiles: tuple[float, float] = ROBUST_PERCENTILES) -> None:
        self._dtype = np.dtype(dtype)
        self._percentiles = percentiles
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._extremes: tuple[float, float] | None = None
        self._fine: dict[int, np.ndarray] | None = None

    def update(self, block: np.ndarray) -> None:
        """Count the values of one block."""
        values = _finite(block)
        if values.size == 0:
            return
        keys = _sortable_keys(values)
        if self._fine is None:
            self._counts += np.bincount(keys >> 16, minlength=_BINS)
            self._widen(float(values.min()), float(values.max()))
            return
        for coarse, counts in self._fine.items():
            counts += np.bincount((keys[keys >> 16 == coarse] & 0xFFFF), minlength=_BINS)

    def _widen(self, low: float, high: float) -> None:
        old = self._extremes or (low, high)
        self._extremes = min(old[0], low), max(old[1], high)

    def refine(self) -> bool:
        """Whether a second pass over all blocks is needed; prepares for it."""
        if self._fine is not None or self._extremes is None or self._dtype.itemsize <= 2 and self._dtype.kind != "f":
            return False
        self._fine = {bin_: np.zeros(_BINS, dtype=np.int64) for bin_, _ in map(self._locate, self._percentiles)}
        return True

    def _locate(self, percentile: float) -> tuple[int, int]:
        """The coarse bin that holds the percentile, and how many of its values are up to the wanted one."""
        rank = max(1, int(np.ceil(percentile / 100 * int(self._counts.sum()))))
        cumulative = np.cumsum(self._counts)
        bin_ = int(np.searchsorted(cumulative, rank))
        return bin_, rank - int(cumulative[bin_] - self._counts[bin_])

    def _value(self, percentile: float) -> float:
        coarse, rank = self._locate(percentile)
        fine = 0 if self._fine is None else int(np.searchsorted(np.cumsum(self._fine[coarse]), rank))
        return _value_of_key((coarse << 16) | fine, self._dtype)

    def range(self) -> NormalizationRange:
        """The range between the percentiles; the full finite range where almost all values are equal."""
        if self._extremes is None:
            return NormalizationRange(0.0, 0.0)
        low, high = (self._value(percentile) for percentile in self._percentiles)
        if low >= high:
            low, high = self._extremes
        return NormalizationRange(low, high)


def robust_range(
    blocks: Callable[[], Iterable[np.ndarray]],
    dtype: np.dtype,
    percentiles: tuple[float, float] = ROBUST_PERCENTILES,
) -> NormalizationRange:
    """The range between two percentiles of all finite values in a stream of blocks.

    Args:
        blocks: Called once or twice; each time returns all blocks of the data.
        dtype: The data's type.
        percentiles: The lower and upper percentile, in percent.
    """
    counter = PercentileCounter(dtype, percentiles)
    for block in _passes(counter, blocks):
        counter.update(block)
    return counter.range()


def _passes(counter: PercentileCounter, blocks: Callable[[], Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    yield from blocks()
    if counter.refine():
        yield from blocks()


def _finite(block: np.ndarray) -> np.ndarray:
    values = block.astype(block.dtype.newbyteorder("="), copy=False).ravel()
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _sortable_keys(values: np.ndarray) -> np.ndarray:
    """Integers that sort as the values do; data of at most 16 bits in the upper half of 32 bits."""
    dtype = values.dtype
    if dtype.kind != "f" and dtype.itemsize <= 2:
        lowest = np.iinfo(dtype).min if dtype.kind == "i" else 0
        return (values.astype(np.int64) - lowest) << 16
    limit = np.finfo(np.float32).max
    bits = np.clip(values.astype(np.float64), -limit, limit).astype(np.float32).view(np.uint32)
    negative = (bits >> 31).astype(bool)
    return np.where(negative, ~bits, bits | 0x80000000).astype(np.int64)


def _value_of_key(key: int, dtype: np.dtype) -> float:
    if dtype.kind != "f" and dtype.itemsize <= 2:
        return float((key >> 16) + (np.iinfo(dtype).min if dtype.kind == "i" else 0))
    bits = key & 0x7FFFFFFF if key & 0x80000000 else ~key & 0xFFFFFFFF
    return float(np.array(bits, dtype=np.uint32).view(np.float32))
