"""Flags that the annotators' commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_sam.cli.options import add_model_flags, check_shared, tiling, whole_number
from micro_sam.cli.settings_flags import add_settings_flags, check_settings, given_settings, number
from micro_sam.errors import ImageError, MissingInputError
from micro_sam.instance_segmentation.settings import SETTINGS

if TYPE_CHECKING:
    from micro_sam.io.images import ImageFile


def add_annotator_flags(parser: argparse.ArgumentParser) -> None:
    """Image, embeddings, labels to begin with, model and tiles."""
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="PATH", help="The image, or a folder with --key."
    )
    parser.add_argument("-k", "--key", help="The data set inside the file, or the pattern of a folder's files.")
    parser.add_argument(
        "-e",
        "--embedding_path",
        type=Path,
        metavar="PATH",
        help="The zarr store where embeddings are kept, or will be.",
    )
    add_model_flags(parser)
    add_tile_flags(parser)


def add_labels_flags(parser: argparse.ArgumentParser) -> None:
    """``--segmentation_result`` and ``--segmentation_key``: labels to begin with."""
    parser.add_argument(
        "-s", "--segmentation_result", type=Path, metavar="PATH", help="Labels to begin with: the committed objects."
    )
    parser.add_argument("-sk", "--segmentation_key", metavar="KEY", help="The data set inside the file of the labels.")


def add_tile_flags(parser: argparse.ArgumentParser) -> None:
    """Tiles and what is computed ahead of time."""
    group = parser.add_argument_group("embeddings")
    group.add_argument(
        "--tile_shape", type=whole_number(1), nargs=2, metavar=("Y", "X"), help="Tiles; automatic if left out."
    )
    group.add_argument("--halo", type=whole_number(0), nargs=2, metavar=("Y", "X"), help="The overlap of tiles.")
    group.add_argument(
        "--normalization", choices=("minmax", "robust"), default="minmax", help="Contrast; robust against hot pixels."
    )
    group.add_argument(
        "--precompute_amg_state", action="store_true", help="Also compute what automatic segmentation needs."
    )
    group.add_argument(
        "--prefer_decoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Segment automatically with the model's decoder.",
    )


def add_option_flags(parser: argparse.ArgumentParser, with_path: bool = True, with_batched: bool = True) -> None:
    """How to work, and how to segment automatically; ``with_path`` adds ``--commit_path``."""
    group = parser.add_argument_group("annotation")
    add, boolean = group.add_argument, argparse.BooleanOptionalAction
    if with_path:
        add("--commit_path", type=Path, metavar="FILE", help="Save labels and prompts here after every commit.")
    add(
        "--preserve_mode",
        choices=("objects", "pixels", "none"),
        default="objects",
        help="What a commit leaves as it is.",
    )
    add(
        "--preservation_threshold",
        type=number(float, [(0.0, 1.0)]),
        default=0.75,
        metavar="X",
        help="For 'objects': which part of a new object must lie on committed ones for it to be left out (default: 0.75).",
    )
    add("--live", action=boolean, default=True, help="Show masks as soon as prompts change.")
    add("--tidy", action=boolean, default=True, help="Leave out parts of a mask away from the prompts.")
    if with_batched:
        add("--batched", action="store_true", help="Each positive point is an object of its own.")
    parser.add_argument(
        "--mode", choices=tuple(SETTINGS), help="How to segment automatically (default: the best there is)."
    )
    add_settings_flags(parser)


def annotator_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that all annotator functions take."""
    tile_shape, halo = tiling(args)
    path = {"commit_path": None if args.commit_path is None else str(args.commit_path)} if "commit_path" in args else {}
    return {
        "embedding_path": None if args.embedding_path is None else str(args.embedding_path),
        "model_type": args.model_type,
        "checkpoint_path": args.checkpoint,
        "decoder_path": args.decoder_path,
        "device": None if args.device == "auto" else args.device,
        "precision": args.precision,
        "tile_shape": tile_shape,
        "halo": halo,
        "normalization": args.normalization,
        "precompute_amg_state": args.precompute_amg_state,
        "prefer_decoder": args.prefer_decoder,
        **path,
        **_given_options(args),
    }


def _given_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("preserve_mode", "preservation_threshold", "live", "tidy", "batched")
    options = {name: getattr(args, name) for name in names if name in args}
    settings = given_settings(args)
    if args.mode is not None:
        check_settings(args.mode, settings)
        options["mode"] = args.mode
    return options | ({"settings": settings} if settings else {})


def check_exists(path: Path | None, flag: str) -> None:
    """Raise `MissingInputError` if a path was given and nothing is there."""
    if path is not None and not path.exists():
        raise MissingInputError(f"--{flag} '{path}' does not exist; check the path.")


def open_input(args: argparse.Namespace, ndim: int, result: str = "segmentation_result") -> ImageFile:
    """Check the flags and open ``--input``, of which nothing is read so far.

    Args:
        args: The flags.
        ndim: The dimensions of what is annotated.
        result: The flag of the labels to begin with.

    Raises:
        ImageError: It has other dimensions.
    """
    check_shared(args)
    check_exists(args.input, "input")
    check_exists(getattr(args, result), result)
    from micro_sam.embeddings import infer_ndim
    from micro_sam.io.images import open_image

    file = open_image(args.input, args.key)
    if infer_ndim(tuple(file.shape)) != ndim:
        wanted, other = {2: ("an image", "annotator_3d"), 3: ("a volume or time series", "annotator_2d")}[ndim]
        raise ImageError(f"'{args.input}' has the shape {tuple(file.shape)}, expected {wanted}; use micro_sam.{other}.")
    return file


def read_input(file: ImageFile, axes: str) -> tuple[Any, dict[str, Any]]:
    """The image, and the arguments ``scale`` (along these axes) and ``unit`` if the file says it."""
    from micro_sam.sam_annotator.session.image import read_file

    known = file.resolution
    sizes = {} if known is None else {"scale": tuple(known.scale(axes)), "unit": known.unit}
    return read_file(file), sizes


def read_labels(args: argparse.Namespace) -> Any:
    """What ``--segmentation_result`` holds; None without it."""
    if args.segmentation_result is None:
        return None
    from micro_sam.io.images import load_image_data

    return load_image_data(args.segmentation_result, args.segmentation_key)
