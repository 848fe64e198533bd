"""Opening image files: what is in them is known before anything large is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MicroSamError, MissingInputError
from micro_sam.io.axes import public_shape, to_public_order
from micro_sam.io.formats import Format, image_format
from micro_sam.io.resolution import Resolution

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """An image that was opened but not yet read.

    Attributes:
        path: Where it is.
        key: The data set inside, or the pattern of a folder.
        stored_shape: Its shape in the file.
        dtype: Its data type.
        axes: One letter per axis of the stored shape if the file says so (``TCZYX``, ``S`` for colour samples).
        resolution: The pixel size if the file says so.
        reader: Called with ``lazy`` returns the stored array.
    """

    path: Path
    key: str | None
    stored_shape: tuple[int, ...]
    dtype: np.dtype
    axes: str | None
    resolution: Resolution | None
    reader: Callable[[bool], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the axis order of micro_sam (channels last, axes of length 1 that the file names dropped)."""
        return public_shape(self.stored_shape, self.axes)

    def read(self, lazy: bool = False) -> Any:
        """The array in the axis order of micro_sam.

        Args:
            lazy: Return something that is read when indexed: a memory map, an hdf5 data set, a zarr or a dask array.

        Raises:
            InputError: If the data cannot be read.
        """
        with _readable(self.path):
            return to_public_order(self.reader(lazy), self.axes)


def load_image_data(path: str | os.PathLike, key: str | None = None, lazy_loading: bool = False) -> Any:
    """Read an image, a volume or a time series.

    Reads tif (including OME-TIFF and ImageJ hyperstacks), png, jpg and other pictures, hdf5, zarr (both formats),
    OME-Zarr 0.4 and 0.5, npy, and a folder of images of the same shape as one stack.

    Args:
        path: The file or folder.
        key: For hdf5 and zarr the data set inside; needed only if there are several. For a pyramid (OME-Zarr, OME-TIFF)
            the level, ``0`` for the full resolution; for a tif of several images ``image/level``. For a folder a
            pattern such as ``*.tif``, whose matches are stacked along a new first axis in natural order.
        lazy_loading: Return an array that is read when it is indexed.

    Returns:
        Array ``YX``, ``ZYX`` / ``TYX``, or the same with channels last. Where a file names its axes, channels are moved
        to the end and axes of length 1 are dropped; otherwise the order in the file is kept.

    Raises:
        MissingInputError: If there is nothing at the path, or no data set or file for the key.
        InputError: If the file cannot be read or the key is missing.
    """
    return open_image(path, key).read(lazy_loading)


