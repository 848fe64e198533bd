"""``micro_sam.annotator_3d``: annotate a volume in a napari window."""

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
from micro_sam.cli.options import whole_number
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.cli.settings_flags import number
from micro_sam.cli.volume_flags import add_volume_flags, given_volume_settings
from micro_sam.errors import ParameterError

_PROJECTIONS = ("box", "mask", "points", "points_and_mask", "single_point")
_DESCRIPTION = """\
Annotate a volume interactively: click an object in a slice, follow it through the volume, commit, next.

  micro_sam.annotator_3d -i volume.tif -m vit_b_em_organelles
  micro_sam.annotator_3d -i volume.ome.zarr -e volume_embeddings.zarr -s labels.tif --z_limits 10 40

Every step is kept in a journal: after a crash the annotator offers to go on where it stopped."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH [-e PATH] [-s PATH] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.annotator_3d", usage=usage, description=_DESCRIPTION)
    add_annotator_flags(parser)
    add_labels_flags(parser)
    add_option_flags(parser)
    _add_propagation_flags(parser)
    add_volume_flags(parser, "automatic segmentation of the whole volume")
    add_common_flags(parser)
    return parser


def _add_propagation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("propagation through the volume")
    group.add_argument("--projection", choices=_PROJECTIONS, help="What a slice's mask becomes in the next.")
    group.add_argument(
        "--iou_threshold", type=number(float, [(0.0, 1.0)]), metavar="X", help="An object ends below this overlap."
    )
    group.add_argument(
        "--box_extension",
        type=number(float, [(0.0, None)]),
        metavar="X",
        help="Enlarge boxes: below 1 a fraction, else pixels.",
    )
    group.add_argument(
        "--follow_splits", action="store_true", default=None, help="Follow each part of an object that comes apart."
    )
    group.add_argument(
        "--doubtful_below", type=number(float, [(0.0, 1.0)]), metavar="X", help="List slices that are less certain."
    )
    group.add_argument(
        "--z_limits", type=whole_number(0), nargs=2, metavar=("FIRST", "LAST"), help="The slices to enter."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Read the volume and open the window."""
    file = open_input(args, 3)
    limits = args.z_limits
    if limits is not None and not limits[0] <= limits[1] < file.shape[0]:
        raise ParameterError(f"--z_limits must be two slices from 0 to {file.shape[0] - 1} in order, got {limits}.")
    labels, (volume, size) = read_labels(args), read_input(file, "zyx")
    names = ("projection", "iou_threshold", "box_extension", "follow_splits", "doubtful_below", "z_limits")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options |= given_volume_settings(args)
    from micro_sam.sam_annotator import annotator_3d

    annotator_3d(volume, segmentation_result=labels, **size, **annotator_arguments(args), **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
