"""Which reader a path belongs to. Imports nothing heavy: the commands use it before any work."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path

from micro_sam.errors import InputError, MissingInputError


class Format(Enum):
    """The kinds of image data that can be read; the value is how a person calls it."""

    TIF = "TIFF"
    PICTURE = "picture"
    HDF5 = "HDF5"
    ZARR = "zarr"
    NPY = "NumPy"
    STACK = "folder of images"


_SUFFIXES = {
    Format.TIF: (".tif", ".tiff", ".btf", ".tf8", ".lsm", ".stk", ".svs", ".qptiff"),
    Format.PICTURE: (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"),
    Format.HDF5: (".h5", ".hdf5", ".hdf", ".he5"),
    Format.ZARR: (".zarr",),
    Format.NPY: (".npy",),
}
_FORMAT_OF = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
_LEVEL = re.compile(r"(\d+/)?\d+")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return path.is_dir() and (path.suffix == ".zarr" or any((path / name).exists() for name in _ZARR_FILES))


def image_format(path: str | os.PathLike, key: str | None = None) -> Format:
    """How the data at a path is read.

    Args:
        path: A file, a zarr folder, or a folder of images.
        key: The data set inside, or for a folder of images a pattern.

    Raises:
        MissingInputError: If there is nothing at the path.
        InputError: If it is not an image in a format that can be read, or the key does not fit it.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There is no file or folder '{path}'; check the path.")
    if is_zarr(path):
        return Format.ZARR
    if path.is_dir():
        if key is None:
            raise InputError(
                f"'{path}' is a folder, expected an image file; a key such as '*.tif' reads it as a stack."
            )
        return Format.STACK
    return _file_format(path, key)


def _file_format(path: Path, key: str | None) -> Format:
    kind = _FORMAT_OF.get(path.suffix.lower())
    if kind is None or kind is Format.ZARR:
        known = ", ".join(sorted(_FORMAT_OF))
        raise InputError(f"'{path}' is not in a format that can be read ({known}); convert it, for example to .tif.")
    if not os.access(path, os.R_OK):
        raise InputError(f"'{path}' may not be read; change its permissions.")
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is an empty file; was it copied completely?")
    if kind is Format.TIF and key is not None and not _LEVEL.fullmatch(key):
        raise InputError(
            f"'{path}' has no data sets inside, but the key '{key}' was given; leave the key out, or give the number of a "
            "lower resolution such as 1."
        )
    if key is not None and kind not in (Format.HDF5, Format.TIF):
        raise InputError(f"'{path}' has no data sets inside, but the key '{key}' was given; leave the key out.")
    return kind
