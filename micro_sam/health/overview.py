"""The report on an installation, as lines of text."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator

from micro_sam.user_settings import load_settings, origin_of, settings_path


def summary() -> Iterator[str]:
    """The first lines of the report: versions, device and folders, and which models are there."""
    from micro_sam.models.cache import is_cached
    from micro_sam.models.spec import model_names

    yield from _versions()
    yield from _device()
    yield from _cache()
    yield f"Models     {', '.join(filter(is_cached, model_names()))}"


def report() -> Iterator[str]:
    """The lines of the report; the last ones say what is wrong and how to mend it."""
    from micro_sam.health import problems as checks

    yield from _versions()
    yield from _device()
    yield from _cache()
    yield ""
    yield from _models()
    problems = checks.find_problems()
    yield ""
    if not problems:
        yield "No problems found."
        return
    yield "1 problem found:" if len(problems) == 1 else f"{len(problems)} problems found:"
    for problem in problems:
        yield f"  - {problem.what}"
        yield f"    {problem.mend}"


def _versions() -> Iterator[str]:
    from micro_sam import __version__

    yield f"micro_sam  {__version__}"
    yield f"Python     {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"


def _device() -> Iterator[str]:
    try:
        import torch

        from micro_sam.models.device import explain_device
    except (ImportError, OSError):  # find_problems says what is wrong with it
        yield "PyTorch    cannot be imported"
        return
    chosen = explain_device()
    yield f"PyTorch    {torch.__version__}, {torch.get_num_threads()} threads"
    yield f"Device     {chosen.device}: {chosen.reason}"
    yield f"Precision  {_precision(chosen.device)}"


def _precision(device: object) -> str:
    from micro_sam.models.precision import ENVIRONMENT_VARIABLE, has_native_bfloat16, resolve_precision

    chosen = str(resolve_precision("auto", device)).removeprefix("torch.")
    if os.environ.get(ENVIRONMENT_VARIABLE) not in (None, "", "auto"):
        return f"{chosen}: {ENVIRONMENT_VARIABLE} says so"
    if load_settings().precision != "auto":
        return f"{chosen}: the settings say so"
    native = "computes" if has_native_bfloat16(device) else "does not compute"
    return f"{chosen}: the device {native} bfloat16 natively"


def _cache() -> Iterator[str]:
    from micro_sam.models.cache import get_cache_directory

    cache = get_cache_directory()
    origin = origin_of("cache_directory")
    if origin == "default":
        origin = "default, change it with MICROSAM_CACHEDIR or in Settings"
    state = "" if cache.is_dir() else ", made when a model is downloaded"
    yield f"Cache      {cache} ({origin}{state})"
    yield f"Settings   {settings_path()}{'' if settings_path().is_file() else ' (not there, so defaults)'}"


def _models() -> Iterator[str]:
    from micro_sam.models.cache import is_cached
    from micro_sam.models.spec import DEFAULT_MODEL, get_spec, model_names

    width = max(map(len, model_names()))
    yield f"{'Model':{width}}  {'Encoder':7}  {'Decoder':7}  Here"
    for name in model_names():
        spec = get_spec(name)
        if spec.bundled_file is not None:
            here = "part of the installation" if is_cached(spec) else "missing"
        elif is_cached(spec):
            here = "downloaded"
        else:
            here = "no, downloaded when used" if spec.url else f"no, see https://doi.org/{spec.doi}"
        yield f"{name:{width}}  {spec.encoder:7}  {spec.decoder or '-':7}  {here}{' (default)' if name == DEFAULT_MODEL else ''}"
