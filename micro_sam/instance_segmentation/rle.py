"""Run length encodings of binary masks, in the column-major order of COCO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bioimage_cpp as bic
import numpy as np


def to_uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """``{"size": [height, width], "counts": [...]}``; runs of background and mask alternate, background first."""
    counts = bic.utils.compute_rle(np.asarray(mask, dtype=bool).T)
    return {"size": list(mask.shape), "counts": [int(c) for c in counts]}


def to_coco_rle(mask: np.ndarray) -> dict[str, Any]:
    """The same with the counts as COCO's ASCII string."""
    rle = to_uncompressed_rle(mask)
    return {"size": rle["size"], "counts": _pack(rle["counts"])}


def from_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Bool mask from either encoding."""
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _unpack(counts.decode() if isinstance(counts, bytes) else counts)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _pack(counts: list[int]) -> str:
    """COCO's string: each count (from the third on, minus the one two before) in groups of 5 bits, lowest first.

    A sixth bit says that more groups follow; the last group carries the sign; 48 is added to be printable.
    """
    characters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            characters.append(chr(group + (32 if more else 0) + 48))
    return "".join(characters)


def _unpack(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
