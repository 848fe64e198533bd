"""Groups of flags that commands share, and checks of their values that need nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from micro_sam.errors import InputError, MicroSamError, ParameterError
from micro_sam.models.spec import DEFAULT_MODEL, get_spec

PRECISIONS = ("auto", "float32", "bfloat16")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """``--pattern``, ``--key`` and ``--ndim``: what is read."""
    parser.add_argument(
        "--pattern", metavar="GLOB", help="Which files of an input folder to process one by one, for example '*.tif'."
    )
    parser.add_argument(
        "-k",
        "--key",
        help="The data set inside an hdf5 or zarr file; for a folder the pattern of files that make up one stack.",
    )
    parser.add_argument(
        "-n", "--ndim", type=int, choices=(2, 3), help="2 for images, 3 for volumes; found from the image if left out."
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """``--model_type``, ``--checkpoint``, ``--device`` and ``--precision``: what computes."""
    group = add_model_file_flags(parser)
    group.add_argument(
        "-d",
        "--device",
        type=device_name,
        metavar="NAME",
        help="cpu, cuda, cuda:1 or mps; the best there is if left out.",
    )
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="What the network computes in.")


def add_model_file_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """``--model_type``, ``--checkpoint`` and ``--decoder_path``: which model; returns the group they are in."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model_type",
        type=model_name,
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="A registered model (micro_sam.info lists them), or with --checkpoint its encoder, such as vit_b.",
    )
    group.add_argument("-c", "--checkpoint", type=Path, metavar="FILE", help="A model file of your own.")
    group.add_argument(
        "--decoder_path", type=Path, metavar="FILE", help="The decoder of --checkpoint if it is a file of its own."
    )
    return group


def add_tiling_flags(parser: argparse.ArgumentParser, automatic: bool = False) -> None:
    """``--tile_shape``, ``--halo``, ``--batch_size`` and ``--normalization``: how images are prepared.

    Args:
        parser: The parser of the command.
        automatic: The command cuts large images into tiles by itself; adds ``--no_tiling``.
    """
    group = parser.add_argument_group("large images")
    group.add_argument(
        "--tile_shape",
        type=whole_number(least=1),
        nargs=2,
        metavar=("Y", "X"),
        help="Cut the image into tiles of this size in pixels, such as 512 512"
        + ("; chosen if the image is too large for one pass." if automatic else "."),
    )
    group.add_argument(
        "--halo",
        type=whole_number(least=0),
        nargs=2,
        metavar=("Y", "X"),
        help="How far tiles reach into their neighbours in pixels, such as 64 64.",
    )
    if automatic:
        group.add_argument("--no_tiling", action="store_true", help="Take even a large image in one pass.")
    group.add_argument(
        "--batch_size", type=whole_number(1), default=1, help="Tiles or slices encoded at the same time."
    )
    parser.add_argument(
        "--normalization",
        choices=("minmax", "robust"),
        default=None if automatic else "minmax",
        help="Contrast from the darkest and brightest pixel, or robust against hot pixels and empty tiles"
        + (" (default: minmax, for segmentation by several workers robust)." if automatic else "."),
    )


def whole_number(least: int) -> Callable[[str], int]:
    """An argument type: a whole number not smaller than ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return parse


def model_name(text: str) -> str:
    """An argument type: the name of a registered model."""
    try:
        return get_spec(text).name
    except MicroSamError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device_name(text: str) -> str:
    """An argument type: how a device can be called; whether it exists is found out later."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:<number>, mps or auto, got '{text}'")
    return text


def check_shared(args: argparse.Namespace) -> None:
    """Check what can be said of the shared flags without loading anything.

    Raises:
        MicroSamError: With a sentence that names the flag.
    """
    if (args.tile_shape is None) != (args.halo is None):
        given, missing = ("tile_shape", "halo") if args.halo is None else ("halo", "tile_shape")
        raise ParameterError(f"--{given} also needs --{missing}; add for example --{missing} {_EXAMPLE[missing]}.")
    if getattr(args, "no_tiling", False) and args.tile_shape is not None:
        raise ParameterError("--tile_shape cuts the image into tiles, --no_tiling does not; give one of them.")
    check_model_files(args)


def check_model_files(args: argparse.Namespace) -> None:
    """Check that the files of a model exist.

    Raises:
        InputError: One does not; the sentence names the flag.
    """
    for flag in ("checkpoint", "decoder_path"):
        path = getattr(args, flag)
        if path is not None and not path.is_file():
            what = "is a folder, expected a model file" if path.is_dir() else "does not exist"
            raise InputError(f"--{flag} '{path}' {what}; check the path.")


_EXAMPLE = {"tile_shape": "512 512", "halo": "64 64"}


def tiling(args: argparse.Namespace) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """``--tile_shape`` and ``--halo`` as (y, x) tuples."""
    return (tuple(args.tile_shape), tuple(args.halo)) if args.tile_shape is not None else (None, None)
