"""``micro_sam.image_series_annotator``: annotate the images of a folder one after another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micro_sam.cli.annotator_flags import add_option_flags, add_tile_flags, annotator_arguments, check_exists
from micro_sam.cli.options import add_model_flags, check_shared
from micro_sam.cli.runner import Parser, add_common_flags, run_command

_DESCRIPTION = """\
Annotate the images of a folder one after another in a napari window.

  micro_sam.image_series_annotator -i images/ -o labels/ -p '*.tif' -m vit_b_lm
  micro_sam.image_series_annotator -i images/ -o labels/ --initial_segmentation_folder masks/

Labels are saved whenever you go to another image. What is done is written down in image_series.json in the output
folder; the same command goes on where you stopped."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i FOLDER -o FOLDER [-p GLOB] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.image_series_annotator", usage=usage, description=_DESCRIPTION)
    _add_series_flags(parser)
    add_model_flags(parser)
    add_tile_flags(parser)
    add_option_flags(parser, with_path=False)
    add_common_flags(parser)
    return parser


def _add_series_flags(parser: argparse.ArgumentParser) -> None:
    add, boolean = parser.add_argument, argparse.BooleanOptionalAction
    add("-i", "--input_folder", type=Path, required=True, metavar="FOLDER", help="The folder of the images.")
    add("-o", "--output_folder", type=Path, required=True, metavar="FOLDER", help="Where labels go; made if missing.")
    add("-p", "--pattern", default="*", metavar="GLOB", help="Which files, for example '*.tif' or '**/*.png'.")
    add("-k", "--key", help="The data set inside the files (hdf5, zarr).")
    add("--is_volumetric", action="store_true", help="The files are volumes; they are annotated in 3d.")
    add("--skip_segmented", action=boolean, default=True, help="Go only to images that are not done yet.")
    add("-e", "--embedding_path", type=Path, metavar="FOLDER", help="Where embeddings are kept, <name>.zarr for each.")
    group = parser.add_argument_group("labels of another tool, to begin with")
    add = group.add_argument
    add("--initial_segmentation_folder", type=Path, metavar="FOLDER", help="Where they lie.")
    add("--initial_segmentation_pattern", default="*", metavar="GLOB", help="Which files, for example '*_masks.tif'.")
    add("--initial_segmentation_key", metavar="KEY", help="The data set inside these files.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Check the folders and open the window."""
    check_shared(args)
    check_exists(args.input_folder, "input_folder")
    check_exists(args.initial_segmentation_folder, "initial_segmentation_folder")
    from micro_sam.sam_annotator import image_folder_annotator

    image_folder_annotator(
        args.input_folder,
        args.output_folder,
        args.pattern,
        args.initial_segmentation_folder,
        args.initial_segmentation_pattern,
        is_volumetric=args.is_volumetric,
        skip_segmented=args.skip_segmented,
        key=args.key,
        initial_segmentation_key=args.initial_segmentation_key,
        **annotator_arguments(args),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
