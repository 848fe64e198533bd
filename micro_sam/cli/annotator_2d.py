"""``micro_sam.annotator_2d``: annotate an image in a napari window."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from micro_sam.cli.annotator_flags import (
    add_annotator_flags,
    add_labels_flags,
    add_option_flags,
    annotator_arguments,
    check_exists,
)
from micro_sam.cli.options import check_shared
from micro_sam.cli.runner import Parser, add_common_flags, run_command

_LAZY_FROM = 2**30
_DESCRIPTION = """\
Annotate an image interactively: click, see the object, commit, next.

  micro_sam.annotator_2d -i cells.tif -m vit_b_lm
  micro_sam.annotator_2d -i cells.tif -e cells.zarr -s labels.tif

Every step is kept in a journal: after a crash the annotator offers to go on where it stopped."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH [-e PATH] [-s PATH] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.annotator_2d", usage=usage, description=_DESCRIPTION)
    add_annotator_flags(parser)
    add_labels_flags(parser)
    add_option_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Read the image and open the window."""
    check_shared(args)
    check_exists(args.input, "input")
    check_exists(args.segmentation_result, "segmentation_result")
    from micro_sam.embeddings import infer_ndim
    from micro_sam.errors import ImageError
    from micro_sam.io import load_image_data, open_image

    file = open_image(args.input, args.key)
    if infer_ndim(tuple(file.shape)) != 2:
        raise ImageError(
            f"'{args.input}' has the shape {tuple(file.shape)}, expected an image; use micro_sam.annotator_3d."
        )
    labels = None
    if args.segmentation_result is not None:
        labels = load_image_data(args.segmentation_result, args.segmentation_key)
    scale = None if file.resolution is None else tuple(file.resolution.scale("yx"))
    image = file.read(lazy=math.prod(file.shape) > _LAZY_FROM)
    from micro_sam.sam_annotator import annotator_2d

    annotator_2d(image, segmentation_result=labels, scale=scale, **annotator_arguments(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
