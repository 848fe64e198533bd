"""Flags of ``--tracking``, their checks, and writing what comes out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from micro_sam.cli.options import whole_number
from micro_sam.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from micro_sam.cli.jobs import Job
    from micro_sam.io import Resolution

LINKERS = ("laptrack", "trackastra")
TRACK_FORMATS = ("geff", "ctc")
_FLAGS = ("tracks", "linker", "min_time_extent", "no_division", "tracking_model")


def add_tracking_flags(parser: argparse.ArgumentParser) -> None:
    """The flags; ``--gap_closing``, which volumes have, too, is not among them."""
    group = parser.add_argument_group("time series (--tracking)")
    group.add_argument("--tracking", action="store_true", help="Track the objects of a time series.")
    group.add_argument(
        "--tracks",
        nargs="+",
        choices=TRACK_FORMATS,
        help="What to write beside the labels NAME.tif: geff (NAME.geff, a graph; the default), ctc (NAME_ctc/, a Cell "
        "Tracking Challenge folder), or both.",
    )
    group.add_argument(
        "--linker",
        choices=LINKERS,
        help="How frames are linked: laptrack (the default), or trackastra, which is installed and downloaded separately.",
    )
    group.add_argument(
        "--min_time_extent", type=whole_number(1), metavar="N", help="Remove tracks that span fewer frames than this."
    )
    group.add_argument("--no_division", action="store_true", default=None, help="Objects do not divide.")
    group.add_argument("--tracking_model", metavar="NAME", help="The model of trackastra (default: general_2d).")


def check_tracking(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Find what does not fit before anything is computed.

    Raises:
        MicroSamError: With a sentence that names the flag or the file.
    """
    given = [name for name in _FLAGS if getattr(args, name) is not None]
    if not args.tracking:
        if given:
            raise ParameterError(f"--{given[0]} belongs to --tracking; add --tracking or leave it out.")
        return
    if args.tracking_model is not None and args.linker != "trackastra":
        raise ParameterError("--tracking_model belongs to --linker trackastra; add it or leave the model out.")
    if args.linker == "trackastra" and find_spec("trackastra") is None:
        raise MissingDependencyError(
            "--linker trackastra needs the package trackastra, which is not installed; run pip install "
            "'micro_sam[trackastra]', or use the default, --linker laptrack."
        )
    from micro_sam.io.tracks import check_track_paths, track_paths

    for job in jobs:
        check_track_paths(track_paths(job.output, _formats(args)))


def tracking_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as arguments of `automatic_tracking`; those that were not given are left out."""
    names = ("linker", "gap_closing", "min_time_extent", "tracking_model")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return options | ({"mode": "greedy_nodiv"} if args.no_division else {})


def write_tracking(
    job: Job, args: argparse.Namespace, labels: np.ndarray, lineages: list[dict[int, list[int]]], resolution: Resolution
) -> str:
    """Write the labels and the tracks.

    Returns:
        What was found and where it is, for a person to read.
    """
    from micro_sam.io import write_tracks

    paths = write_tracks(job.output, labels, lineages, resolution, _formats(args))
    n_tracks = sum(len(family) for family in lineages)
    n_divisions = sum(len(daughters) > 1 for family in lineages for daughters in family.values())
    found = f"{_number(n_tracks, 'track')}, {_number(n_divisions, 'division')}"
    return f"{found} -> {', '.join(map(str, paths.values()))}"


def _formats(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys(args.tracks or ("geff",)))


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
