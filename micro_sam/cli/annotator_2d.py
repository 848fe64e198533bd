"""``micro_sam.annotator_2d``: annotate an image in a napari window."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from micro_sam.cli.annotator_flags import (
    add_annotator_flags,
    add_labels_flags,
    add_option_flags,
    annotator_arguments,
    open_input,
    read_input,
    read_labels,
)
from micro_sam.cli.runner import Parser, add_common_flags, run_command

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
    file = open_input(args, 2)
    labels, (image, size) = read_labels(args), read_input(file, "yx")
    from micro_sam.sam_annotator import annotator_2d

    annotator_2d(image, segmentation_result=labels, **size, **annotator_arguments(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
