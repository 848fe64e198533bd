"""The Dask cluster: one that runs already, or workers of our own on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from micro_sam.errors import ClusterError, MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from dask.distributed import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """Where blocks are computed.

    Attributes:
        scheduler: The address of a running Dask scheduler, such as ``tcp://node1:8786``; None starts workers here.
        n_workers: How many worker processes to start here.
        threads_per_worker: Threads of each of them; by default the processors divided among the workers.
        memory_limit: What each of them may use, such as ``8GB``, before it is restarted; "auto" divides the memory.
        timeout: Seconds to wait for the scheduler, and for its first worker.
    """

    scheduler: str | None = None
    n_workers: int = 1
    threads_per_worker: int | None = None
    memory_limit: str | int = "auto"
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.n_workers < 1 or (self.threads_per_worker is not None and self.threads_per_worker < 1):
            raise ParameterError(f"A cluster needs at least one worker with one thread, got {self}.")


def require_distributed() -> Any:
    """The module ``dask.distributed``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from dask import distributed
    except ImportError as error:
        raise MissingDependencyError(
            "Working on several workers needs dask.distributed, which is not installed; install it with "
            "`pip install 'micro_sam[distributed]'`."
        ) from error
    # What its parts tell each other is not for the person at the keyboard; what fails comes as an error.
    for name in ("distributed", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def connect(cluster: Cluster | Client) -> Iterator[Client]:
    """A client of the cluster, closed at the end together with the workers that were started here.

    Args:
        cluster: What to connect to or to start, or a client, which is left open.

    Raises:
        MissingDependencyError: ``dask.distributed`` is not installed.
        ClusterError: The scheduler does not answer or has no worker.
    """
    distributed = require_distributed()
    if isinstance(cluster, distributed.Client):
        yield cluster
    elif cluster.scheduler is None:
        yield from _local(distributed, cluster)
    else:
        yield from _remote(distributed, cluster)


def _local(distributed: Any, cluster: Cluster) -> Iterator[Client]:
    threads = cluster.threads_per_worker or max(1, (os.cpu_count() or 1) // cluster.n_workers)
    with (
        distributed.LocalCluster(
            n_workers=cluster.n_workers,
            threads_per_worker=threads,
            memory_limit=cluster.memory_limit,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def _remote(distributed: Any, cluster: Cluster) -> Iterator[Client]:
    try:
        client = distributed.Client(cluster.scheduler, timeout=cluster.timeout)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at '{cluster.scheduler}'; start one with `dask scheduler`, or check the address."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=cluster.timeout)
        except TimeoutError as error:
            raise ClusterError(
                f"The Dask scheduler at '{cluster.scheduler}' has no worker after {cluster.timeout:g} s; start some with "
                f"`dask worker {cluster.scheduler}`."
            ) from error
        _check_versions(client)
        yield client


def _check_versions(client: Client) -> None:
    from micro_sam import __version__

    try:
        versions = client.run(version_of_worker)
    except Exception as error:  # whatever it is, a worker cannot import this package
        raise ClusterError(
            f"A worker cannot load micro_sam ({type(error).__name__}: {error}); install it for the Python of all workers."
        ) from error
    other = sorted({version for version in versions.values() if version != __version__})
    if other:
        raise ClusterError(f"Workers run micro_sam {', '.join(other)}, this is {__version__}; install one version.")


def version_of_worker() -> str:
    """The version of this package; called on the workers."""
    from micro_sam import __version__

    return __version__
