"""The formats: what they are called, which files they are, and which module writes and reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from micro_sam.errors import MissingInputError, OutputError
from micro_sam.io.paths import check_folder_of


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        name: How commands call it.
        title: How windows call it.
        suffixes: What its files end with, the usual one first; none for a folder.
        module: The module with ``iter_write`` and, if it can be read, ``iter_read``.
        readable: Whether objects can be read from it.
        is_tracks: It holds tracks of a time series.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    module: str
    readable: bool = True
    is_tracks: bool = False

    def load(self) -> Any:
        """The module."""
        return import_module(f"micro_sam.exports.{self.module}")


FORMATS = {
    found.name: found
    for found in (
        ExportFormat("ome-tif", "Label image, OME-TIFF", (".ome.tif", ".ome.tiff"), "label_images"),
        ExportFormat("tif", "Label image, TIFF", (".tif", ".tiff"), "label_images"),
        ExportFormat("ome-zarr", "Labels, OME-Zarr", (".ome.zarr", ".zarr"), "label_images"),
        ExportFormat("imagej", "ImageJ/Fiji ROIs", (".zip",), "imagej_rois"),
        ExportFormat("geojson", "GeoJSON for QuPath", (".geojson",), "geojson"),
        ExportFormat("coco", "COCO annotations", (".json",), "coco"),
        ExportFormat("csv", "Measurements, CSV", (".csv",), "tables", readable=False),
        ExportFormat("parquet", "Measurements, Parquet", (".parquet",), "tables", readable=False),
        ExportFormat("ctc", "Tracks, Cell Tracking Challenge", (), "tracks", is_tracks=True),
        ExportFormat("geff", "Tracks, GEFF graph", (".geff",), "tracks", is_tracks=True),
    )
}


def format_of(path: str | os.PathLike) -> ExportFormat:
    """The format that a path names.

    Raises:
        OutputError: None has that suffix.
    """
    name = Path(path).name.lower()
    for found in FORMATS.values():
        if name.endswith(found.suffixes) if found.suffixes else "." not in name.strip("."):
            return found
    known = ", ".join(found.suffixes[0] for found in FORMATS.values() if found.suffixes)
    raise OutputError(f"'{path}' names no format: use one of {known}, or a folder without suffix for tracks.")


def check_export(path: str | os.PathLike, overwrite: bool = False, format: str | None = None) -> ExportFormat:
    """Find the format for a path and whether it can be written; nothing is written yet.

    Args:
        path: The output.
        overwrite: Whether something that is there is replaced.
        format: The format's name, if the path may not decide.

    Raises:
        OutputError: It cannot be written, or is there already.
        MissingDependencyError: A package is needed that is not installed.
    """
    path = Path(path)
    found = format_of(path)
    if format is not None and found.name != format:
        suffix = " or ".join(FORMATS[format].suffixes) or "no suffix"
        raise OutputError(
            f"'{path}' is the name of {found.title}, but {FORMATS[format].title} has {suffix}; change one."
        )
    module = found.load()
    for target in written(path):
        check_folder_of(target)
        if target.exists() and not overwrite:
            raise OutputError(f"'{target}' exists and is not replaced; choose another name, or allow it (--overwrite).")
        if target.is_dir() and not found.is_tracks and found.name != "ome-zarr":
            raise OutputError(f"'{target}' is a folder, expected the name of a file to write; choose another name.")
    if found.module == "label_images":
        from micro_sam.io.labels import check_labels_path

        check_labels_path(path)
    elif hasattr(module, "check"):
        module.check(path)
    return found


def written(path: str | os.PathLike) -> list[Path]:
    """All files and folders that an export to a path writes."""
    path = Path(path)
    found = format_of(path)
    return list(found.load().files_of(path).values()) if found.is_tracks else [path]


def reader_for(path: str | os.PathLike) -> Any:
    """The module that reads a file, found by its name and, for .json, by what is in it.

    Raises:
        MissingInputError: There is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There is no file or folder '{path}'; check the path.")
    name = path.name.lower()
    if name.endswith(".xml"):
        return import_module("micro_sam.exports.trackmate")
    if name.endswith((".zip", ".roi")):
        return FORMATS["imagej"].load()
    if name.endswith((".json", ".geojson")):
        return FORMATS["geojson" if name.endswith(".geojson") or _is_geojson(path) else "coco"].load()
    if name.endswith((".geff", ".txt")) or (path.is_dir() and any(path.glob("*_track.txt"))):
        return FORMATS["ctc"].load()
    return FORMATS["tif"].load()


def _is_geojson(path: Path) -> bool:
    from micro_sam.exports.texts import read_json

    document = read_json(path)
    return isinstance(document, list) or (isinstance(document, dict) and "images" not in document)
