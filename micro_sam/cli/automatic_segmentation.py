"""``micro_sam.automatic_segmentation``: from image files to instance labels."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro_sam.cli.cluster import add_cluster_flags, check_cluster, is_distributed
from micro_sam.cli.distributed_segmentation import check_distributed, distribute
from micro_sam.cli.jobs import BESIDE, DEFAULT_SAMPLE, Job, find_inputs, plan_embeddings, plan_outputs, sample_names
from micro_sam.cli.options import (
    add_image_flags,
    add_model_flags,
    add_tiling_flags,
    check_shared,
    tiling,
)
from micro_sam.cli.runner import Parser, add_common_flags, run_command, run_jobs
from micro_sam.cli.settings_flags import add_settings_flags, check_settings, given_settings, modes_that_take
from micro_sam.cli.tracking_flags import add_tracking_flags, check_tracking, tracking_options, write_tracking
from micro_sam.cli.volume_flags import add_volume_flags, given_volume_settings
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.factory import get_segmentation_mode
from micro_sam.instance_segmentation.settings import MODES
from micro_sam.models.spec import get_spec

logger = logging.getLogger("micro_sam.cli")

_USAGE = "%(prog)s (-i PATH ... | --sample [NAME]) -o PATH [-m NAME] [--overlay] [more flags, listed below]"
_DESCRIPTION = """\
Segment every object in microscopy images.

  micro_sam.automatic_segmentation -i cells.tif -o labels.tif -m vit_t_builtin --overlay
  micro_sam.automatic_segmentation -i images/ --pattern '*.png' -o results/ -m vit_b_lm
  micro_sam.automatic_segmentation -i slide.ome.zarr -o labels.ome.zarr --n_workers 4
  micro_sam.automatic_segmentation -i volume.tif -n 3 -o labels.zarr --min_z_extent 3
  micro_sam.automatic_segmentation -i movie.tif --tracking -o tracked.tif

Labels are written as .tif with the pixel size of the image, or as OME-Zarr (.zarr). A mode is chosen by what the model
can do: ais or apg if it has an instance segmentation decoder, otherwise amg."""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog="micro_sam.automatic_segmentation", usage=_USAGE, description=_DESCRIPTION)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-i",
        "--input_path",
        "--input",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="Images, or a folder with --pattern or --key.",
    )
    source.add_argument(
        "--sample",
        nargs="?",
        const=DEFAULT_SAMPLE,
        choices=sample_names(),
        help="Segment a microscopy image that comes with the installation instead.",
    )
    parser.add_argument(
        "-o",
        "--output_path",
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="The labels of one image (.tif, .zarr), or an existing folder where each image gets a file of its name.",
    )
    add_image_flags(parser)
    parser.add_argument(
        "--overlay",
        nargs="?",
        const=BESIDE,
        type=Path,
        metavar="PNG",
        help="Also write a picture with the outlines, beside the labels or to this path or folder.",
    )
    parser.add_argument("--format", choices=("tif", "zarr"), default="tif", help="Of the labels in an output folder.")
    parser.add_argument(
        "-e",
        "--embedding_path",
        type=Path,
        metavar="PATH",
        help="Keep the embeddings in this zarr store (for several images: this folder) and use those already there.",
    )
    parser.add_argument("--mode", choices=("auto", *MODES), default="auto", help="How to segment.")
    parser.add_argument("--annotate", action="store_true", help="Open the result in the annotator for correction.")
    add_model_flags(parser)
    add_tiling_flags(parser, automatic=True)
    add_cluster_flags(parser, with_slab=True)
    add_volume_flags(parser)
    add_tracking_flags(parser)
    add_settings_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Check everything, load the model, and process image after image."""
    check_shared(args)
    check_cluster(args)
    given_volume_settings(args)
    given = given_settings(args)
    mode = _check_mode(args, given)
    jobs = _plan(args)
    _check_images(jobs, args)
    check_tracking(args, jobs)
    if is_distributed(args):
        check_distributed(args, jobs)
        return distribute(jobs, args, mode, {**given, **given_volume_settings(args)})
    predictor, segmenter = _load(args, mode, given)
    return run_jobs(jobs, lambda job: _process(job, args, predictor, segmenter, given), args.debug)


def _check_mode(args: argparse.Namespace, given: dict[str, Any]) -> str | None:
    """The segmentation mode, None if only the checkpoint can tell; finds parameters that do not belong to it."""
    if args.checkpoint is None and args.decoder_path is None:
        mode = get_segmentation_mode(args.mode, get_spec(args.model_type).decoder is not None)
    else:
        mode = None if args.mode == "auto" else args.mode
    if mode is not None:
        check_settings(mode, given)
    elif not modes_that_take(given):
        raise ParameterError(
            f"No mode takes {', '.join(f'--{name}' for name in given)} together; choose one with --mode."
        )
    return mode


