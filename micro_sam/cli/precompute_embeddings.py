"""``micro_sam.precompute_embeddings``: compute image embeddings ahead of annotation or segmentation."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro_sam.cli.cluster import add_cluster_flags, check_cluster, cluster_of, is_distributed, model_of
from micro_sam.cli.jobs import Job, find_inputs, plan_embeddings
from micro_sam.cli.options import add_image_flags, add_model_flags, add_tiling_flags, check_shared, tiling
from micro_sam.cli.runner import Parser, add_common_flags, run_command, run_jobs
from micro_sam.errors import ParameterError

logger = logging.getLogger("micro_sam.cli")

_DESCRIPTION = """\
Compute the image embeddings, the slow part of segmentation, once and keep them on disk.

  micro_sam.precompute_embeddings -i cells.tif -e cells.zarr -m vit_b_lm
  micro_sam.precompute_embeddings -i images/ --pattern '*.png' -e embeddings/ -m vit_b_lm
  micro_sam.precompute_embeddings -i slices/ -k '*.tif' -e volume.zarr --tile_shape 512 512 --halo 64 64
  micro_sam.precompute_embeddings -i slide.ome.zarr -e slide.zarr --n_workers 4

What was computed before an interruption is kept: run the command again to go on."""


def build_parser() -> Parser:
    """The parser of the command."""
    usage = "%(prog)s -i PATH -e PATH [--pattern GLOB | -k KEY] [-m NAME] [more flags, listed below]"
    parser = Parser(prog="micro_sam.precompute_embeddings", usage=usage, description=_DESCRIPTION)
    parser.add_argument(
        "-i",
        "--input_path",
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="An image, or a folder with --pattern or --key.",
    )
    parser.add_argument(
        "-e",
        "--embedding_path",
        type=Path,
        required=True,
        metavar="PATH",
        help="The zarr store to write; with --pattern an existing folder where each image gets its <name>.zarr.",
    )
    add_image_flags(parser)
    parser.add_argument(
        "-p",
        "--precompute_amg_state",
        action="store_true",
        help="Also compute what automatic segmentation needs: the decoder's predictions, or without decoder the masks.",
    )
    add_model_flags(parser)
    add_tiling_flags(parser, automatic=True)
    add_cluster_flags(parser)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> int:
    """Check everything, load the model, and process image after image."""
    check_shared(args)
    check_cluster(args)
    if is_distributed(args) and args.precompute_amg_state:
        raise ParameterError(
            "--precompute_amg_state is computed by one process; leave it out, or --n_workers and --scheduler."
        )
    paths = find_inputs([args.input_path], args.pattern, args.key)
    stores = plan_embeddings(paths, args.embedding_path, in_folder=args.pattern is not None)
    jobs = [Job(path, args.key, embedding_path=store) for path, store in zip(paths, stores, strict=True)]
    for job in jobs:
        job.open(args.ndim)
    if is_distributed(args):
        return _distribute(jobs, args)
    precompute = _load(args)
    return run_jobs(jobs, lambda job: _process(job, args, precompute), args.debug)


def _distribute(jobs: Sequence[Job], args: argparse.Namespace) -> int:
    from micro_sam.distributed import connect, distributed_embeddings

    tile_shape, halo = tiling(args)

    def process(job: Job) -> None:
        distributed_embeddings(
            job.path,
            job.embedding_path,
            model_of(args),
            client,
            key=job.key,
            ndim=args.ndim,
            tile_shape=tile_shape,
            halo=halo,
            batch_size=args.batch_size,
            normalization=args.normalization or "minmax",
            automatic_tiling=not args.no_tiling,
            verbose=args.verbose or sys.stderr.isatty(),
        )
        print(f"{job.path} -> {job.embedding_path}", flush=True)

    with connect(cluster_of(args)) as client:
        return run_jobs(jobs, process, args.debug)


def _load(args: argparse.Namespace) -> Any:
    from micro_sam.models.predictor import get_sam_model
    from micro_sam.precompute_state import StatePrecomputation

    predictor = get_sam_model(
        args.model_type,
        args.device,
        checkpoint_path=args.checkpoint,
        decoder_path=args.decoder_path,
        precision=args.precision,
    )
    tile_shape, halo = tiling(args)
    return StatePrecomputation(
        predictor,
        tile_shape=tile_shape,
        halo=halo,
        batch_size=args.batch_size,
        normalization=args.normalization or "minmax",
        with_state=args.precompute_amg_state,
        automatic_tiling=not args.no_tiling,
    )


def _process(job: Job, args: argparse.Namespace, precompute: Any) -> None:
    image, ndim = job.open(args.ndim)
    precompute.run(image.read(lazy=True), job.embedding_path, ndim, verbose=args.verbose or sys.stderr.isatty())
    print(f"{job.path} -> {job.embedding_path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
