"""Reading objects that another program made, as labels that can be corrected here."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path

from micro_sam.errors import InputError, MicroSamError
from micro_sam.exports.content import ImportedLabels
from micro_sam.exports.registry import reader_for
from micro_sam.exports.settings import ImportSettings
from micro_sam.progress import Progress, drain


def import_labels(
    path: str | os.PathLike,
    shape: Sequence[int] | None = None,
    *,
    key: str | None = None,
    settings: ImportSettings | None = None,
    verbose: bool = False,
) -> ImportedLabels:
    """Import objects from a file of another program.

    Label images keep their labels. Of shapes (ROIs, GeoJSON, COCO, TrackMate), a pixel belongs to an object if its centre lies
    inside; where objects overlap, the smaller one is kept; what lies outside of the image is left out; objects keep the
    numbers that the file gives them, if each has one, else they are numbered from 1.

    Args:
        path: A label image (tif, png, npy, OME-Zarr, HDF5), ImageJ ROIs (.zip, .roi), GeoJSON (.geojson, .json), COCO (.json), a
            Cell Tracking Challenge folder, a graph (.geff) or a TrackMate file (.xml).
        shape: The shape of the image, YX, ZYX or TYX; ImageJ ROIs and GeoJSON need it.
        key: The data set inside an HDF5 or zarr file, or the image of a COCO document.
        settings: Further choices, such as the scale for objects of a smaller copy of the image.
        verbose: Show a progress bar.

    Returns:
        Labels, classes, lineages, and notes that say what was left out or changed.

    Raises:
        MissingInputError: There is no such file.
        InputError: It cannot be read, or does not fit the image.
        MissingDependencyError: A package is needed that is not installed.
    """
    return drain(iter_import(path, shape, key, settings), verbose)


def iter_import(
    path: str | os.PathLike,
    shape: Sequence[int] | None = None,
    key: str | None = None,
    settings: ImportSettings | None = None,
) -> Generator[Progress, None, ImportedLabels]:
    """`import_labels` as a generator."""
    path, settings = _chosen(Path(path)), settings or ImportSettings()
    yield Progress(0, 1, f"Import {path.name}")
    shape = None if shape is None else tuple(int(size) for size in shape)
    try:
        found = yield from reader_for(path).iter_read(path, shape, settings.scale, key)
    except MicroSamError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"'{path}' is not as expected ({type(error).__name__}: {error}); was it written completely?"
        ) from error
    yield Progress(1, 1, f"Import {path.name}")
    return found


def _chosen(path: Path) -> Path:
    """The zarr or GEFF folder, where a file dialog could only choose a file in it."""
    return path.parent if path.name in ("zarr.json", ".zattrs", ".zgroup") else path