def _plan(args: argparse.Namespace) -> list[Job]:
    if args.sample is not None:
        paths = [Path(args.sample)]
    else:
        paths = find_inputs(args.input_path, args.pattern, args.key)
    outputs = plan_outputs(paths, args.output_path, f".{args.format}", args.overlay)
    in_folder = len(paths) > 1 or args.pattern is not None
    stores = plan_embeddings(paths, args.embedding_path, in_folder)
    return [
        Job(path, args.key, args.sample is not None, output, overlay, store)
        for path, (output, overlay), store in zip(paths, outputs, stores, strict=True)
    ]


def _check_images(jobs: Sequence[Job], args: argparse.Namespace) -> None:
    """Open every image, so that a damaged one or one of another kind is found before the first is segmented."""
    if args.annotate and not _has_module("sam_annotator"):
        raise ParameterError(
            "--annotate needs micro_sam.sam_annotator, which is not part of this version; leave it out."
        )
    if args.annotate and len(jobs) > 1:
        raise ParameterError(f"--annotate opens one image, but there are {len(jobs)}; name one.")
    volume_flags = [name for name in given_volume_settings(args) if not (args.tracking and name == "gap_closing")]
    for job in jobs:
        _, ndim = job.open(3 if args.tracking else args.ndim)
        if volume_flags and (ndim == 2 or args.tracking):
            what = "is an image" if ndim == 2 else "is tracked"
            raise ParameterError(f"--{volume_flags[0]} belongs to volumes, but '{job.path}' {what}; leave it out.")


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(f"micro_sam.{name}") is not None


def _load(args: argparse.Namespace, mode: str | None, given: dict[str, Any]) -> tuple[Any, Any]:
    from micro_sam import automatic_segmentation as library

    predictor, segmenter = library.get_predictor_and_segmenter(
        args.model_type,
        checkpoint=args.checkpoint,
        device=args.device,
        segmentation_mode=mode,
        is_tiled=args.tile_shape is not None,
        precision=args.precision,
        decoder_path=args.decoder_path,
        **{name: value for name, value in given.items() if name in library.init_parameters()},
    )
    check_settings(library.segmentation_mode_of(segmenter), given)
    logger.info("%s on %s, mode %s", args.model_type, predictor.device, library.segmentation_mode_of(segmenter))
    return predictor, segmenter


def _process(job: Job, args: argparse.Namespace, predictor: Any, segmenter: Any, given: dict[str, Any]) -> None:
    from micro_sam import automatic_segmentation as library
    from micro_sam.embeddings import is_too_large
    from micro_sam.io import write_labels, write_overlay

    image, ndim = job.open(3 if args.tracking else args.ndim)
    tile_shape, halo = tiling(args)
    in_tiles = tile_shape is not None or (is_too_large(image.shape[ndim - 2 : ndim]) and not args.no_tiling)
    # A volume, or a large image in tiles, is never read as a whole.
    pixels = image.read(lazy=ndim == 3 or (in_tiles and job.overlay is None))
    options = {
        "embedding_path": job.embedding_path,
        "tile_shape": tile_shape,
        "halo": halo,
        "verbose": args.verbose or sys.stderr.isatty(),
        "batch_size": args.batch_size,
        **{name: value for name, value in given.items() if name not in library.init_parameters()},
    }
    if args.tracking:
        options |= {"normalization": args.normalization or "minmax", "automatic_tiling": not args.no_tiling}
        options |= tracking_options(args)
        labels, lineages = library.automatic_tracking(predictor, segmenter, pixels, **options)
        print(f"{job.path}: {write_tracking(job, args, labels, lineages, image.resolution)}")
    else:
        labels = library.automatic_instance_segmentation(
            predictor,
            segmenter,
            pixels,
            ndim=ndim,
            normalization=args.normalization or "minmax",
            automatic_tiling=not args.no_tiling,
            **given_volume_settings(args),
            **options,
        )
        write_labels(job.output, labels, image.resolution)
        print(f"{job.path}: {_count(labels)} -> {job.output}")
    if job.overlay is not None:
        write_overlay(job.overlay, pixels, labels)
        print(f"{job.path}: overlay -> {job.overlay}")
    sys.stdout.flush()
    if args.annotate:
        library.open_annotator(pixels, labels, job.embedding_path, predictor, lineages if args.tracking else None)


def _count(labels: Any) -> str:
    import numpy as np

    planes = [labels] if len(labels.shape) == 2 else labels
    ids = np.unique(np.concatenate([np.unique(np.asarray(plane)) for plane in planes]))
    count = len(np.setdiff1d(ids, [0]))
    return "1 object" if count == 1 else f"{count} objects"


if __name__ == "__main__":
    sys.exit(main())
