"""Flags that the commands for classifying objects share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from micro_sam.cli.options import add_model_flags, add_tiling_flags, check_shared, tiling
from micro_sam.errors import MissingInputError, ParameterError


def add_classifier_flags(parser: argparse.ArgumentParser) -> None:
    """Images, their segmentations, model and tiles."""
    add = parser.add_argument
    add("-i", "--input", type=Path, nargs="+", required=True, metavar="PATH", help="The image, or several.")
    add("-s", "--segmentation", type=Path, nargs="+", required=True, metavar="PATH", help="The labels of each image.")
    add("-k", "--key", help="The data set inside the files of the images.")
    add("-sk", "--segmentation_key", metavar="KEY", help="The data set inside the files of the labels.")
    add(
        "-n", "--ndim", type=int, choices=(2, 3), help="2 for images, 3 for volumes; found from the images if left out."
    )
    add_model_flags(parser)
    add_tiling_flags(parser)


def check_classifier_flags(args: argparse.Namespace) -> None:
    """Check what can be said of the flags without loading anything.

    Raises:
        MicroSamError: With a sentence that names the flag.
    """
    check_shared(args)
    for flag, paths in (("input", args.input), ("segmentation", args.segmentation), ("classifier", [args.classifier])):
        for path in paths:
            if path is not None and not path.exists():
                raise MissingInputError(f"--{flag} '{path}' does not exist; check the path.")
    if len(args.input) != len(args.segmentation):
        raise ParameterError(
            f"--segmentation needs a file for each image, got {len(args.segmentation)} for {len(args.input)} images."
        )


def window_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that the functions which open a window take."""
    tile_shape, halo = tiling(args)
    return {
        "model_type": args.model_type,
        "checkpoint_path": args.checkpoint,
        "device": args.device,
        "precision": args.precision,
        "tile_shape": tile_shape,
        "halo": halo,
        "normalization": args.normalization,
        "ndim": args.ndim,
    }
