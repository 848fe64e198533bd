"""A folder of images of the same shape, read as one volume or time series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError
from micro_sam.io.images import ImageFile, open_image
from micro_sam.io.paths import natural_order
from micro_sam.io.resolution import Resolution


def open_stack(folder: Path, pattern: str) -> ImageFile:
    """Open the files of a folder that match a pattern as one array with a new first axis, in natural order."""
    paths = sorted((path for path in folder.glob(pattern) if path.is_file()), key=natural_order)
    if not paths:
        raise MissingInputError(f"No file in '{folder}' matches '{pattern}'; check the pattern.")
    slices = [open_image(path) for path in paths]
    for image in slices[1:]:
        if (image.shape, image.dtype) != (slices[0].shape, slices[0].dtype):
            raise InputError(
                f"The files of a stack must have the same shape and type, but '{paths[0]}' is {slices[0].shape} "
                f"{slices[0].dtype} and '{image.path}' is {image.shape} {image.dtype}; choose another pattern."
            )
    first = slices[0].resolution
    in_plane = {axis: size for axis, size in first.size.items() if axis != "z"} if first is not None else {}
    resolution = Resolution(in_plane, first.unit, first.tags, first.flavour) if first is not None else None

    def read(lazy: bool) -> Any:
        return _lazy_stack(slices) if lazy else np.stack([image.read() for image in slices])

    return ImageFile(folder, pattern, (len(slices), *slices[0].shape), slices[0].dtype, None, resolution, read)


def _lazy_stack(slices: list[ImageFile]) -> Any:
    import dask
    import dask.array

    read = dask.delayed(lambda image: image.read(), pure=False)
    return dask.array.stack(
        [dask.array.from_delayed(read(image), shape=image.shape, dtype=image.dtype) for image in slices]
    )
