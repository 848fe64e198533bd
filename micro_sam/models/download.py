"""Fetching model files into the cache: checked against their hash, with a progress bar, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooch

from ..errors import DownloadError
from . import spec as registry
from .cache import bundled_path, models_directory

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_STALE_AFTER_SECONDS = 24 * 3600
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO}


class ModelStore(pooch.Pooch):
    """The `pooch.Pooch` that knows the files of all registered models.

    Models lie in `path` under their registry name, decoders under ``<name>_decoder``. A file that is there and has the
    expected hash is used without network. What is downloaded gets its name only once it is complete and checked.
    """

    def fetch(self, fname: str, processor: Any = None, downloader: Any = None, progressbar: Any = False) -> str:
        """The path of a model file, downloaded first if it is not in the cache.

        Args:
            fname: A key of `registry`: a model's name, or ``<name>_decoder``. Bundled models are known, too.
            processor: Called as in pooch with (path, action, self).
            downloader: Called as in pooch with (url, output file, self) in the place of the one for the url's protocol.
            progressbar: True for a tqdm bar, or an object with `total`, `update`, `reset` and `close`, or a function
                that makes one when it is needed.

        Raises:
            DownloadError: The file is not there and cannot be downloaded, or it does not have the expected hash.
            UnknownModelError: No file of that name is registered.
        """
        bundled = _bundled_file(fname)
        if bundled is not None:
            return str(bundled)
        if fname not in self.registry:
            _raise_not_downloadable(fname, self.abspath)
        path, action = Path(self.abspath) / fname, "fetch"
        if not self._is_current(path):
            action = "update" if path.is_file() else "download"
            self._download(fname, path, downloader, progressbar)
        return str(path) if processor is None else processor(str(path), action, self)

    def _is_current(self, path: Path) -> bool:
        """Whether the cached file is there and the expected one; one of an earlier release is kept under its own name.

        Raises:
            DownloadError: The file is neither the expected one nor one of an earlier release. It is left alone.
        """
        expected = self.registry[path.name]
        if not path.is_file():
            return False
        if expected is None:
            return True
        found = file_hash(path, expected)
        if found == expected:
            return True
        earlier = self._earlier_release(path, found)
        if earlier is None:
            raise DownloadError(
                f"The file {path} is not the model {path.name!r}: its hash is {found} instead of {expected}; delete it "
                "to download the model again, or pass it as checkpoint_path if it is a model of your own."
            )
        logger.warning("The cached file %s is of an earlier release; it is kept as %s", path, earlier)
        with contextlib.suppress(OSError):  # there already, or a file system without links
            os.link(path, path.with_name(earlier))
        return False

    def _earlier_release(self, path: Path, found: str) -> str | None:
        """The file name under which an earlier release of the model with that hash is registered."""
        base = path.name.removesuffix("_decoder")
        kind = path.name[len(base) :]
        for name, known in self.registry.items():
            if known is None or "@" not in name or not name.startswith(f"{base}@") or not name.endswith(kind):
                continue
            same_algorithm = known.partition(":")[0] == found.partition(":")[0]
            if (found if same_algorithm else file_hash(path, known)) == known:
                return name
        return None

    def _download(self, fname: str, path: Path, downloader: Any, progressbar: Any) -> None:
        url, expected = self.get_url(fname), self.registry[fname]
        logger.info("Downloading the model %s from %s to %s", fname, url, path)
        with partial_file(path, "models") as partial:
            try:
                self._transfer(url, partial, downloader, progressbar)
            except Exception as error:  # requests, urllib3, ftplib and OSError have no common base
                raise DownloadError(_offline_message(fname, url, path, error)) from error
            found = file_hash(partial, expected)
            if expected is None:
                logger.warning("No hash was published for the model %s; what came has %s", fname, found)
            elif found != expected:
                raise DownloadError(
                    f"What came from {url} is not the model {fname!r}: its hash is {found} instead of {expected}, so it "
                    f"was discarded; try again later, or put the right file at {path}."
                )
            os.replace(partial, path)

    def _transfer(self, url: str, partial: Path, downloader: Any, progressbar: Any) -> None:
        if downloader is None:
            progressbar = progressbar() if callable(progressbar) else progressbar
            downloader = pooch.downloaders.choose_downloader(url, progressbar=progressbar)
            downloader.chunk_size = _CHUNK
        downloader(url, str(partial), self)


def models() -> ModelStore:
    """The store of model files for the present cache directory, with `.registry`, `.urls` and `.fetch`."""
    hashes: dict[str, str | None] = {}
    urls: dict[str, str] = {}
    for name in registry.model_names():
        spec = registry.get_spec(name)
        files = ((spec.file_name, spec.url, spec.hash), (spec.decoder_file_name, spec.decoder_url, spec.decoder_hash))
        for file_name, url, file_hash_ in files:
            if url is not None:
                hashes[file_name], urls[file_name] = file_hash_, url
    return ModelStore(path=models_directory(), base_url="", registry=hashes, urls=urls)


def file_hash(path: str | os.PathLike, like: str | None = None) -> str:
    """Hash a file.

    Args:
        path: The file.
        like: A hash of the form "algorithm:hexdigest" whose algorithm is used; xxh128 by default.

    Returns:
        "algorithm:hexdigest".
    """
    algorithm = like.partition(":")[0] if like else "xxh128"
    hasher = pooch.hashes.ALGORITHMS_AVAILABLE[algorithm]()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return f"{algorithm}:{hasher.hexdigest()}"


@contextlib.contextmanager
def partial_file(path: Path, content: str) -> Iterator[Path]:
    """A name beside `path` to write to, gone afterwards; leftovers of killed downloads are removed on the way.

    Args:
        path: The file's name once it is complete.
        content: What its folder is for, for the error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):  # another process may have removed it
                if time.time() - leftover.stat().st_mtime > _STALE_AFTER_SECONDS:
                    leftover.unlink()
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        partial.touch()
    except OSError as error:
        raise DownloadError(
            f"The folder {path.parent} for {content} cannot be written to ({error.strerror}): free or permit it, or set "
            "MICROSAM_CACHEDIR to another folder."
        ) from error
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _bundled_file(fname: str) -> Path | None:
    if fname not in registry.model_names("bundled"):
        return None
    path = bundled_path(registry.get_spec(fname).file_name)
    if not path.is_file():
        raise DownloadError(
            f"The model {fname!r} should be part of the package but {path} is missing: reinstall micro_sam."
        )
    return path


def _raise_not_downloadable(fname: str, folder: Path) -> None:
    spec = registry.get_spec(fname)
    raise DownloadError(
        f"The model {fname!r} has no direct download: get its file from https://doi.org/{spec.doi} and pass it as "
        f"checkpoint_path with model_type='{spec.encoder}'."
    )


def _offline_message(fname: str, url: str, path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _WRITE_ERRORS:
        return (
            f"The model {fname!r} cannot be written to {path.parent} ({error.strerror}): make room, or set "
            "MICROSAM_CACHEDIR to another folder."
        )
    response = getattr(error, "response", None)
    reason = type(error).__name__ if response is None else f"HTTP status {response.status_code}"
    kept = sorted(p.name for p in path.parent.glob(f"{fname}@*") if not p.name.endswith("_decoder"))
    alternative = f"the earlier release {kept[-1]!r}, which is in the cache, or " if kept else ""
    return (
        f"The model {fname!r} is not in the cache and {url} cannot be downloaded ({reason}): where there is a network, "
        f"download it and put it at {path}, or use {alternative}{registry.BUILTIN_MODEL!r}, which needs no download."
    )
