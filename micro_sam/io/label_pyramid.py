"""Label images as OME-Zarr 0.5 with a pyramid, written and downsampled window by window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.io.resolution import Resolution

WRITER_MARK = "micro_sam_version"
_SMALLEST_LEVEL = 512  # no level follows one whose plane is not larger than this
_CHUNK = (16, 512, 512)

Window = tuple[slice, ...]


@dataclass(frozen=True)
class PyramidLevel:
    """One array of a pyramid.

    Attributes:
        name: Its name in the group.
        shape: Its shape, YX or ZYX.
        step: By how much it is smaller than the level before, per axis; 1 for the first.
        factor: By how much it is smaller than the first level, per axis.
    """

    name: str
    shape: tuple[int, ...]
    step: tuple[int, ...]
    factor: tuple[int, ...]


def plan_levels(shape: Sequence[int], resolution: Resolution) -> list[PyramidLevel]:
    """The levels of a pyramid: y and x halve each time, z as soon as its pixels are known to be no larger than theirs.

    Args:
        shape: The shape of the labels, YX or ZYX.
        resolution: Their pixel size.
    """
    shape = tuple(int(size) for size in shape)
    levels = [PyramidLevel("0", shape, (1,) * len(shape), (1,) * len(shape))]
    while max(levels[-1].shape[-2:]) > _SMALLEST_LEVEL:
        last = levels[-1]
        step = (2, 2) if len(shape) == 2 else (_step_z(last, resolution), 2, 2)
        smaller = tuple(-(-size // by) for size, by in zip(last.shape, step))
        factor = tuple(f * by for f, by in zip(last.factor, step))
        levels.append(PyramidLevel(str(len(levels)), smaller, step, factor))
    return levels


def _step_z(level: PyramidLevel, resolution: Resolution) -> int:
    z, y = (resolution.size.get(axis) for axis in "zy")
    if z is None or y is None or level.shape[0] == 1:
        return 1
    return 2 if z * level.factor[0] <= y * level.factor[1] else 1


def create_pyramid(
    path: Path,
    levels: Sequence[PyramidLevel],
    dtype: np.dtype,
    chunks: Sequence[int] | None = None,
    axes: str = "zyx",
) -> Any:
    """Make the empty arrays of a pyramid in a new zarr group and return the group.

    Args:
        path: The folder; what is there is replaced.
        levels: From `plan_levels`.
        dtype: The type of the labels.
        chunks: The chunk shape; by default 512 x 512, or 16 x 512 x 512.
        axes: A letter for each axis, "zyx" or "tyx"; of an image the last two count.
    """
    import zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for level in levels:
        ndim = len(level.shape)
        fitting = tuple(max(1, min(n, c)) for n, c in zip(level.shape, chunks or _CHUNK[-ndim:]))
        names = list(axes[-ndim:])
        group.create_array(level.name, shape=level.shape, dtype=dtype, chunks=fitting, dimension_names=names)
    return group


def fill_level(group: Any, levels: Sequence[PyramidLevel], number: int, window: Window) -> None:
    """Compute a window of a level from the level before."""
    level, source = levels[number], group[levels[number - 1].name]
    above = tuple(
        slice(part.start * by, min(part.stop * by, size)) for part, by, size in zip(window, level.step, source.shape)
    )
    group[level.name][window] = downsample_labels(source[above], level.step)


def windows(shape: Sequence[int], block: Sequence[int]) -> Iterator[Window]:
    """The windows that cover an array of a shape in blocks, in C order."""
    ranges = [range(0, size, step) for size, step in zip(shape, block)]
    for corner in itertools.product(*ranges):
        yield tuple(slice(start, min(start + step, size)) for start, step, size in zip(corner, block, shape))


def downsample_labels(labels: np.ndarray, step: Sequence[int]) -> np.ndarray:
    """Labels of which each is the most frequent one of a small block; among equals objects win over background.

    Args:
        labels: Integer labels of any number of axes.
        step: The block's size per axis.

    Returns:
        Labels of the same type; a block that is cut off at the end counts only what is there.
    """
    padding = [(0, -size % by) for size, by in zip(labels.shape, step)]
    padded = np.pad(labels, padding, mode="edge") if any(after for _, after in padding) else labels
    parts = [
        padded[tuple(slice(start, None, by) for start, by in zip(offset, step))]
        for offset in itertools.product(*map(range, step))
    ]
    best, most = parts[0].copy(), _votes(parts[0], parts)
    for part in parts[1:]:
        votes = _votes(part, parts)
        better = votes > most
        best[better], most[better] = part[better], votes[better]
    return best


def _votes(part: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    votes = (part != 0).astype(np.uint8)
    for other in parts:
        votes += np.uint8(2) * (part == other)
    return votes


def finish_pyramid(
    group: Any,
    levels: Sequence[PyramidLevel],
    resolution: Resolution,
    attributes: Mapping[str, Any] | None = None,
    axes: str = "zyx",
) -> None:
    """Write the OME-Zarr metadata that make the group a label image.

    Args:
        group: From `create_pyramid`, completely written.
        levels: Its levels.
        resolution: The pixel size and position of the first level.
        attributes: Further attributes of the group.
        axes: A letter for each axis, "zyx" or "tyx"; of an image the last two count.
    """
    from yaozarrs import v05

    from micro_sam import __version__

    axes = axes[-len(levels[0].shape) :]
    multiscale = v05.Multiscale(
        name="labels",
        axes=[v05.TimeAxis(name=a) if a == "t" else v05.SpaceAxis(name=a, unit=resolution.unit) for a in axes],
        datasets=[_dataset(level, axes, resolution) for level in levels],
        type="mode",
    )
    image = v05.LabelImage(multiscales=[multiscale], image_label=v05.ImageLabel())
    document = image.model_dump(mode="json", by_alias=True, exclude_none=True)
    group.attrs.update({**(attributes or {}), "ome": document, WRITER_MARK: __version__})


def _dataset(level: PyramidLevel, axes: str, resolution: Resolution) -> Any:
    from yaozarrs import v05

    size = resolution.scale(axes)
    scale = [s * f for s, f in zip(size, level.factor)]
    # The first pixel of a lower level lies in the middle of those it stands for.
    shift = [o + s * (f - 1) / 2 for o, s, f in zip(resolution.shift(axes), size, level.factor)]
    transformations: list[Any] = [v05.ScaleTransformation(scale=scale)]
    if any(shift):
        transformations.append(v05.TranslationTransformation(translation=shift))
    return v05.Dataset(path=level.name, coordinateTransformations=transformations)
