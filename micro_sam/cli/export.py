"""``micro_sam.export``: objects from one file format into another, whatever program made them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from micro_sam.cli.runner import Parser, add_common_flags, run_command, run_jobs
from micro_sam.cli.settings_flags import number
from micro_sam.errors import OutputError, ParameterError
from micro_sam.exports.registry import FORMATS, check_export, format_of, written
from micro_sam.exports.settings import ExportSettings, ImportSettings
from micro_sam.io.resolution import unit_name

logger = logging.getLogger("micro_sam.cli")

_USAGE = "%(prog)s -i PATH ... -o PATH [--image PATH ...] [more flags, listed below]"
_DESCRIPTION = """\
Bring segmented objects into the format of another program, and those of other programs into labels.

  micro_sam.export -i labels.tif -o objects.geojson
  micro_sam.export -i labels.tif -o measurements.csv --image cells.tif
  micro_sam.export -i volume_labels.zarr -o volume_rois.zip
  micro_sam.export -i tracked.tif -o tracked_ctc
  micro_sam.export -i from_qupath.geojson --image cells.tif -o labels.tif
  micro_sam.export -i results/*.tif -o exported/ --format imagej

What is written follows from the name of the output:
{formats}
What is read: the same except tables, and png, npy, HDF5 (labels), .roi (ImageJ), .xml (TrackMate)."""
_SETTINGS = (ExportSettings, ImportSettings)


def build_parser() -> Parser:
    """The parser of the command."""
    lines = [f"  {', '.join(found.suffixes) or 'a folder':22} {found.title}" for found in FORMATS.values()]
    parser = Parser(prog="micro_sam.export", usage=_USAGE, description=_DESCRIPTION.format(formats="\n".join(lines)))
    parser.add_argument(
        "-i", "--input_path", "--input", type=Path, nargs="+", required=True, metavar="PATH",
        help="Files with objects, or a folder with --pattern.",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output_path", "--output", type=Path, required=True, metavar="PATH",
        help="What to write for one input; with --format also an existing folder, where each input gets a file of its name.",
    )  # fmt: skip
    parser.add_argument("--format", choices=tuple(FORMATS), help="What to write, for an output folder.")
    parser.add_argument("--pattern", metavar="GLOB", help="Which files of an input folder to take, such as '*.tif'.")
    parser.add_argument(
        "-k", "--key", help="The data set inside an hdf5 or zarr file, or the image of a COCO file (its name or id)."
    )
    parser.add_argument(
        "--image", type=Path, nargs="+", metavar="PATH",
        help="The image of each input: it says how large images are that files with outlines belong to and how large their "
        "pixels are, and its intensities are measured.",
    )  # fmt: skip
    parser.add_argument("--image_key", metavar="KEY", help="The data set inside the images.")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="CSV",
        help='A table with the columns "label" (or "id") and "class", such as that of the object classifier.',
    )
    parser.add_argument(
        "--pixel_size", type=number(float, [(1e-9, None)]), nargs="+", metavar="SIZE",
        help="The size of a pixel, z y x or y x or one number for all; what the files say if left out.",
    )  # fmt: skip
    parser.add_argument("--unit", type=_unit, default="micrometer", help="The unit of --pixel_size.")
    parser.add_argument(
        "--timeseries",
        action="store_true",
        help="The first of three axes is time; found from the files if they say so.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace outputs that exist.")
    _add_settings(parser)
    add_common_flags(parser)
    return parser


def _unit(text: str) -> str:
    found = unit_name(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a unit of length such as micrometer or nm, got '{text}'")
    return found


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of the settings."""
    for settings in _SETTINGS:
        for item in fields(settings):
            kind: dict[str, Any] = {"type": number(type(item.default), [item.metadata["range"]]), "metavar": "X"}
            if isinstance(item.default, bool):
                kind = {"action": argparse.BooleanOptionalAction}
            elif "choices" in item.metadata:
                kind = {"choices": item.metadata["choices"]}
            parser.add_argument(f"--{item.name}", default=item.default, help=item.metadata["help"], **kind)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


@dataclass(frozen=True)
class _Job:
    """One file to bring into another format."""

    path: Path
    output: Path
    image: Path | None


def execute(args: argparse.Namespace) -> int:
    """Check everything, then export file after file."""
    from micro_sam.exports.classes import read_classes

    jobs = _plan(args)
    classes = None if args.classes is None else read_classes(args.classes)
    return run_jobs(jobs, lambda job: _process(job, args, classes), args.debug)


def _plan(args: argparse.Namespace) -> list[_Job]:
    from micro_sam.io.paths import check_overwrites_no_input, expand_inputs, unique_names

    paths, output = expand_inputs(args.input_path, args.pattern), args.output_path
    images = [None] * len(paths) if args.image is None else expand_inputs(args.image, args.pattern)
    if len(images) != len(paths):
        raise ParameterError(f"Expected an image for each input, got {len(images)} for {len(paths)}; check --image.")
    if args.format is not None and output.is_dir() and (len(paths) > 1 or format_of(output).name != args.format):
        suffix = FORMATS[args.format].suffixes[0] if FORMATS[args.format].suffixes else ""
        outputs = [output / f"{name}{suffix}" for name in unique_names(paths)]
    elif len(paths) == 1:
        outputs = [output]
    else:
        raise OutputError(
            f"For {len(paths)} inputs give an existing folder as output, and --format; got '{output}' and {args.format}."
        )
    for path in outputs:
        check_export(path, args.overwrite, args.format)
    check_overwrites_no_input([found for path in outputs for found in written(path)], [*paths, *filter(None, images)])
    return [_Job(*each) for each in zip(paths, outputs, images, strict=True)]


def _process(job: _Job, args: argparse.Namespace, classes: dict[int, str] | None) -> None:
    from micro_sam.exports import LabelledImage, import_labels, iter_export
    from micro_sam.io import open_image
    from micro_sam.progress import drain

    image = None if job.image is None else open_image(job.image, args.image_key)
    is_timeseries = args.timeseries or (image is not None and "T" in (image.axes or ""))
    shape = None if image is None else _spatial(image)
    verbose = args.verbose or sys.stderr.isatty()
    found = import_labels(job.path, shape, key=args.key, settings=_given(ImportSettings, args), verbose=verbose)
    for note in found.notes:
        print(f"{job.path}: {note}", file=sys.stderr)
    content = LabelledImage(
        found.labels,
        found.labels.ndim == 3 and (is_timeseries or found.is_timeseries),
        _resolution(args, image, found),
        None if image is None else image.read(),
        found.classes if classes is None else classes,
        found.lineages or (),
        (job.image or job.path).name,
    )
    drain(iter_export(job.output, content, _given(ExportSettings, args), args.overwrite), verbose)
    count = len(content.ids)
    print(
        f"{job.path}: {count} object{'' if count == 1 else 's'} -> {', '.join(map(str, written(job.output)))}",
        flush=True,
    )


def _spatial(image: Any) -> tuple[int, ...]:
    """The shape of an image without its channels."""
    shape = image.shape
    has_channels = len(shape) == 4 or (len(shape) == 3 and _names_channels(image))
    return shape[:-1] if has_channels else shape


def _names_channels(image: Any) -> bool:
    if image.axes is not None and len(image.axes) == len(image.stored_shape):
        return any(axis in "CS" and size > 1 for axis, size in zip(image.axes, image.stored_shape))
    return image.shape[-1] <= 4


def _resolution(args: argparse.Namespace, image: Any, found: Any) -> Any:
    """The pixel size: what was given, else what the image says, else what the labels say."""
    from micro_sam.io import Resolution

    if args.pixel_size is None:
        known = [each for each in (None if image is None else image.resolution, found.resolution) if each and each.size]
        return known[0] if known else Resolution({})
    sizes, ndim = args.pixel_size, found.labels.ndim
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) not in (2, 3):
        raise ParameterError(f"--pixel_size takes one, two (y x) or three (z y x) numbers, got {len(sizes)}.")
    return Resolution(dict(zip("xyz"[:ndim], sizes[::-1])), args.unit)


def _given(settings: type, args: argparse.Namespace) -> Any:
    return settings(**{item.name: getattr(args, item.name) for item in fields(settings)})


if __name__ == "__main__":
    sys.exit(main())
