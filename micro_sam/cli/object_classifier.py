"""``micro_sam.object_classifier``: classify the objects of a segmentation in a napari window."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micro_sam.cli.classifier_flags import add_classifier_flags, check_classifier_flags, window_arguments
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import ParameterError

_DESCRIPTION = """\
Classify objects interactively: paint over some of each class, see all others classified, correct.

  micro_sam.object_classifier -i cells.tif -s labels.tif
  micro_sam.object_classifier -i cells.tif -s labels.tif --classifier object_classifier.npz
  micro_sam.object_classifier -i a.tif b.tif -s a_labels.tif b_labels.tif -o classes/

What is learned goes on from image to image. micro_sam.classify_objects applies it to many images without a window."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH ... -s PATH ... [-o FOLDER] [--classifier FILE] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.object_classifier", usage=usage, description=_DESCRIPTION)
    add = parser.add_argument
    add("-o", "--output_folder", type=Path, metavar="FOLDER", help="Where results go; needed for several images.")
    add("--classifier", type=Path, metavar="FILE", help="A classifier that was saved, to go on with.")
    add(
        "-e",
        "--embedding_path",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="Where the embeddings of each image are kept.",
    )
    add_classifier_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Read the images and open the window."""
    check_classifier_flags(args)
    if len(args.input) > 1 and args.output_folder is None:
        raise ParameterError("Several images need --output_folder; add for example --output_folder classes.")
    if args.output_folder is not None and args.classifier is not None:
        raise ParameterError("With --output_folder the classifier is the one in that folder; leave --classifier out.")
    from micro_sam.io import load_image_data
    from micro_sam.sam_annotator import image_series_object_classifier, object_classifier

    images = [load_image_data(path, args.key) for path in args.input] if args.key else args.input
    labels = [load_image_data(path, args.segmentation_key) for path in args.segmentation]
    if args.output_folder is not None:
        image_series_object_classifier(
            images, labels, args.output_folder, args.embedding_path, **window_arguments(args)
        )
        return 0
    image = load_image_data(args.input[0], args.key)
    store = None if args.embedding_path is None else args.embedding_path[0]
    object_classifier(image, labels[0], store, classifier_path=args.classifier, **window_arguments(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
