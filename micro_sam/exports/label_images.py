"""Objects as label images: TIFF (ImageJ), OME-TIFF, OME-Zarr; reading also pictures, HDF5 and .npy of Cellpose and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from micro_sam.errors import InputError, ParameterError
from micro_sam.exports.content import ImportedLabels, LabelledImage
from micro_sam.exports.fitting import fitted
from micro_sam.exports.settings import ExportSettings
from micro_sam.io.images import ImageFile, open_image
from micro_sam.io.labels import write_labels
from micro_sam.progress import Progress


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Iterator[Progress]:
    """Write a label image in the format that the suffix names."""
    yield Progress(0, 1, "Write labels")
    if content.labels.max(initial=0) > np.iinfo(np.uint32).max and path.suffix.lower() != ".zarr":
        raise ParameterError(
            f"TIFF files hold labels up to {np.iinfo(np.uint32).max}, got larger ones; write .zarr instead."
        )
    is_ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    resolution = replace(content.resolution, flavour="ome" if is_ome else "imagej", tags=None)
    write_labels(path, content.labels, resolution, is_timeseries=content.is_timeseries)


def iter_read(path: Path, shape: Sequence[int] | None, scale: float, key: str | None) -> Iterator[Progress]:
    """Read a label image; its labels stay as they are.

    Returns:
        The `ImportedLabels`.
    """
    yield Progress(0, 1, "Read labels")
    _refuse_pickles(path)
    file = open_image(path, key)
    labels = _as_labels(np.asarray(file.read()), path)
    if shape is not None and len(shape) == 3 and labels.ndim == 2 and shape[0] == 1:
        labels = labels[None]
    labels = fitted(labels, shape, scale, path)
    return ImportedLabels(
        labels, resolution=_scaled(file, scale), is_timeseries="T" in (file.axes or "") and labels.ndim == 3
    )


def _scaled(file: ImageFile, scale: float):
    if file.resolution is None or scale == 1:
        return file.resolution
    return file.resolution.at_level({"y": 1 / scale, "x": 1 / scale})


def _refuse_pickles(path: Path) -> None:
    """Cellpose saves its results as a pickled object, which runs whatever program is in it when it is read."""
    if path.suffix.lower() == ".npy" and path.is_file() and _holds_objects(path):
        raise InputError(
            f"'{path}' holds a Python object, which could run any program when it is opened, so it is not; in Cellpose use "
            "File, Save masks as PNG/tif (the command's --save_tif or --save_png), and import the file ..._cp_masks."
        )


def _holds_objects(path: Path) -> bool:
    """Whether the header of a .npy file, which is plain text, announces Python objects."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with path.open("rb") as file:
            _, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError):  # no such header; who reads it says what is wrong
        return False
    return dtype.hasobject


def _as_labels(labels: np.ndarray, path: Path) -> np.ndarray:
    if (
        labels.ndim == 3
        and labels.shape[-1] in (3, 4)
        and labels.dtype == np.uint8
        and path.suffix.lower() not in (".npy",)
    ):
        if not (labels[..., 0] == labels[..., 1]).all() or not (labels[..., 0] == labels[..., 2]).all():
            raise InputError(
                f"'{path}' is a picture in colours, expected labels; save the labels as 16-bit tif or png."
            )
        labels = labels[..., 0]
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if np.issubdtype(labels.dtype, np.floating) and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (2, 3):
        raise InputError(
            f"'{path}' holds {labels.dtype} of shape {tuple(labels.shape)}, expected integer labels YX, ZYX or TYX."
        )
    if labels.size and labels.min() < 0:
        raise InputError(
            f"'{path}' holds the label {labels.min()}, expected 0 for background and larger ones for objects."
        )
    largest = int(labels.max(initial=0))
    return labels.astype(next(kind for kind in (np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(kind).max))
