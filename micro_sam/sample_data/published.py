"""The published sample images: downloaded on first use, checked against their hash, unpacked if they are archives.

The files are listed in ``published.toml``. Function names and what they return are those that users of Segment Anything
for Microscopy have in their scripts.
"""

from __future__ import annotations

import logging
import os
import shutil
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from micro_sam.errors import DownloadError
from micro_sam.models.cache import get_cache_directory

logger = logging.getLogger(__name__)

LayerData = tuple[Any, dict[str, Any], str]


@dataclass(frozen=True)
class Sample:
    """One published sample.

    Attributes:
        title: What a person reads.
        url: Where the file comes from.
        hash: "algorithm:hexdigest" of the file.
        file: Its name on disk.
        folder: For archives: the folder inside with the images; by default the outermost one that has files.
    """

    title: str
    url: str
    hash: str
    file: str
    folder: str | None = None


@cache
def published_samples() -> dict[str, Sample]:
    """All published samples by name."""
    with open(Path(__file__).with_name("published.toml"), "rb") as file:
        return {name: Sample(**entry) for name, entry in tomllib.load(file).items()}


def fetch_sample(name: str, save_directory: str | os.PathLike, progressbar: bool = True) -> Path:
    """Download a sample, unless it is there.

    Args:
        name: A key of `published_samples`.
        save_directory: The folder to put it in; made if it does not exist.
        progressbar: Show the download's progress.

    Returns:
        The image file, or for archives the folder with the images.

    Raises:
        DownloadError: It cannot be downloaded, or what came is not the expected file.
    """
    sample, folder = published_samples()[name], Path(save_directory)
    if not sample.file.endswith(".zip"):
        return _download(sample, folder, progressbar)
    unpacked = folder / Path(sample.file).stem
    if not unpacked.is_dir():
        archive = _download(sample, folder, progressbar)
        _unpack(archive, unpacked)
        archive.unlink()
    return _images_folder(unpacked, sample)


def _download(sample: Sample, folder: Path, progressbar: bool) -> Path:
    """The file, downloaded under another name first."""
    import pooch

    from micro_sam.models.download import file_hash, partial_file

    path = folder / sample.file
    if path.is_file() and file_hash(path, sample.hash) == sample.hash:
        return path
    logger.info("Downloading the sample %r from %s to %s", sample.title, sample.url, path)
    with partial_file(path, "sample data") as partial:
        try:
            downloader = pooch.downloaders.choose_downloader(sample.url, progressbar=progressbar)
            downloader(sample.url, str(partial), None)
        except Exception as error:  # requests, urllib3 and OSError have no common base
            raise DownloadError(
                f"The sample {sample.title!r} cannot be downloaded from {sample.url} ({type(error).__name__}): where "
                f"there is a network, download it and put it at {path}; the synthetic samples need no network."
            ) from error
        if file_hash(partial, sample.hash) != sample.hash:
            raise DownloadError(f"What came from {sample.url} is not the expected {sample.file}; try again later.")
        os.replace(partial, path)
    return path


def _unpack(archive: Path, target: Path) -> None:
    """Extract to a temporary name, so that an interrupted extraction is not taken for a finished one."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(part)  # zipfile keeps every member inside the folder
        part.rename(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise DownloadError(f"The archive {archive} cannot be unpacked to {target}: {error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _images_folder(unpacked: Path, sample: Sample) -> Path:
    folders = sorted((p for p in [unpacked, *unpacked.rglob("*")] if p.is_dir()), key=lambda p: (len(p.parts), p))
    for folder in folders:
        wanted = folder.name == sample.folder if sample.folder else _has_images(folder)
        if wanted and "__MACOSX" not in folder.parts:
            return folder
    raise DownloadError(f"The unpacked sample {unpacked} has no images; delete the folder to download it again.")


def _has_images(folder: Path) -> bool:
    suffixes = (".tif", ".tiff", ".png", ".jpg")
    return any(p.is_file() and p.suffix.lower() in suffixes and not p.name.startswith(".") for p in folder.iterdir())


def _fetcher(name: str, result: str, as_type: Callable[[Path], Any]) -> Callable[[str | os.PathLike], Any]:
    def fetch(save_directory: str | os.PathLike) -> Any:
        return as_type(fetch_sample(name, save_directory))

    fetch.__doc__ = f"""Download the sample "{published_samples()[name].title}" into a folder, unless it is there.

    Args:
        save_directory: The folder; made if it does not exist.

    Returns:
        The path of {result}.

    Raises:
        DownloadError: It cannot be downloaded, or what came is not the expected file.
    """
    return fetch


fetch_image_series_example_data = _fetcher("image_series", "the folder with the images", str)
fetch_wholeslide_example_data = _fetcher("wholeslide", "the image", str)
fetch_livecell_example_data = _fetcher("livecell", "the image", str)
fetch_hela_2d_example_data = _fetcher("hela_2d", "the image", Path)
fetch_3d_example_data = _fetcher("lucchi_3d", "the folder with the slices", str)
fetch_tracking_example_data = _fetcher("tracking", "the folder with the frames", str)
fetch_tracking_segmentation_data = _fetcher("tracking_segmentation", "the folder with the label images", str)
fetch_nucleus_3d_example_data = _fetcher("nucleus_3d", "the volume", str)
fetch_wholeslide_histopathology_example_data = _fetcher("wholeslide_histopathology", "the slide", str)


def _layers(name: str, key: str | None = None, **options: Any) -> list[LayerData]:
    """A sample as napari's layer data tuples; what is larger than a few hundred megabytes stays on disk."""
    from micro_sam.io import load_image_data

    path = fetch_sample(name, get_cache_directory() / "sample_data")
    image = load_image_data(str(path), key, lazy_loading=True)
    return [(image, {"name": name} | options, "image")]


def sample_data_image_series() -> list[LayerData]:
    """Every image of the image series as layer data for napari."""
    from micro_sam.io import load_image_data

    folder = fetch_sample("image_series", get_cache_directory() / "sample_data")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [(load_image_data(str(path)), {"name": path.stem}, "image") for path in files]


def sample_data_wholeslide() -> list[LayerData]:
    """The whole slide image as layer data for napari."""
    return _layers("wholeslide")


def sample_data_livecell() -> list[LayerData]:
    """A LIVECell phase contrast image as layer data for napari."""
    return _layers("livecell")


def sample_data_hela_2d() -> list[LayerData]:
    """A fluorescence image of HeLa cells as layer data for napari."""
    return _layers("hela_2d")


def sample_data_3d() -> list[LayerData]:
    """A volume (ZYX) of mitochondria in electron microscopy as layer data for napari."""
    return _layers("lucchi_3d", "*.png")


def sample_data_tracking() -> list[LayerData]:
    """A time series (TYX) of HeLa cells as layer data for napari."""
    return _layers("tracking", "*.tif")


def sample_data_segmentation() -> list[LayerData]:
    """The segmentation that belongs to `sample_data_tracking`, as layer data for napari."""
    [(labels, options, _)] = _layers("tracking_segmentation", "*.tif")
    return [(labels, options, "labels")]
