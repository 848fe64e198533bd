"""The input of a distributed computation: something that every worker can open for itself."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.distributed.blocks import Window
from micro_sam.embeddings import ImageSource, Normalization
from micro_sam.embeddings.statistics import robust_range
from micro_sam.errors import ParameterError
from micro_sam.io import Resolution, open_image

_SAMPLES = {2: (8, 8), 3: (4, 4, 4)}  # windows along each axis that are looked at to tell one input from another
_SAMPLE = {2: (256, 256), 3: (8, 256, 256)}


@dataclass(frozen=True)
class BlockSource:
    """An image or volume that is read block by block, by any process that sees the same files.

    Attributes:
        path: The absolute path of a file or zarr folder, None for an array.
        key: The data set inside, or the level of a pyramid.
        ndim: 2 or 3.
        array: A lazy array (zarr, dask) in the place of a file.
        token: Tells one use of a path from the next: in between, the file may have become another one.
    """

    path: str | None
    key: str | None
    ndim: int
    array: Any = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, input_: str | os.PathLike | Any, key: str | None = None, ndim: int | None = None) -> BlockSource:
        """Check an input without reading its pixels.

        Raises:
            InputError: The file cannot be read.
            ImageError: It is neither an image nor a volume, or is empty.
            ParameterError: It is an array in memory, which would have to be sent to every worker.
        """
        if isinstance(input_, str | os.PathLike):
            image = open_image(input_, key)
            stand_in = np.broadcast_to(np.zeros((), image.dtype), image.shape)  # one element, whatever the shape
            return cls(str(Path(input_).absolute()), image.key or key, ImageSource.from_input(stand_in, ndim).ndim)
        if isinstance(input_, np.ndarray | list | tuple):
            raise ParameterError(
                "An array in memory cannot be shared with workers; write it to zarr and give the path, or use "
                "automatic_instance_segmentation."
            )
        return cls(None, key, ImageSource.from_input(input_, ndim).ndim, input_)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape without channels, YX or ZYX."""
        source = self.open()
        return source.shape if source.n_slices is None else (source.n_slices, *source.shape)

    @property
    def resolution(self) -> Resolution | None:
        """The pixel size, if the file says so."""
        return None if self.path is None else open_image(self.path, self.key).resolution

    def open(self) -> ImageSource:
        """The data, opened once per process."""
        if self.path is None:
            return ImageSource.from_input(self.array, self.ndim)
        return _opened(self.path, self.key, self.ndim, self.token)

    def read(self, window: Window) -> np.ndarray:
        """A window YX or ZYX of the data, with at most three channels last."""
        import dask

        source = self.open()
        channels = () if source.n_channels is None else (slice(0, min(source.n_channels, 3)),)
        with dask.config.set(scheduler="synchronous"):  # a lazy array must not ask the cluster that waits for it
            return np.asarray(source.array[(*window, *channels)])

    def facts(self) -> dict[str, Any]:
        """What tells this input from another: shape, type, and a hash of windows spread over it."""
        source = self.open()
        digest = hashlib.sha1(usedforsecurity=False)
        for window in self._samples():
            digest.update(np.ascontiguousarray(self.read(window)).tobytes())
        return {"shape": list(source.array.shape), "dtype": str(source.dtype), "sample": digest.hexdigest()}

    def normalization(self, mode: str) -> Normalization:
        """How contrast is made in every block: for "robust" by one range for all of them.

        The range is that between two percentiles of windows spread over the data; of smaller images they cover all.
        """
        if mode != "robust":
            return Normalization(mode)
        return Normalization(mode, robust_range(lambda: map(self.read, self._samples()), self.open().dtype))

    def _samples(self) -> list[Window]:
        from micro_sam.distributed.blocks import BlockGrid

        shape, size, counts = self.shape, _SAMPLE[self.ndim], _SAMPLES[self.ndim]
        steps = tuple(max(s, -(-n // count)) for n, s, count in zip(shape, size, counts))
        corners = BlockGrid(shape, steps, (0,) * len(shape))
        return [
            tuple(slice(part.start, min(part.start + s, part.stop)) for part, s in zip(block.inner, size))
            for block in corners
        ]


@lru_cache(maxsize=4)
def _opened(path: str, key: str | None, ndim: int, _token: str) -> ImageSource:
    return ImageSource.from_input(open_image(path, key).read(lazy=True), ndim)
