"""A change of a label array: which pixels, what they were and what they became. Small, and exact in both directions."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Window = tuple[slice, ...]
_LEVEL = 1


@dataclass(frozen=True, eq=False)
class Diff:
    """A change of some pixels of the label array ``key``; all other pixels stay.

    Attributes:
        key: Which label array.
        window: The block that holds all changed pixels.
        changed: Which pixels of the block, as compressed bits in C order.
        old: Their labels before, compressed.
        new: Their labels after, compressed.
        dtype: The labels' type.
    """

    key: str
    window: Window
    changed: bytes
    old: bytes
    new: bytes
    dtype: str

    @classmethod
    def between(cls, key: str, window: Window, old: np.ndarray, new: np.ndarray) -> Diff | None:
        """The change from one block of labels to another, or None if they are equal.

        Args:
            key: Which label array.
            window: Where the block lies in it.
            old: The block before.
            new: The block after, of the same shape.
        """
        changed = old != new
        inner = bounding_window(changed)
        if inner is None:
            return None
        changed = changed[inner]
        before, after = old[inner][changed], new[inner][changed].astype(old.dtype)
        window = tuple(slice(w.start + s.start, w.start + s.stop) for w, s in zip(window, inner))
        return cls(key, window, _packed(np.packbits(changed)), _values(before), _values(after), old.dtype.str)

    def apply(self, array: np.ndarray) -> None:
        """Make the change."""
        self._write(array, self.new)

    def revert(self, array: np.ndarray) -> None:
        """Undo the change."""
        self._write(array, self.old)

    def _write(self, array: np.ndarray, values: bytes) -> None:
        shape = self.shape
        bits = np.frombuffer(zlib.decompress(self.changed), np.uint8)
        changed = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)
        found = np.frombuffer(zlib.decompress(values), self.dtype)
        block = np.array(array[self.window])
        block[changed] = found if len(found) > 1 else found[0]
        array[self.window] = block

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the block."""
        return tuple(s.stop - s.start for s in self.window)

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return len(self.changed) + len(self.old) + len(self.new) + 200

    def to_record(self) -> tuple[dict[str, Any], bytes]:
        """A readable description and the data that belongs to it."""
        described = {
            "labels": self.key,
            "window": [[s.start, s.stop] for s in self.window],
            "dtype": self.dtype,
            "parts": [len(self.changed), len(self.old), len(self.new)],
        }
        return described, self.changed + self.old + self.new

    @classmethod
    def from_record(cls, described: Mapping[str, Any], data: bytes) -> Diff:
        """The inverse of `to_record`."""
        first, second, _ = described["parts"]
        window = tuple(slice(start, stop) for start, stop in described["window"])
        parts = data[:first], data[first : first + second], data[first + second :]
        return cls(described["labels"], window, *parts, described["dtype"])


def _packed(values: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(values).tobytes(), _LEVEL)


def _values(values: np.ndarray) -> bytes:
    """The values, or only the first if they are all the same."""
    return _packed(values[:1] if (values == values[0]).all() else values)


def bounding_window(mask: np.ndarray) -> Window | None:
    """The smallest block that holds everything that is not zero; None if there is nothing."""
    found = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if len(used) == 0:
            return None
        found.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(found)


def united(windows: Sequence[Window | None]) -> Window | None:
    """The smallest block that holds several blocks; None ones do not count."""
    there = [window for window in windows if window is not None]
    if not there:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*there))


def grown(window: Window, by: int, shape: Sequence[int]) -> Window:
    """A block enlarged on every side and clipped to an array's shape."""
    return tuple(slice(max(s.start - by, 0), min(s.stop + by, n)) for s, n in zip(window, shape))
