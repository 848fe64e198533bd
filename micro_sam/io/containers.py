"""Images inside hdf5 files, zarr stores and OME-Zarr."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError
from micro_sam.io.images import ImageFile
from micro_sam.io.ome_zarr import first_series, levels_of
from micro_sam.io.resolution import Resolution

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
    """Open an array of a zarr store.

    Without a key this is the root, the full resolution of an OME-Zarr, or the only array there is. A key names an array
    (also a lower level of an OME-Zarr, ``1``) or a group that holds one image (``labels/cells``).
    """
    import zarr

    root = zarr.open(str(path), mode="r")
    if isinstance(root, zarr.Array):
        if key is not None:
            raise InputError(f"'{path}' is a single array, but the key '{key}' was given; leave the key out.")
        return _image_of_array(path, None, root, *_facts_of_array(_parent_of(path), root, path.name))
    node, name = (first_series(root), "") if key is None else (_member(root, key), key.strip("/"))
    if isinstance(node, zarr.Array):
        parent, _, last = name.rpartition("/")
        return _image_of_array(path, name, node, *_facts_of_array(root[parent] if parent else root, node, last))
    if node is not None and (levels := levels_of(node)):
        array = node[levels[0].path]
        return _image_of_array(path, _path_of(array), array, levels[0].axes, levels[0].resolution)
    arrays = dict(_zarr_arrays(root if node is None else node, f"{name}/" if node is not None and name else ""))
    key = _choose(path, key if node is None else None, arrays)
    return _image_of_array(path, key, arrays[key], _axes_of_array(arrays[key]), None)


def _member(root: Any, key: str) -> Any | None:
    try:
        return root[key.strip("/")] if key.strip("/") else root
    except KeyError:
        return None


def _path_of(array: Any) -> str:
    return str(array.path).strip("/")


def _parent_of(path: Path) -> Any | None:
    """The group around an array that was named directly, ``image.ome.zarr/1``."""
    import zarr

    try:
        return zarr.open_group(str(path.absolute().parent), mode="r")
    except (OSError, ValueError, zarr.errors.BaseZarrError):
        return None


def _facts_of_array(parent: Any | None, array: Any, name: str) -> tuple[str | None, Resolution | None]:
    """Axes and resolution of an array: those of the level of an image that it is, or the axes it names itself."""
    for level in levels_of(parent) if parent is not None else ():
        if level.path == name:
            return level.axes, level.resolution
    return _axes_of_array(array), None


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
