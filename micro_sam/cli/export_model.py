"""``micro_sam.export_model``: a model for other programs, the model zoo, or ONNX runtimes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from micro_sam.cli.options import add_model_file_flags, check_model_files, whole_number
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import OutputError, ParameterError
from micro_sam.io.paths import check_folder_of, check_overwrites_no_input

_USAGE = "%(prog)s -o PATH [-m NAME] [-c FILE] [--format NAME] [more flags, listed below]"
_DESCRIPTION = """\
Write a model so that other programs open it.

  micro_sam.export_model -c best.pt -m vit_b -o my_model.pth
  micro_sam.export_model -c best.pt -m vit_b -o my_model.zip --name 'My cells' --image cells.tif --labels labels.tif
  micro_sam.export_model -m vit_b_lm -o onnx_files/ --quantize

Formats, found from the name of the output:
  flat        .pt or .pth: the layout of the original Segment Anything (napari-sam, samm, SlicerSegmentWithSAM)
  bioimageio  .zip: a package for the BioImage.IO model zoo
  onnx        a folder: encoder.onnx, decoder.onnx, instance_decoder.onnx
  bioengine   a folder: the same as a model repository for a Triton inference server (only with --format)"""
_SUFFIXES = {".pt": "flat", ".pth": "flat", ".zip": "bioimageio", "": "onnx"}
_OPSET = 18


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog="micro_sam.export_model", usage=_USAGE, description=_DESCRIPTION)
    parser.add_argument(
        "-o", "--output_path", "--output", type=Path, required=True, metavar="PATH", help="The file or folder to write."
    )
    parser.add_argument("--format", choices=tuple(_WRITERS), help="What to write, if its name does not say it.")
    parser.add_argument("--overwrite", action="store_true", help="Replace what is there.")
    add_model_file_flags(parser)
    parser.add_argument(
        "--with_decoder", action="store_true", help="flat: with the instance segmentation decoder, for micro_sam only."
    )
    _add_package_flags(parser)
    group = parser.add_argument_group("onnx and bioengine")
    group.add_argument(
        "--opset", type=whole_number(least=1), default=_OPSET, help="Version of the ONNX operators, 17 to 20."
    )
    group.add_argument("--quantize", action="store_true", help="onnx: write int8 forms, too.")
    add_common_flags(parser)
    return parser


def _add_package_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("bioimageio")
    group.add_argument("--name", help="What the model is called, at least five letters.")
    group.add_argument(
        "--image", type=Path, metavar="FILE", help="A 2d image to test the package with; becomes part of it."
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="Its annotated objects.")
    group.add_argument("--image_key", help="The data set in --image if it is an hdf5 or zarr file.")
    group.add_argument("--label_key", help="The same for --labels.")
    group.add_argument("--automatic", action="store_true", help="Image in, instance labels out; without it by prompts.")
    group.add_argument("--description", help="What the model is for.")
    group.add_argument("--author", action="append", default=[], metavar="NAME", help="Who made it; can be repeated.")
    group.add_argument("--license", default="CC-BY-4.0", help="An SPDX licence identifier.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Check everything, then write the model."""
    kind = args.format or _SUFFIXES.get(args.output_path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"'{args.output_path.name}' says no format; end it with .pth or .zip, name a folder, or add --format."
        )
    check_model_files(args)
    check_folder_of(args.output_path)
    if args.output_path.exists() and not args.overwrite:
        raise OutputError(f"'{args.output_path}' exists; add --overwrite to replace it, or choose another name.")
    inputs = [path for path in (args.checkpoint, args.decoder_path, args.image, args.labels) if path is not None]
    check_overwrites_no_input([args.output_path], inputs)
    for written in _WRITERS[kind](args):
        print(written, flush=True)
    return 0


def _write_flat(args: argparse.Namespace) -> list[Path]:
    from micro_sam.bioimageio.model_source import read_source
    from micro_sam.models.export import save_checkpoint

    source = read_source(args.model_type, args.checkpoint, args.decoder_path)
    content = source.model_state
    if args.with_decoder:
        content = {"model_state": source.model_state, "decoder_state": source.checked_decoder()}
    save_checkpoint(content, args.output_path)
    return [args.output_path]


def _write_package(args: argparse.Namespace) -> list[Path]:
    for flag in ("name", "image", "labels"):
        if getattr(args, flag) is None:
            raise ParameterError(f"A package for the model zoo needs --{flag}; give --name, --image and --labels.")
    if args.output_path.suffix.lower() != ".zip":
        raise OutputError(f"A package is a .zip file, got '{args.output_path.name}'; name it so.")
    from micro_sam.bioimageio import export_sam_model
    from micro_sam.io import load_image_data

    export_sam_model(
        load_image_data(args.image, args.image_key),
        load_image_data(args.labels, args.label_key),
        args.model_type,
        args.name,
        args.output_path,
        args.checkpoint,
        decoder_path=args.decoder_path,
        automatic=args.automatic,
        description=args.description,
        authors=[{"name": author} for author in args.author],
        license=args.license,
    )
    return [args.output_path]


def _write_onnx(args: argparse.Namespace) -> list[Path]:
    from micro_sam.bioimageio import export_onnx_files

    return export_onnx_files(
        args.model_type, args.output_path, args.checkpoint, args.decoder_path, args.opset, args.quantize
    )


def _write_repository(args: argparse.Namespace) -> list[Path]:
    from micro_sam.bioimageio import export_bioengine_model

    export_bioengine_model(args.model_type, args.output_path, args.opset, checkpoint_path=args.checkpoint)
    return sorted(args.output_path.glob("*/config.pbtxt"))


_WRITERS: dict[str, Callable[[argparse.Namespace], list[Path]]] = {
    "flat": _write_flat,
    "bioimageio": _write_package,
    "onnx": _write_onnx,
    "bioengine": _write_repository,
}


if __name__ == "__main__":
    sys.exit(main())