def open_image(path: str | os.PathLike, key: str | None = None) -> ImageFile:
    """Open an image without reading its pixels; see `load_image_data` for the formats, arguments and errors."""
    path = Path(path)
    kind = image_format(path, key)
    with _readable(path):
        if kind is Format.TIF:
            return _open_tif(path, key)
        if kind is Format.PICTURE:
            return _open_picture(path)
        if kind is Format.NPY:
            return _open_npy(path)
        if kind is Format.STACK:
            from micro_sam.io.stack import open_stack

            return open_stack(path, str(key))
        from micro_sam.io import containers

        return containers.open_hdf5(path, key) if kind is Format.HDF5 else containers.open_zarr(path, key)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever a decoding library raises into an `InputError` that names the file."""
    try:
        yield
    except MicroSamError:
        raise
    except MemoryError as error:
        raise InputError(f"'{path}' does not fit into memory; read it lazily or process a part of it.") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise InputError(f"'{path}' cannot be read ({reason}); was it copied or written completely?") from error


def _open_tif(path: Path, key: str | None) -> ImageFile:
    import tifffile

    from micro_sam.io.resolution import resolution_of_tif

    with tifffile.TiffFile(path) as tif:
        if len(tif.series) > 1 and (key is None or "/" not in key):
            logger.warning("'%s' holds %d images; only the first is used.", path, len(tif.series))
        number, level = _series_and_level(path, tif, key)
        series = tif.series[number].levels[level]
        if _is_truncated(tif, series, path):
            raise ValueError("it ends before its last pixels")
        axes, resolution = _declared_axes(tif, tif.series[number]), resolution_of_tif(tif)
        if level > 0 and resolution is not None and axes is not None:
            full = tif.series[number].shape
            ratios = {axis.lower(): full[i] / series.shape[i] for i, axis in enumerate(axes) if axis in "ZYX"}
            resolution = resolution.at_level(ratios)
        return ImageFile(
            path, key, tuple(series.shape), series.dtype, axes, resolution, _tif_reader(path, number, level)
        )


def _series_and_level(path: Path, tif: Any, key: str | None) -> tuple[int, int]:
    """Which image of a TIFF and which level of its pyramid a key such as ``1`` or ``2/0`` names."""
    first, _, last = (key or "0").rpartition("/")
    number, level = int(first or 0), int(last)
    if number >= len(tif.series):
        raise MissingInputError(f"'{path}' holds {len(tif.series)} images, there is no image {number}; count from 0.")
    levels = tif.series[number].levels
    if level >= len(levels):
        sizes = ", ".join(f"{i} ({' x '.join(map(str, found.shape))})" for i, found in enumerate(levels))
        raise MissingInputError(f"'{path}' has no level {level}; there are: {sizes}.")
    return number, level


def _declared_axes(tif: Any, series: Any) -> str | None:
    """The axes if the file knows them: tifffile stores a bare volume of 3 or 4 slices as if they were colours."""
    is_bare_array = series.kind == "shaped" and "axes" not in (tif.shaped_metadata or ({},))[0]
    return None if is_bare_array else series.axes


def _is_truncated(tif: Any, series: Any, path: Path) -> bool:
    """Whether the pixels of the first or last page lie beyond the end of the file, which would be read as zeros."""
    size = path.stat().st_size
    pages = [page for page in (series.keyframe, series.pages[-1]) if page is not None and page.parent is tif]
    ends = [o + c for page in pages for o, c in zip(page.dataoffsets, page.databytecounts, strict=False)]
    return bool(ends) and max(ends) > size


def _tif_reader(path: Path, series: int, level: int) -> Callable[[bool], Any]:
    def read(lazy: bool) -> Any:
        import tifffile

        if not lazy:
            return tifffile.imread(path, series=series, level=level)
        try:
            return tifffile.memmap(path, mode="r", series=series, level=level)
        except ValueError:  # compressed or in pieces: read chunk by chunk
            import zarr

            array = zarr.open(tifffile.imread(path, series=series, level=level, aszarr=True), mode="r")
            return array["0"] if isinstance(array, zarr.Group) else array

    return read


def _open_picture(path: Path) -> ImageFile:
    import imageio.v3 as iio

    pixels = iio.improps(path, plugin="pillow")
    has_grey_and_alpha = pixels.shape[-1:] == (2,) and len(pixels.shape) == 3
    has_deep_colours = _is_deep_colour_png(path)

    def read(lazy: bool) -> np.ndarray:
        if has_deep_colours:
            import imagecodecs

            return imagecodecs.png_decode(path.read_bytes())
        image = iio.imread(path, plugin="pillow")
        return image[..., 0] if has_grey_and_alpha else image

    shape = pixels.shape[:-1] if has_grey_and_alpha else pixels.shape
    dtype = np.dtype(np.uint16) if has_deep_colours else np.dtype(pixels.dtype)
    return ImageFile(path, None, tuple(shape), dtype, None, None, read)


def _is_deep_colour_png(path: Path) -> bool:
    """Whether it is a PNG with colours of 16 bit, of which Pillow silently drops the lower half."""
    with path.open("rb") as file:
        header = file.read(26)
    return header.startswith(b"\x89PNG") and header[24] == 16 and header[25] in (2, 6)


def _open_npy(path: Path) -> ImageFile:
    def read(lazy: bool) -> np.ndarray:
        return np.load(path, mmap_mode="r" if lazy else None, allow_pickle=False)

    header = np.load(path, mmap_mode="r", allow_pickle=False)
    return ImageFile(path, None, header.shape, header.dtype, None, None, read)
