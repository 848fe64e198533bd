"""``micro_sam.evaluate``: compare segmentations with annotations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import ParameterError

_DESCRIPTION = """\
Score predicted instances against annotated ones: mSA (segmentation accuracy, TP / (TP + FP + FN), averaged over the IoU
thresholds 0.5, 0.55 … 0.95), SA50 and SA75.

  micro_sam.evaluate --labels annotated.tif --predictions segmented.tif
  micro_sam.evaluate --labels annotated/ --label_key '*.tif' --predictions segmented/ --prediction_key '*.tif' -o scores.csv

Files of two folders are paired in natural order (img_2 before img_10)."""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog="micro_sam.evaluate", description=_DESCRIPTION)
    for name, what in (("labels", "annotated"), ("predictions", "predicted")):
        parser.add_argument(
            f"--{name}",
            type=Path,
            nargs="+",
            required=True,
            metavar="PATH",
            help=f"Files with {what} instances, or a folder.",
        )
    for name, what in (("label", "annotations"), ("prediction", "predictions")):
        parser.add_argument(
            f"--{name}_key",
            metavar="KEY",
            help=f"The data set inside the {what}; for a folder the pattern of its files.",
        )
    parser.add_argument("-o", "--output_path", type=Path, metavar="FILE", help="Where to write the scores (.csv).")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        nargs="+",
        metavar="IOU",
        help="Score at these IoU thresholds instead, such as 0.5.",
    )
    add_common_flags(parser)
    return parser


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> None:
    """Score all pairs and print the means."""
    from micro_sam.io.paths import check_folder_of, check_overwrites_no_input

    labels, predictions = (
        _files(paths, key) for paths, key in ((args.labels, args.label_key), (args.predictions, args.prediction_key))
    )
    if len(labels) != len(predictions):
        raise ParameterError(
            f"Expected as many predictions as annotations, got {len(predictions)} and {len(labels)}; check the patterns."
        )
    if args.output_path is not None:
        check_folder_of(args.output_path)
        check_overwrites_no_input([args.output_path], [*labels, *predictions])
    from micro_sam.evaluation.evaluation import run_evaluation
    from micro_sam.evaluation.pairs import load_labels

    keys = (_inner(args.labels, args.label_key), _inner(args.predictions, args.prediction_key))
    pairs = [[load_labels(path, key) for path in paths] for paths, key in zip((labels, predictions), keys)]
    scores = run_evaluation(*pairs, args.output_path, verbose=len(labels) > 1, thresholds=args.threshold)
    for name, value in scores.iloc[0].items():
        print(f"{name} {value:.4f}")
    print(f"{len(labels)} image{'s' if len(labels) > 1 else ''}", file=sys.stderr)


def _files(paths: Sequence[Path], key: str | None) -> list[Path]:
    """The files, those of a folder by its pattern."""
    from micro_sam.io import expand_inputs

    if len(paths) == 1 and _is_folder(paths[0]):
        return expand_inputs(paths, key or "*")
    return expand_inputs(paths)


def _inner(paths: Sequence[Path], key: str | None) -> str | None:
    """The key inside the files; for a folder the key was the pattern."""
    return None if len(paths) == 1 and _is_folder(paths[0]) else key


def _is_folder(path: Path) -> bool:
    from micro_sam.io.formats import is_zarr

    return path.is_dir() and not is_zarr(path)


if __name__ == "__main__":
    sys.exit(main())
