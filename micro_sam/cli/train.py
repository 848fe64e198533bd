"""``micro_sam.train``: finetune a model on your own annotated images."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from micro_sam.cli.options import device_name, model_name
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import InputError, ParameterError
from micro_sam.models.spec import training_configurations
from micro_sam.training.settings import TrainingSettings

logger = logging.getLogger("micro_sam.cli")

_DESCRIPTION = """\
Finetune a model on your own annotated images, and learn whether it became better.

  micro_sam.train --images images/ --image_key '*.tif' --labels labels/ --label_key '*.tif' --name my_cells
  micro_sam.train --images volume.h5 --image_key raw --labels volume.h5 --label_key labels -m vit_b_em_organelles
  micro_sam.train --images a.tif b.tif --labels a_labels.tif b_labels.tif --check

Labels are integers, one for each object; 0 is background, negative is area that nobody annotated. Images are paired with
labels in natural order. Without --val_images a share of the images is held out. The result is one model file that every
command opens with --checkpoint. Interrupted, the same command goes on where it stopped."""

#: Flags whose name is not that of the setting.
_FLAGS = {"name": ("--name", "--trained_model_name"), "model_type": ("-m", "--model_type")}
_TITLES = {"data": "data", "training": "training", "memory": "memory and speed", "peft": "training few parameters"}
_DESTINATION = "setting_"


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s --images PATH ... --labels PATH ... [--name NAME] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.train", usage=usage, description=_DESCRIPTION)
    for name, what in (("images", "Images or volumes"), ("labels", "Their annotated instances")):
        parser.add_argument(
            f"--{name}",
            type=Path,
            nargs="+",
            required=True,
            metavar="PATH",
            help=f"{what}: files, or a folder with a key.",
        )
    for name, what in (("image", "images"), ("label", "labels")):
        parser.add_argument(
            f"--{name}_key", help=f"The data set inside the {what}, or the pattern of a folder's files."
        )
    for name, what in (("images", "Images"), ("labels", "Labels")):
        parser.add_argument(f"--val_{name}", type=Path, nargs="+", metavar="PATH", help=f"{what} for validation.")
    for name in ("image", "label"):
        parser.add_argument(f"--val_{name}_key", help=f"The same as --{name}_key for validation; by default the same.")
    parser.add_argument("--check", action="store_true", help="Only look at the data and say what is fine or wrong.")
    parser.add_argument(
        "-c", "--checkpoint_path", type=Path, metavar="FILE", help="A model file of your own to start from."
    )
    parser.add_argument("-s", "--save_root", type=Path, metavar="PATH", help="Folder for checkpoints and logs.")
    parser.add_argument("-o", "--output_path", type=Path, metavar="FILE", help="The model file to write.")
    parser.add_argument("-d", "--device", type=device_name, metavar="NAME", help="cpu, cuda, cuda:1 or mps.")
    parser.add_argument(
        "--overwrite", action="store_true", help="Begin anew although there is a training of that name."
    )
    _add_setting_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Check everything, then train."""
    settings = TrainingSettings(**_given(args))
    data, validation = _data(args)
    if args.checkpoint_path is not None and not args.checkpoint_path.is_file():
        raise InputError(f"--checkpoint_path '{args.checkpoint_path}' does not exist; check the path.")
    if args.check:
        return _check(data, validation, settings)
    from micro_sam.progress import drain
    from micro_sam.training.run import run_training

    work = run_training(
        settings, data, validation, args.checkpoint_path, args.save_root, args.output_path, args.device, args.overwrite
    )
    result = drain(work, verbose=True)
    print(f"{result.verdict}\nThe model is {result.output_path}; open it with --checkpoint in every command.")
    return 0


def _check(data: Any, validation: Any, settings: TrainingSettings) -> int:
    from micro_sam.training.data import check_data

    usable = True
    for part in filter(None, (data, validation)):
        report = check_data(part, settings)
        print(report.table())
        usable = usable and report.is_usable
    return 0 if usable else 2


def _data(args: argparse.Namespace) -> tuple[Any, Any]:
    if (args.val_images is None) != (args.val_labels is None):
        missing = "val_labels" if args.val_labels is None else "val_images"
        raise ParameterError(f"Validation needs images and labels; add --{missing}.")
    from micro_sam.training.data import TrainingData

    validation = None
    if args.val_images is not None:
        validation = TrainingData(
            args.val_images, args.val_labels, args.val_image_key or args.image_key, args.val_label_key or args.label_key
        )
    return TrainingData(args.images, args.labels, args.image_key, args.label_key), validation


def _add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of `TrainingSettings`."""
    groups = {name: parser.add_argument_group(title) for name, title in _TITLES.items()}
    for item in fields(TrainingSettings):
        flags = _FLAGS.get(item.name, (f"--{item.name}",))
        default = "" if item.default in (None, (), False) else f" (default: {_text(item.default)})"
        help_text = item.metadata["help"].replace("%", "%%") + default
        groups[item.metadata["group"]].add_argument(
            *flags, dest=_DESTINATION + item.name, default=None, help=help_text, **_kind(item)
        )


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(item: Field) -> dict[str, Any]:
    """How argparse reads a setting."""
    if item.name == "model_type":
        return {"type": model_name, "metavar": "NAME"}
    if item.name == "configuration":
        return {"choices": tuple(training_configurations())}
    if isinstance(item.default, bool) or item.metadata["choices"] == (True, False):
        return {"action": argparse.BooleanOptionalAction}
    several = {"patch_shape": 2, "freeze": "+", "peft_blocks": "+"}.get(item.name)
    kind: dict[str, Any] = {} if several is None else {"nargs": several}
    if item.metadata["choices"] is not None:
        return {**kind, "choices": tuple(choice for choice in item.metadata["choices"] if choice is not None)}
    if item.metadata["range"] is None:
        return kind
    is_real = isinstance(item.default, float)
    return {**kind, "type": _number(float if is_real else int), "metavar": "X" if is_real else "N"}


def _number(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {expected}, got '{text}'") from None

    return parse


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given; lists become tuples."""
    given = {item.name: getattr(args, _DESTINATION + item.name) for item in fields(TrainingSettings)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}


if __name__ == "__main__":
    sys.exit(main())
