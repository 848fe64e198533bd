"""Images inside hdf5 files, zarr stores and OME-Zarr."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError
from micro_sam.io.images import ImageFile
from micro_sam.io.resolution import Resolution, resolution_of_ome_zarr

_MOST_NAMES = 8


def open_hdf5(path: Path, key: str | None) -> ImageFile:
    """Open a data set of an hdf5 file; without a key the only one there is."""
    import h5py

    with h5py.File(path, "r") as file:
        found = _hdf5_datasets(file)
        key = _choose(path, key, found)
        shape, dtype = found[key]

    def read(lazy: bool) -> Any:
        file = h5py.File(path, "r")
        if lazy:
            return file[key]  # keeps the file open as long as it lives
        with file:
            return file[key][...]

    return ImageFile(path, key, shape, dtype, None, None, read)


def _hdf5_datasets(file: Any) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    import h5py

    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.shape, item.dtype)

    file.visititems(visit)
    return found


def open_zarr(path: Path, key: str | None) -> ImageFile:
    """Open an array of a zarr store; without a key the root, the full resolution of an OME-Zarr, or the only one."""
    import zarr

    root = zarr.open(str(path), mode="r")
    if isinstance(root, zarr.Array):
        if key is not None:
            raise InputError(f"'{path}' is a single array, but the key '{key}' was given; leave the key out.")
        return _image_of_array(path, None, root, _axes_of_array(root), None)
    group = root[key] if key is not None and key in root and isinstance(root[key], zarr.Group) else root
    level = _full_resolution(group)
    if level is not None and (key is None or group is not root):
        name, axes, resolution = level
        return _image_of_array(path, "/".join(filter(None, [key, name])), group[name], axes, resolution)
    arrays = {name: array for name, array in _zarr_arrays(root)}
    key = _choose(path, key, arrays)
    return _image_of_array(path, key, arrays[key], _axes_of_array(arrays[key]), None)


def _image_of_array(path: Path, key: str | None, array: Any, axes: str | None, res: Resolution | None) -> ImageFile:
    def read(lazy: bool) -> Any:
        return array if lazy else array[...]

    return ImageFile(path, key, tuple(array.shape), np.dtype(array.dtype), axes, res, read)


def _zarr_arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield prefix + name, array
    for name, child in group.groups():
        yield from _zarr_arrays(child, f"{prefix}{name}/")


def _axes_of_array(array: Any) -> str | None:
    names = getattr(array.metadata, "dimension_names", None)
    if not names or any(name is None or len(name) != 1 for name in names):
        return None
    return "".join(names).upper()


def _full_resolution(group: Any) -> tuple[str, str | None, Resolution | None] | None:
    """Name, axes and resolution of an OME-Zarr image's first level (metadata 0.4 and 0.5), None for other groups."""
    attributes = dict(group.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        return None
    first = multiscales[0]
    level = first["datasets"][0]
    name = level["path"]
    axes = first.get("axes")
    if not axes or not all(isinstance(axis, Mapping) for axis in axes):
        return name, None, None
    letters = "".join(str(axis["name"])[:1].upper() for axis in axes)
    return name, letters, resolution_of_ome_zarr(axes, _scale(level, len(axes)))


def _scale(level: Mapping[str, Any], n_axes: int) -> list[float]:
    for transformation in level.get("coordinateTransformations", []):
        if transformation.get("type") == "scale":
            return [float(value) for value in transformation["scale"]]
    return [1.0] * n_axes


def _choose(path: Path, key: str | None, found: Mapping[str, Any]) -> str:
    """The key to read, with an error that lists what is there."""
    if not found:
        raise InputError(f"'{path}' holds no data set; was it written completely?")
    names = sorted(found, key=lambda name: [int(s) if s.isdigit() else 0 for s in re.split(r"(\d+)", name)])
    listing = ", ".join(f"'{name}'" for name in names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    if key is None:
        if len(names) > 1:
            raise InputError(f"'{path}' holds {len(names)} data sets, name one with a key: {listing}.")
        return names[0]
    if key.strip("/") not in found:
        raise MissingInputError(f"'{path}' has no data set '{key}'; there are: {listing}.")
    return key.strip("/")
