"""Automatic segmentation from the command line on several workers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from micro_sam.cli.cluster import blocks_of, cluster_of, model_of
from micro_sam.cli.jobs import Job
from micro_sam.cli.runner import run_jobs
from micro_sam.errors import ParameterError
from micro_sam.io.labels import ZARR_SUFFIXES

_ONE_PROCESS = ("overlay", "embedding_path", "tracking", "annotate", "sample")


def check_distributed(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Raise a `ParameterError` for flags that one process has to do, and outputs that several cannot write to."""
    for flag in _ONE_PROCESS:
        if getattr(args, flag):
            raise ParameterError(f"--{flag} is done by one process; leave it out, or --n_workers and --scheduler.")
    if args.no_tiling:
        raise ParameterError(
            "Several workers share an image in blocks; leave out --no_tiling, or --n_workers and --scheduler."
        )
    for job in jobs:
        if job.output is None or job.output.suffix.lower() not in ZARR_SUFFIXES:
            raise ParameterError(
                f"Several workers write labels as OME-Zarr, but the output is '{job.output}'; end it with .zarr, or give "
                "--format zarr."
            )


def distribute(jobs: Sequence[Job], args: argparse.Namespace, mode: str | None, settings: Mapping[str, Any]) -> int:
    """Segment image after image, each by all workers; returns the exit code."""
    from micro_sam.distributed import connect, distributed_segmentation

    def process(job: Job) -> None:
        image, ndim = job.open(args.ndim)
        result = distributed_segmentation(
            job.path,
            job.output,
            model_of(args),
            client,
            key=image.key if job.key is None else job.key,
            ndim=ndim,
            mode=mode,
            normalization=args.normalization or "robust",
            batch_size=args.batch_size,
            verbose=args.verbose or sys.stderr.isatty(),
            **blocks_of(args, ndim),
            **settings,
        )
        count = "1 object" if result.n_objects == 1 else f"{result.n_objects} objects"
        print(f"{job.path}: {count} -> {job.output}", flush=True)

    with connect(cluster_of(args)) as client:
        return run_jobs(jobs, process, args.debug)
