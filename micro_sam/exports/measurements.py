"""Measurements of objects as a table: size, position, shape and intensities.

Columns name their unit: ``_px`` are pixels, ``_um``, ``_um2``, ``_um3`` (or ``_nm``, ...) physical units, which are there where
the pixel size is known. Positions are those of centres of pixels, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.exports.content import LabelledImage
from micro_sam.io.resolution import Resolution
from micro_sam.io.track_tables import mothers_of
from micro_sam.labels import object_windows
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    import pandas as pd

_SYMBOLS = {
    "nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m", "angstrom": "angstrom",
    "inch": "in",
}  # fmt: skip
_FUNCTIONS = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max, "sum": np.sum}
_EVERY = 50  # objects between two reports


def measure_objects(
    labels: np.ndarray,
    image: Any | None = None,
    resolution: Resolution | None = None,
    *,
    is_timeseries: bool = False,
    classes: Mapping[int, str] | None = None,
    lineages: Sequence[Mapping[int, Sequence[int]]] = (),
    shape_descriptors: bool = True,
) -> pd.DataFrame:
    """Measure all objects; in a time series every object in every frame.

    Args:
        labels: Integer labels YX, ZYX or TYX.
        image: The image, of their shape or with channels last.
        resolution: The size of a pixel.
        is_timeseries: The first of three axes is time.
        classes: Label -> name of its class.
        lineages: For tracks, label -> labels of the daughters.
        shape_descriptors: Also measure axes, solidity and, in planes, perimeter, circularity and eccentricity.

    Returns:
        One row per object (and frame), sorted by frame and label.
    """
    content = LabelledImage(
        np.asarray(labels), is_timeseries, resolution or Resolution({}), image, classes or {}, lineages
    )
    return drain(iter_measure(content, shape_descriptors))


def iter_measure(content: LabelledImage, shape_descriptors: bool = True) -> Generator[Progress, None, pd.DataFrame]:
    """`measure_objects` as a generator."""
    import pandas as pd

    mothers = mothers_of(content.lineages)
    rows: list[dict[str, Any]] = []
    frames = content.planes() if content.is_timeseries else [(None, content.labels)]
    total = len(content.labels) if content.is_timeseries else len(content.ids)
    for frame, labels in frames:
        image = content.image if frame is None else content.image[frame] if content.image is not None else None
        image = None if image is None else np.asarray(image)
        ruler = _Ruler(content.resolution, content.axes.replace("T", ""))
        for done, (label, window) in enumerate(object_windows(labels).items()):
            if frame is None and done % _EVERY == 0:
                yield Progress(done, total, "Measure objects")
            row = {} if frame is None else {"frame": frame}
            row["label"] = label
            if content.classes:
                row["class"] = content.classes.get(label)
            if content.is_timeseries and content.lineages:
                row["mother"] = mothers.get(label, 0)
            mask = labels[window] == label
            row |= _size_and_place(mask, window, ruler) | (_shape(mask, ruler) if shape_descriptors else {})
            rows.append(row | ({} if image is None else _intensities(image[window][mask])))
        if frame is not None:
            yield Progress(frame + 1, total, "Measure objects")
    return pd.DataFrame(rows, columns=None if rows else _columns(content, shape_descriptors))


def _columns(content: LabelledImage, shape_descriptors: bool) -> list[str]:
    """The columns of a table without objects: those of one object of one pixel."""
    shape = (1,) * content.labels.ndim
    image = None if content.image is None else np.zeros((*shape, *content.image.shape[content.labels.ndim :]))
    lineages = ({1: ()},) if content.lineages else ()
    one = LabelledImage(
        np.ones(shape, np.uint8), content.is_timeseries, content.resolution, image, content.classes, lineages
    )
    return list(drain(iter_measure(one, shape_descriptors)).columns)


class _Ruler:
    """The size of a pixel, and what its units are called.

    Args:
        resolution: The size of a pixel.
        axes: The spatial axes.
    """

    def __init__(self, resolution: Resolution, axes: str) -> None:
        self.axes = axes.lower()
        self.is_known = all(axis in resolution.size for axis in self.axes)
        self.size = tuple(resolution.scale(self.axes)) if self.is_known else (1.0,) * len(self.axes)
        self.unit = (_SYMBOLS.get(resolution.unit or "", "units")) if self.is_known else "px"
        self.is_isotropic = max(self.size) - min(self.size) < 1e-6 * max(self.size)

    @property
    def extent(self) -> str:
        """What the size of an object is called."""
        return "area" if len(self.axes) == 2 else "volume"

    @property
    def power(self) -> str:
        """The unit of that size."""
        return f"{self.unit}{len(self.axes)}"


def _size_and_place(mask: np.ndarray, window: Sequence[slice], ruler: _Ruler) -> dict[str, Any]:
    n_pixels = int(np.count_nonzero(mask))
    row: dict[str, Any] = {f"{ruler.extent}_px": n_pixels}
    if ruler.is_known:
        row[f"{ruler.extent}_{ruler.power}"] = n_pixels * math.prod(ruler.size)
    centre = [float(places.mean()) + part.start for places, part in zip(np.nonzero(mask), window)]
    row |= {f"centroid_{axis}_px": value for axis, value in zip(ruler.axes, centre)}
    if ruler.is_known:
        row |= {f"centroid_{a}_{ruler.unit}": value * size for a, value, size in zip(ruler.axes, centre, ruler.size)}
    row |= {f"bbox_{axis}_min_px": part.start for axis, part in zip(ruler.axes, window)}
    return row | {f"bbox_{axis}_max_px": part.stop for axis, part in zip(ruler.axes, window)}


def _shape(mask: np.ndarray, ruler: _Ruler) -> dict[str, float]:
    """Descriptors by their usual definitions (scikit-image's regionprops), nan where there is none."""
    from skimage.measure import regionprops

    [region] = regionprops(mask.astype(np.uint8), spacing=ruler.size)
    row = {
        f"equivalent_diameter_{ruler.unit}": region.equivalent_diameter_area,
        f"major_axis_{ruler.unit}": _defined(lambda: region.axis_major_length),
        f"minor_axis_{ruler.unit}": _defined(lambda: region.axis_minor_length),
        "solidity": _defined(lambda: region.solidity) if min(mask.shape) > 1 else math.nan,
        "extent": region.extent,
    }
    if mask.ndim == 2:
        perimeter = _defined(lambda: region.perimeter) if ruler.is_isotropic else math.nan
        row |= {
            "eccentricity": region.eccentricity,
            f"perimeter_{ruler.unit}": perimeter,
            "circularity": 4 * math.pi * region.area / perimeter**2 if perimeter else math.nan,
        }
    return {name: float(value) for name, value in row.items()}


def _defined(value: Any) -> float:
    import warnings

    try:
        with warnings.catch_warnings(action="ignore"):
            return float(value())
    except (ValueError, ArithmeticError, RuntimeError):  # an object too flat to have it
        return math.nan


def _intensities(pixels: np.ndarray) -> dict[str, float]:
    """Statistics of the pixels of an object, (n,) or (n, channels)."""
    channels = {"": pixels} if pixels.ndim == 1 else {f"_c{k}": pixels[:, k] for k in range(pixels.shape[1])}
    return {
        f"intensity_{name}{channel}": float(function(values.astype(np.float64)))
        for channel, values in channels.items()
        for name, function in _FUNCTIONS.items()
    }
