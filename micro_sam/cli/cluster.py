"""The flags that let a command work on several workers, and what they ask for."""

from __future__ import annotations

import argparse
from typing import Any

from micro_sam.cli.options import tiling, whole_number
from micro_sam.errors import ParameterError


def add_cluster_flags(parser: argparse.ArgumentParser, with_slab: bool = False) -> None:
    """``--n_workers``, ``--scheduler``, ``--threads_per_worker``, ``--memory_limit`` and, for blocks of volumes, ``--slab``."""
    group = parser.add_argument_group("several workers (needs pip install 'micro_sam[distributed]')")
    group.add_argument(
        "--n_workers", type=whole_number(1), metavar="N", help="Work on this many processes of this machine."
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="Work on a running Dask cluster, such as tcp://node1:8786."
    )
    group.add_argument(
        "--threads_per_worker",
        type=whole_number(1),
        metavar="N",
        help="Of --n_workers; all processors are shared if left out.",
    )
    group.add_argument(
        "--memory_limit", metavar="SIZE", help="Of each of --n_workers, such as 8GB; the memory is shared if left out."
    )
    if with_slab:
        group.add_argument(
            "--slab",
            type=whole_number(least=0),
            nargs=2,
            metavar=("Z", "HALO"),
            help="Slices of a volume in one block, and how far it reaches into its neighbours (default: 32 4).",
        )


def is_distributed(args: argparse.Namespace) -> bool:
    """Whether several workers were asked for."""
    return args.scheduler is not None or args.n_workers is not None


def check_cluster(args: argparse.Namespace) -> None:
    """Check the flags before anything is done.

    Raises:
        ParameterError: Flags that exclude or need each other.
        MissingDependencyError: ``dask.distributed`` is not installed.
    """
    if args.scheduler is not None and args.n_workers is not None:
        raise ParameterError(
            "--scheduler uses the workers of a running cluster, --n_workers starts some; give one of them."
        )
    for flag in ("threads_per_worker", "memory_limit"):
        if getattr(args, flag) is not None and args.n_workers is None:
            raise ParameterError(f"--{flag} belongs to --n_workers; add it, or leave --{flag} out.")
    if getattr(args, "slab", None) is not None and not is_distributed(args):
        raise ParameterError("--slab belongs to --n_workers or --scheduler; add one of them, or leave it out.")
    if is_distributed(args):
        from micro_sam.distributed.cluster import require_distributed

        require_distributed()


def cluster_of(args: argparse.Namespace) -> Any:
    """What to connect to or to start."""
    from micro_sam.distributed import Cluster

    limit = "auto" if args.memory_limit is None else args.memory_limit
    return Cluster(args.scheduler, args.n_workers or 1, args.threads_per_worker, limit)


def model_of(args: argparse.Namespace) -> Any:
    """The model that the workers load."""
    from micro_sam.distributed import ModelSource

    return ModelSource(args.model_type, args.checkpoint, args.decoder_path, args.device, args.precision)


def blocks_of(args: argparse.Namespace, ndim: int) -> dict[str, Any]:
    """The shape and halo of blocks, from the flags for tiles and slabs."""
    from micro_sam.distributed.segmentation import BLOCK_SHAPE, HALO

    tile_shape, halo = tiling(args)
    tile_shape, halo = tile_shape or BLOCK_SHAPE[2], halo or HALO[2]
    if ndim == 2:
        return {"block_shape": tile_shape, "halo": halo}
    depth, reach = args.slab or (BLOCK_SHAPE[3][0], HALO[3][0])
    return {"block_shape": (depth, *tile_shape), "halo": (reach, *halo)}
