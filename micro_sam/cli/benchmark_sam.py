"""``micro_sam.benchmark_sam``: score a model on public data sets."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from micro_sam.cli.options import add_model_flags, whole_number
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import InputError

_DESCRIPTION = """\
Score a model on public data sets, which are downloaded on first use: automatic segmentation, and prompts (a box or a
point) that are corrected again and again.

  micro_sam.benchmark_sam -i data/ -d livecell -m vit_b_lm -o results/

What was computed before an interruption is kept if --retain names it: run the command again to go on."""


def dataset_names() -> list[str]:
    """The data sets that are known; reads no more than their list."""
    path = Path(__file__).parents[1] / "evaluation" / "benchmark_datasets.toml"
    return sorted(tomllib.loads(path.read_text(encoding="utf-8")))


def build_parser() -> Parser:
    """The parser of the command."""
    # "resolve": here -d names a data set, the device has only its long flag
    parser = Parser(prog="micro_sam.benchmark_sam", description=_DESCRIPTION, conflict_handler="resolve")
    add_model_flags(parser)
    parser.add_argument(
        "-i", "--input_folder", type=Path, required=True, metavar="FOLDER", help="Where the data sets lie."
    )
    parser.add_argument(
        "-d",
        "--dataset_choice",
        nargs="+",
        required=True,
        choices=dataset_names(),
        metavar="NAME",
        help=f"Which data sets: {', '.join(dataset_names())}.",
    )
    parser.add_argument("-o", "--output_folder", type=Path, metavar="FOLDER", help="Where the scores are written.")
    parser.add_argument(
        "--amg", action="store_true", help="Segment with a grid of prompts although there is a decoder."
    )
    parser.add_argument(
        "--retain",
        nargs="+",
        default=[],
        choices=("data", "embeddings", "predictions"),
        help="What is kept besides the scores.",
    )
    parser.add_argument(
        "--evaluate", choices=("all", "automatic", "interactive"), default="all", help="What is scored."
    )
    parser.add_argument("--n_samples", type=whole_number(1), default=100, help="Images of each data set at most.")
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> None:
    """Score the model on each data set and print the tables."""
    if not args.input_folder.is_dir():
        raise InputError(
            f"The folder '{args.input_folder}' does not exist; create it or choose where the data sets lie."
        )
    from micro_sam.evaluation.benchmark_datasets import run_benchmark_evaluations

    for name in args.dataset_choice:
        table = run_benchmark_evaluations(
            args.input_folder,
            name,
            args.model_type,
            args.output_folder,
            args.checkpoint,
            "amg" if args.amg else None,
            args.retain,
            args.evaluate,
            device=args.device,
            decoder_path=args.decoder_path,
            precision=args.precision,
            n_samples=args.n_samples,
        )
        print(f"{name}\n{table.round(4).to_string()}")


if __name__ == "__main__":
    sys.exit(main())
