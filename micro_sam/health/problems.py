"""What is wrong with an installation and how to mend it. Every check works even where a package cannot be imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from micro_sam.models.cache import checkpoint_location, decoder_location, get_cache_directory
from micro_sam.models.spec import ModelSpec, get_spec, model_names

_QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        what: What it is, a sentence.
        mend: What to do about it, a sentence.
    """

    what: str
    mend: str


def find_problems() -> list[Problem]:
    """Everything that is wrong with the installation, the most important first."""
    checks: tuple[Callable[[], Iterator[Problem]], ...] = (
        _python_problems,
        _package_problems,
        _torch_problems,
        _cache_problems,
        _model_problems,
        _window_problems,
    )
    return [problem for check in checks for problem in check()]


def _python_problems() -> Iterator[Problem]:
    if sys.version_info < _OLDEST_PYTHON:
        yield Problem(f"Python {platform.python_version()} is too old.", "Use Python 3.11 or newer.")


def _package_problems() -> Iterator[Problem]:
    try:
        requirements = metadata.requires("micro_sam") or []
    except metadata.PackageNotFoundError:
        yield Problem("micro_sam is not installed, only its source is used.", "Run 'pip install .' in its folder.")
        return
    for requirement in requirements:
        if ";" not in requirement:  # the others belong to extras
            yield from _requirement_problems(requirement)


def _requirement_problems(requirement: str) -> Iterator[Problem]:
    name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        yield Problem(f"The package {name} is missing.", f"Run 'pip install \"{requirement}\"'.")
        return
    least = re.search(r">=\s*([\d.]+)", requirement)
    if least and _numbers(installed) < _numbers(least.group(1)):
        yield Problem(f"{name} {installed} is too old.", f"Run 'pip install \"{requirement}\"'.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _torch_problems() -> Iterator[Problem]:
    try:
        device = importlib.import_module("micro_sam.models.device")
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        yield Problem(
            f"PyTorch cannot be imported ({reason}).", "Install it again, see https://pytorch.org/get-started."
        )
        return
    problem = device.explain_device().problem
    if problem is not None:
        what, _, mend = problem.rstrip(".").rpartition(": ")
        yield Problem(f"The GPU is not used: {what}.", f"{mend[:1].upper()}{mend[1:]}.")


def _cache_problems() -> Iterator[Problem]:
    cache = get_cache_directory()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not existing.is_dir():
        yield Problem(f"The cache '{cache}' cannot be a folder, '{existing}' is a file.", _CHANGE_CACHE)
    elif not _can_write(existing):
        yield Problem(f"The cache '{cache}' cannot be written to.", _CHANGE_CACHE)


_CHANGE_CACHE = "Set the environment variable MICROSAM_CACHEDIR to a folder of yours, or change its permissions."


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _model_problems() -> Iterator[Problem]:
    for name in model_names():
        spec = get_spec(name)
        if spec.bundled_file is not None and not checkpoint_location(spec).is_file():
            yield Problem(f"The bundled model {name} is missing.", "Install micro_sam again.")
            continue
        for path, expected in model_files(spec):
            if path.is_file() and expected is not None and not _has_hash(path, expected):
                yield Problem(f"The model file '{path}' is damaged.", "Delete it; it is downloaded again when needed.")


def model_files(spec: ModelSpec) -> list[tuple[Path, str | None]]:
    """The files of a model with their expected hashes."""
    files = [(checkpoint_location(spec), spec.hash), (decoder_location(spec), spec.decoder_hash)]
    return [(path, expected) for path, expected in files if path is not None]


def _has_hash(path: Path, expected: str) -> bool:
    try:
        from micro_sam.models.download import file_hash

        return file_hash(path, like=expected) == expected
    except (ImportError, OSError):
        return False


def _window_problems() -> Iterator[Problem]:
    if not any(importlib.util.find_spec(binding) for binding in _QT_BINDINGS):
        yield Problem("There is no Qt, so no window can be opened.", "Run 'pip install \"micro_sam[gui]\"'.")
    elif sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        yield Problem(
            "There is no display, so no window can be opened.",
            "Commands and scripts work without; for windows log in with a desktop, or use 'ssh -X' or xvfb-run.",
        )
