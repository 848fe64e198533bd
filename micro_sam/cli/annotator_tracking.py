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
from micro_sam.cli.settings_flags import add_field_flags, given_fields
from micro_sam.sam_annotator.session.follow_settings import FollowSettings, LinkSettings

_PROJECTIONS = ("box", "mask", "points", "points_and_mask", "single_point")
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
    add_option_flags(parser, with_batched=False)
    _add_following_flags(parser)
    add_common_flags(parser)
    return parser


def _add_following_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tracking of an object through time")
    group.add_argument("--projection", choices=_PROJECTIONS, help="What a frame's mask becomes in the next.")
    add_field_flags(group, FollowSettings)
    add_field_flags(parser.add_argument_group("automatic tracking"), LinkSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Read the time series and its tracks, and open the window."""
    file = open_input(args, 3, "tracking_result")
    from micro_sam.io.tracks_reading import read_tracks

    tracks = None if args.tracking_result is None else read_tracks(args.tracking_result, args.tracking_key)
    movie, size = read_input(file, "tyx")
    from micro_sam.sam_annotator import annotator_tracking

    options = {**given_fields(args, FollowSettings), **given_fields(args, LinkSettings)}
    options |= {} if args.projection is None else {"projection": args.projection}
    annotator_tracking(movie, tracking_result=tracks, **size, **annotator_arguments(args), **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
