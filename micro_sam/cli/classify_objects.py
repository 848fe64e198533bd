"""``micro_sam.classify_objects``: apply a classifier of objects to images and their segmentations."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_sam.cli.classifier_flags import add_classifier_flags, check_classifier_flags
from micro_sam.cli.options import tiling
from micro_sam.cli.runner import Parser, add_common_flags, run_command, run_jobs

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.object_classification import TrainedClassifier

_DESCRIPTION = """\
Classify the objects of images with a classifier that was trained and saved in the Object Classifier window.

  micro_sam.classify_objects -i cells.tif -s labels.tif --classifier object_classifier.npz -o classes/

Writes <name>.tif with the class of each pixel, and <name>.csv with class, probabilities and shape of each object."""


@dataclass(frozen=True)
class ClassifyJob:
    """One image.

    Attributes:
        path: The image.
        segmentation: Its labels.
        output: The image of classes.
    """

    path: Path
    segmentation: Path
    output: Path


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH ... -s PATH ... --classifier FILE -o FOLDER [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.classify_objects", usage=usage, description=_DESCRIPTION)
    add = parser.add_argument
    add("--classifier", type=Path, required=True, metavar="FILE", help="The classifier (.npz).")
    add("-o", "--output_folder", type=Path, required=True, metavar="FOLDER", help="Where results go; made if missing.")
    add_classifier_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Load classifier and model, and do one image after another."""
    check_classifier_flags(args)
    from micro_sam.io.paths import check_overwrites_no_input, unique_names
    from micro_sam.models.predictor import get_sam_model
    from micro_sam.object_classification import load_classifier

    outputs = [args.output_folder / f"{name}.tif" for name in unique_names(args.input)]
    check_overwrites_no_input(outputs, [*args.input, *args.segmentation])
    classifier = load_classifier(args.classifier)
    args.output_folder.mkdir(parents=True, exist_ok=True)
    predictor = get_sam_model(
        args.model_type,
        args.device,
        args.checkpoint,
        decoder_path=args.decoder_path,
        precision=args.precision,
    )
    classifier.check_model(predictor)
    jobs = [ClassifyJob(*paths) for paths in zip(args.input, args.segmentation, outputs)]
    return run_jobs(jobs, functools.partial(_classify, args, classifier, predictor), args.debug)


def _classify(args: argparse.Namespace, classifier: TrainedClassifier, predictor: SamPredictor, job: Any) -> None:
    from micro_sam.io import load_image_data, write_labels
    from micro_sam.object_classification import (
        iter_classify,
        project_prediction_to_segmentation,
        write_class_table,
    )
    from micro_sam.progress import drain

    labels = load_image_data(job.segmentation, args.segmentation_key)
    tile_shape, halo = tiling(args)
    work = iter_classify(
        classifier,
        load_image_data(job.path, args.key),
        labels,
        predictor,
        ndim=args.ndim,
        tile_shape=tile_shape,
        halo=halo,
        normalization=args.normalization,
        batch_size=args.batch_size,
    )
    found = drain(work, args.verbose)
    write_labels(job.output, project_prediction_to_segmentation(labels, found.classes, found.features.ids))
    table = job.output.with_suffix(".csv")
    write_class_table(table, found.features, found.classes, found.probabilities, classifier.classes)


if __name__ == "__main__":
    sys.exit(main())
