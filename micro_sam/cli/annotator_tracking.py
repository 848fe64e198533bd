"""``micro_sam.annotator_tracking``: track objects in a time series in a napari window."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micro_sam.cli.annotator_flags import (
    add_annotator_flags,
    add_option_flags,
    annotator_arguments,
    open_input,
    read_input,
)
from micro_sam.cli.runner import Parser, add_common_flags, run_command

_DESCRIPTION = """\
Track objects in a time series interactively: click an object in a frame, follow it through time, commit its lineage.

  micro_sam.annotator_tracking -i movie.tif -e movie_embeddings.zarr
  micro_sam.annotator_tracking -i frames/ -k '*.tif' --tracking_result tracked.tif

Tracks to begin with are a Cell Tracking Challenge folder, or labels with a .geff or a table beside them. Every step is
kept in a journal: after a crash the annotator offers to go on where it stopped."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH [-e PATH] [--tracking_result PATH] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.annotator_tracking", usage=usage, description=_DESCRIPTION)
    add_annotator_flags(parser)
    parser.add_argument(
        "--tracking_result",
        type=Path,
        metavar="PATH",
        help="Tracks to begin with: a Cell Tracking Challenge folder, a .geff, or labels with one of these beside them.",
    )
    parser.add_argument("--tracking_key", metavar="KEY", help="The data set inside the file of the labels.")
    add_option_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Read the time series and its tracks, and open the window."""
    file = open_input(args, 3, "tracking_result")
    from micro_sam.io.tracks_reading import read_tracks

    tracks = None if args.tracking_result is None else read_tracks(args.tracking_result, args.tracking_key)
    movie, scale = read_input(file, "tyx")
    from micro_sam.sam_annotator import annotator_tracking

    annotator_tracking(movie, tracking_result=tracks, scale=scale, **annotator_arguments(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
