"""Images with labels, opened lazily and read in patches of one plane."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..embeddings.preprocessing import NormalizationRange
from ..errors import ImageError
from ..io.images import load_image_data
from .label_transform import UNKNOWN


@dataclass
class Pair:
    """An image or volume and its labels.

    Attributes:
        name: What to call it in messages.
        raw: An array, or what `load_image_data` opened.
        labels: The same, without channels.
        channels_axis: Where the image has its channels: None, 0 or -1.
        roi: Slices that limit both; None for everything.
        unknown_label: The label that says that nothing is known, besides negative ones.
        known_margin: Background farther than this many pixels from any object of a patch is unknown; None for none of it.
    """

    name: str
    raw: Any
    labels: Any
    channels_axis: int | None
    roi: tuple[slice, ...] | None = None
    unknown_label: int | None = None
    known_margin: int | None = None
    _ranges: dict[int, NormalizationRange] = field(default_factory=dict, repr=False)

    @property
    def origin(self) -> tuple[int, ...]:
        """Where the region of interest begins."""
        shape = self.labels.shape
        return (0,) * len(shape) if self.roi is None else tuple(s.indices(n)[0] for s, n in zip(self.roi, shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape, (Y, X) or (Z, Y, X), of the region of interest."""
        shape = tuple(self.labels.shape)
        return shape if self.roi is None else tuple(len(range(*s.indices(n))) for s, n in zip(self.roi, shape))

    @property
    def n_planes(self) -> int:
        """Number of planes that can be sampled."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def read(self, plane: int, y: slice, x: slice) -> tuple[np.ndarray, np.ndarray]:
        """A patch of one plane: raw (C, h, w) as it is stored, and labels (h, w) int64, -1 where unknown."""
        return self.read_raw(plane, y, x), self.read_labels(plane, y, x)

    def read_raw(self, plane: int, y: slice, x: slice) -> np.ndarray:
        """(C, h, w) as it is stored."""
        place = self._place(plane, y, x)
        raw = np.asarray(self.raw[(slice(None), *place) if self.channels_axis == 0 else place])
        if self.channels_axis is None:
            return raw[None]
        return raw if self.channels_axis == 0 else np.moveaxis(raw, -1, 0)

    def read_labels(self, plane: int, y: slice, x: slice) -> np.ndarray:
        """(h, w) int64, -1 where unknown."""
        labels = np.asarray(self.labels[self._place(plane, y, x)]).astype(np.int64)
        unknown = labels < 0
        if self.unknown_label is not None:
            unknown |= labels == self.unknown_label
        labels[unknown] = UNKNOWN
        return labels if self.known_margin is None else _only_near_objects(labels, self.known_margin)

    def contrast(self, plane: int) -> NormalizationRange:
        """What becomes black and white in a plane, as it will be in use: the whole plane's minimum and maximum."""
        if plane not in self._ranges:
            self._ranges[plane] = NormalizationRange.of(self.read_raw(plane, slice(None), slice(None)))
        return self._ranges[plane]

    def _place(self, plane: int, y: slice, x: slice) -> tuple[Any, ...]:
        *first, y0, x0 = self.origin
        height, width = self.shape[-2:]
        y, x = (range(*s.indices(n)) for s, n in ((y, height), (x, width)))
        place = (slice(y0 + y.start, y0 + y.stop), slice(x0 + x.start, x0 + x.stop))
        return ((first[0] + plane, *place)) if first else place


def open_pair(
    raw: Any,
    labels: Any,
    raw_key: str | None = None,
    label_key: str | None = None,
    with_channels: bool | None = None,
    roi: Any = None,
    unknown_label: int | None = None,
    known_margin: int | None = None,
) -> Pair:
    """Open an image and its labels, files or arrays, without reading them where the format allows.

    Args:
        raw: An array or file, (Y, X) or (Z, Y, X), with channels first or last.
        labels: An array or file of the image's spatial shape.
        raw_key: The data set inside the file.
        label_key: The same for the labels.
        with_channels: Whether the image has channels; found from the shapes if None.
        roi: A slice or slices that limit both.
        unknown_label: The label that says that nothing is known, besides negative ones.
        known_margin: See `Pair`.

    Raises:
        ImageError: The image and its labels do not belong together, or the labels are no labels.
        InputError: A file cannot be read.
    """
    name = Path(raw).name if isinstance(raw, str | os.PathLike) else f"array of shape {tuple(raw.shape)}"
    raw, labels = _open(raw, raw_key), _open(labels, label_key)
    if np.dtype(labels.dtype).kind not in "iub":
        raise ImageError(f"The labels of {name} are {labels.dtype}, expected integer object ids.")
    if len(labels.shape) not in (2, 3):
        raise ImageError(f"The labels of {name} have shape {tuple(labels.shape)}, expected (Y, X) or (Z, Y, X).")
    axis = _channels_axis(tuple(raw.shape), tuple(labels.shape), with_channels, name)
    if roi is not None:
        roi = roi if isinstance(roi, tuple) else (roi,)
        roi = roi + (slice(None),) * (len(labels.shape) - len(roi))
    return Pair(name, raw, labels, axis, roi, unknown_label, known_margin)


def _only_near_objects(labels: np.ndarray, margin: int) -> np.ndarray:
    """Labels whose background is unknown where no object is near."""
    from scipy.ndimage import distance_transform_edt

    objects = labels > 0
    far = distance_transform_edt(~objects) > margin if objects.any() else np.ones(labels.shape, bool)
    return np.where(far & (labels == 0), UNKNOWN, labels)


def _open(source: Any, key: str | None) -> Any:
    if isinstance(source, str | os.PathLike):
        source = load_image_data(source, key, lazy_loading=True)
    elif not hasattr(source, "__array__") and not hasattr(source, "shape"):
        raise ImageError(f"Expected an array or the path of a file, got {type(source).__name__}.")
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    return source


def _channels_axis(raw: tuple[int, ...], labels: tuple[int, ...], with_channels: bool | None, name: str) -> int | None:
    if raw == labels and not with_channels:
        return None
    if len(raw) == len(labels) + 1 and with_channels is not False:
        if raw[:-1] == labels:
            return -1
        if raw[1:] == labels:
            return 0
    raise ImageError(
        f"The image {name} has shape {raw} and its labels {labels}: expected the same shape, or one more axis for "
        "channels, first or last; check that image and labels belong together."
    )
