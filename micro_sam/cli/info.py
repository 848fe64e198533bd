"""``micro_sam.info``: what is installed, what it computes on, which models are there, and what is wrong."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence

from micro_sam.cli.runner import Parser, add_common_flags, run_command

_DESCRIPTION = """\
Show the version, the device and why it was chosen, the cache, every model and whether it is already there, and what is
wrong with the installation and how to mend it."""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog="micro_sam.info", description=_DESCRIPTION)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> None:
    """Print the report."""
    micro_sam_info()


def micro_sam_info() -> None:
    """Print the version, the device and why, the cache, the models, and what is wrong and how to mend it."""
    for line in report():
        print(line)


def report() -> Iterator[str]:
    """The lines of the report."""
    from micro_sam.cli.health import find_problems

    yield from _versions()
    yield from _device()
    yield from _cache()
    yield ""
    yield from _models()
    problems = find_problems()
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
    native = "computes" if has_native_bfloat16(device) else "does not compute"
    return f"{chosen}: the device {native} bfloat16 natively"


def _cache() -> Iterator[str]:
    from micro_sam.models.cache import get_cache_directory

    cache = get_cache_directory()
    origin = "MICROSAM_CACHEDIR" if os.environ.get("MICROSAM_CACHEDIR") else "default, change it with MICROSAM_CACHEDIR"
    state = "" if cache.is_dir() else ", made when a model is downloaded"
    yield f"Cache      {cache} ({origin}{state})"


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


if __name__ == "__main__":
    sys.exit(main())
