"""What is exported and what an import gives: labels with all that is known about their objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError
from micro_sam.io.resolution import Resolution


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """Labels, and what belongs to them.

    Attributes:
        labels: Integer labels YX, ZYX or TYX, 0 is background.
        is_timeseries: The first of three axes is time.
        resolution: The size of a pixel, as far as it is known.
        image: The image that the labels belong to, for intensities: of their shape, or with channels as a last axis; array
            or lazy array.
        classes: Label -> name of its class, for objects that have one.
        lineages: For tracks, label -> labels of the daughters, one dict per family.
        name: What the image is called.

    Raises:
        ParameterError: They are not labels, or the image has another shape.
    """

    labels: np.ndarray
    is_timeseries: bool = False
    resolution: Resolution = field(default_factory=lambda: Resolution({}))
    image: Any | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    lineages: Sequence[Mapping[int, Sequence[int]]] = ()
    name: str = "image"

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.ndim not in (2, 3) or not np.issubdtype(labels.dtype, np.integer):
            raise ParameterError(
                f"Labels are integers YX, ZYX or TYX, got {labels.dtype} of shape {tuple(labels.shape)}; convert them first."
            )
        if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
            raise ParameterError(f"Labels are 0 or larger, got {labels.min()}; give background the label 0.")
        if self.image is not None and tuple(self.image.shape[: labels.ndim]) != labels.shape:
            raise ParameterError(
                f"The image has the shape {tuple(self.image.shape)}, but its labels {labels.shape}; give the image that they "
                "belong to."
            )

    @property
    def axes(self) -> str:
        """The axes of the labels: "YX", "ZYX" or "TYX"."""
        return "YX" if self.labels.ndim == 2 else "TYX" if self.is_timeseries else "ZYX"

    @cached_property
    def ids(self) -> list[int]:
        """The labels of all objects, in order."""
        found = np.unique(self.labels)
        return found[found != 0].tolist()

    @property
    def n_planes(self) -> int:
        """The number of planes."""
        return 1 if self.labels.ndim == 2 else len(self.labels)

    def planes(self) -> Iterator[tuple[int | None, np.ndarray]]:
        """The planes with their number, which is None for a single image."""
        yield from [(None, self.labels)] if self.labels.ndim == 2 else enumerate(self.labels)


@dataclass(frozen=True, eq=False)
class ImportedLabels:
    """What was read.

    Attributes:
        labels: Labels YX, ZYX or TYX, unsigned integers.
        classes: Label -> name of its class, for objects that have one.
        lineages: For tracks, label -> labels of the daughters; None for other formats.
        resolution: The size of a pixel, if the file says so.
        is_timeseries: The file says that the first axis is time.
        notes: What a person should know, in sentences: what was left out, cut off or numbered anew.
    """

    labels: np.ndarray
    classes: Mapping[int, str] = field(default_factory=dict)
    lineages: list[dict[int, list[int]]] | None = None
    resolution: Resolution | None = None
    is_timeseries: bool = False
    notes: tuple[str, ...] = ()
