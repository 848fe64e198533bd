"""Writing instance labels, as tif or OME-Zarr, with the pixel size of the image they belong to."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import OutputError, ParameterError
from micro_sam.io.label_pyramid import (
    WRITER_MARK,
    create_pyramid,
    fill_level,
    finish_pyramid,
    plan_levels,
    windows,
)
from micro_sam.io.paths import check_folder_of, replacing
from micro_sam.io.resolution import Resolution

TIF_SUFFIXES = (".tif", ".tiff")
ZARR_SUFFIXES = (".zarr",)
_IMAGEJ_MOST_BYTES = 2**31


def check_labels_path(path: str | os.PathLike) -> None:
    """Raise an `OutputError` if labels cannot be written to a path; nothing is written yet."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in TIF_SUFFIXES + ZARR_SUFFIXES:
        raise OutputError(
            f"Labels are written as .tif or .zarr, but the output is '{path}'; choose one of these suffixes."
        )
    check_folder_of(path)
    if suffix in TIF_SUFFIXES and path.is_dir():
        raise OutputError(f"'{path}' is a folder, expected the name of a file to write; choose another output path.")
    if suffix in ZARR_SUFFIXES and path.exists() and not _is_ours(path):
        raise OutputError(
            f"'{path}' exists and does not hold labels of micro_sam, so it is not replaced; choose another."
        )


def write_labels(
    path: str | os.PathLike, labels: Any, resolution: Resolution | None = None, *, is_timeseries: bool = False
) -> None:
    """Write labels; an existing result is replaced once the new one is complete.

    Args:
        path: The output. ``.tif`` writes zlib compressed TIFF with the metadata of the image's flavour (ImageJ, OME or
            resolution tags); ``.zarr`` and ``.ome.zarr`` write OME-Zarr 0.5 with the image's pixel size and position,
            its arrays ``0``, ``1``, ... halving in size by the most frequent label.
        labels: Integer labels ``YX`` or ``ZYX``, 0 is background: an array in memory, or a lazy one (zarr, dask, HDF5),
            which for ``.zarr`` is written block by block. Those in memory are written as uint16, uint32 or uint64,
            whatever they fit into, lazy ones as uint32 or uint64 by their type.
        resolution: The pixel size of the image.
        is_timeseries: The first of three axes is time, and the file says so.

    Raises:
        ParameterError: If they are not labels.
        OutputError: If they cannot be written.
    """
    check_labels_path(path)
    if len(labels.shape) not in (2, 3) or not np.issubdtype(labels.dtype, np.integer):
        raise ParameterError(f"Labels are integers of 2 or 3 axes, got {labels.dtype} of shape {tuple(labels.shape)}.")
    is_tif = Path(path).suffix.lower() in TIF_SUFFIXES
    labels = _smallest_type(labels) if is_tif or isinstance(labels, np.ndarray) else _LazyLabels(labels)
    resolution = resolution or Resolution({})
    with replacing(path) as temporary:
        if is_tif:
            _write_tif(temporary, labels, resolution, "TYX" if is_timeseries else "ZYX")
        else:
            _write_ome_zarr(temporary, labels, resolution, "tyx" if is_timeseries else "zyx")


class _LazyLabels:
    """Labels that are read window by window, as unsigned integers."""

    def __init__(self, labels: Any) -> None:
        self._labels, self.shape, self.ndim = labels, tuple(labels.shape), len(labels.shape)
        self.dtype = np.dtype(np.uint64 if np.dtype(labels.dtype).itemsize > 4 else np.uint32)

    def __getitem__(self, window: Any) -> np.ndarray:
        block = np.asarray(self._labels[window])
        _check_not_negative(block)
        return block.astype(self.dtype, copy=False)


def _smallest_type(labels: Any) -> np.ndarray:
    labels = np.asarray(labels)
    _check_not_negative(labels)
    largest = int(labels.max()) if labels.size else 0
    kinds = (np.uint16, np.uint32, np.uint64)
    return labels.astype(next(kind for kind in kinds if largest <= np.iinfo(kind).max), copy=False)


def _check_not_negative(labels: np.ndarray) -> None:
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ParameterError(f"Labels are 0 or larger, got {labels.min()}; give background the label 0.")


def _write_tif(path: Path, labels: np.ndarray, resolution: Resolution, axes: str) -> None:
    import tifffile

    axes = axes[-labels.ndim :]
    arguments: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack"}
    flavour = resolution.flavour or ("imagej" if resolution.size and resolution.tags is None else None)
    if flavour == "imagej" and labels.dtype == np.uint16 and labels.nbytes < _IMAGEJ_MOST_BYTES:
        arguments |= {"imagej": True, "metadata": _imagej_metadata(axes, resolution)}
    elif flavour == "ome" or (flavour is not None and resolution.ome_unit is not None):
        arguments |= {"ome": True, "metadata": _ome_metadata(axes, resolution)}
    else:
        arguments |= {"metadata": {"axes": axes}}
    x, y, unit = _tif_tags(resolution)
    if x is not None:
        arguments |= {"resolution": (x, y), "resolutionunit": unit}
    tifffile.imwrite(path, labels, **arguments)


def _tif_tags(resolution: Resolution) -> tuple[Any, Any, int]:
    if resolution.tags is not None:
        return resolution.tags
    if "y" in resolution.size and "x" in resolution.size:
        return 1 / resolution.size["x"], 1 / resolution.size["y"], 1  # pixels per unit, as ImageJ writes them
    return None, None, 1


def _imagej_metadata(axes: str, resolution: Resolution) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    if resolution.unit is not None:
        metadata["unit"] = {"micrometer": "micron"}.get(resolution.unit, resolution.ome_unit)
    if "z" in resolution.size and "Z" in axes:
        metadata["spacing"] = resolution.size["z"]
    return metadata


def _ome_metadata(axes: str, resolution: Resolution) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    for axis, size in resolution.size.items() if resolution.ome_unit is not None else ():
        metadata[f"PhysicalSize{axis.upper()}"] = size
        metadata[f"PhysicalSize{axis.upper()}Unit"] = resolution.ome_unit
    return metadata


def _is_ours(path: Path) -> bool:
    """Whether a zarr group carries the mark of label images written here."""
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("attributes", {})
    except (OSError, ValueError, AttributeError):
        return False
    return WRITER_MARK in attributes and "image-label" in attributes.get("ome", {})


def _write_ome_zarr(path: Path, labels: Any, resolution: Resolution, axes: str) -> None:
    if axes[0] == "t":  # frames are not merged, whatever the file says of a third axis
        resolution = replace(resolution, size={a: s for a, s in resolution.size.items() if a != "z"})
    levels = plan_levels(labels.shape, resolution)
    group = create_pyramid(path, levels, np.dtype(labels.dtype), axes=axes)
    block = tuple(by * n for by, n in zip((1, 4, 4)[-labels.ndim :], group["0"].chunks))
    for window in windows(levels[0].shape, block):
        group["0"][window] = np.asarray(labels[window])
    for number, level in enumerate(levels[1:], start=1):
        for window in windows(level.shape, block):
            fill_level(group, levels, number, window)
    finish_pyramid(group, levels, resolution, axes=axes)
