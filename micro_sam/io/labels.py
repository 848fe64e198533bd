"""Writing instance labels, as tif or OME-Zarr, with the pixel size of the image they belong to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import OutputError, ParameterError
from micro_sam.io.paths import check_folder_of, replacing
from micro_sam.io.resolution import Resolution

TIF_SUFFIXES = (".tif", ".tiff")
ZARR_SUFFIXES = (".zarr",)
_WRITER_MARK = "micro_sam_version"
_IMAGEJ_MOST_BYTES = 2**31
_SMALLEST_LEVEL = 512


def check_labels_path(path: str | os.PathLike) -> None:
    """Raise an `OutputError` if labels cannot be written to a path; nothing is written yet."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in TIF_SUFFIXES + ZARR_SUFFIXES:
        raise OutputError(f"Labels are written as .tif or .zarr, but the output is '{path}'; choose one of these suffixes.")
    check_folder_of(path)
    if suffix in TIF_SUFFIXES and path.is_dir():
        raise OutputError(f"'{path}' is a folder, expected the name of a file to write; choose another output path.")
    if suffix in ZARR_SUFFIXES and path.exists() and not _is_ours(path):
        raise OutputError(f"'{path}' exists and does not hold labels of micro_sam, so it is not replaced; choose another.")


def write_labels(path: str | os.PathLike, labels: np.ndarray, resolution: Resolution | None = None) -> None:
    """Write labels; an existing result is replaced once the new one is complete.

    Args:
        path: The output. ``.tif`` writes zlib compressed TIFF with the metadata of the image's flavour (ImageJ, OME or
            resolution tags); ``.zarr`` and ``.ome.zarr`` write OME-Zarr 0.5, its arrays ``0``, ``1``, ... halving in size.
        labels: Integer labels ``YX`` or ``ZYX``, 0 is background. Written as uint16 where they fit, else uint32.
        resolution: The pixel size of the image.

    Raises:
        OutputError: If it cannot be written.
    """
    check_labels_path(path)
    if labels.ndim not in (2, 3) or not np.issubdtype(labels.dtype, np.integer):
        raise ParameterError(f"Labels are integers of 2 or 3 axes, got {labels.dtype} of shape {labels.shape}.")
    labels = _smallest_type(labels)
    write = _write_tif if Path(path).suffix.lower() in TIF_SUFFIXES else _write_ome_zarr
    with replacing(path) as temporary:
        write(temporary, labels, resolution or Resolution({}))


def _smallest_type(labels: np.ndarray) -> np.ndarray:
    largest = int(labels.max()) if labels.size else 0
    return labels.astype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32, copy=False)


def _write_tif(path: Path, labels: np.ndarray, resolution: Resolution) -> None:
    import tifffile

    axes = "YX" if labels.ndim == 2 else "ZYX"
    arguments: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack"}
    flavour = resolution.flavour or ("imagej" if resolution.size and resolution.tags is None else None)
    if flavour == "imagej" and labels.dtype == np.uint16 and labels.nbytes < _IMAGEJ_MOST_BYTES:
        arguments |= {"imagej": True, "metadata": _imagej_metadata(axes, resolution)}
    elif flavour is not None and resolution.ome_unit is not None:
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
    for axis, size in resolution.size.items():
        metadata[f"PhysicalSize{axis.upper()}"] = size
        metadata[f"PhysicalSize{axis.upper()}Unit"] = resolution.ome_unit
    return metadata


def _is_ours(path: Path) -> bool:
    """Whether a zarr group carries the mark that `_write_ome_zarr` leaves."""
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("attributes", {})
    except (OSError, ValueError, AttributeError):
        return False
    return _WRITER_MARK in attributes and "image-label" in attributes.get("ome", {})


def _write_ome_zarr(path: Path, labels: np.ndarray, resolution: Resolution) -> None:
    import zarr

    from micro_sam import __version__

    axes = "yx" if labels.ndim == 2 else "zyx"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    datasets, level = [], labels
    while True:
        name, factor = str(len(datasets)), 2 ** len(datasets)
        chunks = tuple(min(n, c) for n, c in zip(level.shape, (16, 512, 512)[-labels.ndim :], strict=True))
        array = group.create_array(name, shape=level.shape, dtype=level.dtype, chunks=chunks, dimension_names=list(axes))
        array[...] = level
        scale = [s * (factor if axis in "yx" else 1) for axis, s in zip(axes, resolution.scale(axes), strict=True)]
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        if max(level.shape[-2:]) <= _SMALLEST_LEVEL:
            break
        level = level[..., ::2, ::2]
    unit = {"unit": resolution.unit} if resolution.unit is not None else {}
    multiscale = {"name": "labels", "axes": [{"name": a, "type": "space", **unit} for a in axes], "datasets": datasets}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
    group.attrs[_WRITER_MARK] = __version__
