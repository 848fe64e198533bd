"""The facts of the image that is annotated; nothing of it is read before it is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from micro_sam.embeddings.source import ImageSource

if TYPE_CHECKING:
    from micro_sam.io.images import ImageFile

_LAZY_FROM = 2**30  # values
_WHOLE_BYTES = 64 * 2**20
_SAMPLES, _SAMPLE_SIDE = 24, 128


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image, volume or time series that is annotated.

    Attributes:
        source: Reads its planes.
        name: What it is called in the window.
        scale: The size of a pixel along the spatial axes, in the order of the axes.
    """

    source: ImageSource
    name: str = "image"
    scale: tuple[float, ...] = field(default=())

    @classmethod
    def from_array(
        cls, array: Any, ndim: int | None = None, name: str = "image", scale: Sequence[float] | None = None
    ) -> AnnotatedImage:
        """Wrap an array, numpy or lazy.

        Args:
            array: YX or YXC, ZYX or ZYXC.
            ndim: 2 for an image, 3 for a volume or time series; None to infer it.
            name: What it is called.
            scale: The size of a pixel along the spatial axes; 1 by default.

        Raises:
            ImageError: It cannot be segmented.
        """
        source = ImageSource.from_input(array, ndim)
        scale = (1.0,) * source.ndim if scale is None else tuple(float(s) for s in scale)[-source.ndim :]
        return cls(source, name, scale)

    @property
    def ndim(self) -> int:
        """2 for an image, 3 for a volume or time series."""
        return self.source.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its labels: YX or ZYX."""
        return self.source.shape if self.source.n_slices is None else (self.source.n_slices, *self.source.shape)

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.source.shape

    def plane(self, i: int | None = None) -> np.ndarray:
        """One plane of it, (Y, X) or (Y, X, up to 3 channels)."""
        return self.source.read(i)

    @cached_property
    def fingerprint(self) -> str:
        """What tells it from other images: a hash of shape, type and content; of a large image of samples of it."""
        source = self.source
        digest = xxhash.xxh3_128(f"{tuple(source.array.shape)} {source.dtype.str}".encode())
        if source.n_bytes <= _WHOLE_BYTES:
            digest.update(np.ascontiguousarray(source.array[...]))
        else:
            for i, window in _sampled_windows(source):
                digest.update(np.ascontiguousarray(source.read(i, window)))
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the journal says about it."""
        return {
            "name": self.name,
            "shape": list(self.source.array.shape),
            "dtype": self.source.dtype.str,
            "ndim": self.ndim,
            "labels_shape": list(self.shape),
            "scale": list(self.scale),
            "fingerprint": self.fingerprint,
        }


def _sampled_windows(source: ImageSource) -> list[tuple[int | None, tuple[slice, slice]]]:
    """Windows spread over the image, always the same for a shape."""
    rng = np.random.default_rng(0)
    picked = []
    for _ in range(_SAMPLES):
        i = None if source.n_slices is None else int(rng.integers(source.n_slices))
        starts = [int(rng.integers(max(1, size - _SAMPLE_SIDE + 1))) for size in source.shape]
        picked.append((i, tuple(slice(start, start + _SAMPLE_SIDE) for start in starts)))
    return picked


def read_file(file: ImageFile) -> Any:
    """The array of an image that was opened; a large one is only read where it is looked at."""
    return file.read(lazy=math.prod(file.shape) > _LAZY_FROM)
