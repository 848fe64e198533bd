"""Run one task per block on a cluster: few at a time, as often as it takes, with errors a person can read."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from micro_sam.errors import ClusterError, MicroSamError

if TYPE_CHECKING:
    from dask.distributed import Client, Future

logger = logging.getLogger(__name__)

_POLL = 5.0  # seconds between two looks at whether there are workers
_ATTEMPTS = 2  # of a block whose workers died, each of which the scheduler repeats several times by itself
_PER_THREAD = 2  # blocks handed out per thread: one computed, one waiting


def iter_tasks(
    client: Client, function: Callable[..., Any], work: Iterable[tuple[int, tuple[Any, ...]]], what: str
) -> Generator[tuple[int, Any], None, None]:
    """Call a function on the workers for many numbered pieces of work.

    Closing the generator cancels what was not begun.

    Args:
        client: The cluster.
        function: Called with the arguments of each piece; importable by the workers.
        work: Numbers and arguments; taken when there is room for them.
        what: What a piece is called in messages, for example "block".

    Yields:
        The number of a piece and what the function returned, in the order in which they finish.

    Raises:
        MicroSamError: What the function raised.
        ClusterError: Workers die again and again over one piece, or the scheduler is gone.
    """
    from dask.distributed import CancelledError

    pending = iter(work)
    running: dict[Future, tuple[int, tuple[Any, ...]]] = {}
    attempts: Counter[int] = Counter()

    def submit(number: int, arguments: tuple[Any, ...]) -> None:
        attempts[number] += 1
        key = f"{function.__name__}-{number}-{uuid.uuid4().hex[:8]}"
        running[client.submit(function, *arguments, key=key, pure=False)] = number, arguments

    try:
        while True:
            for number, arguments in itertools.islice(pending, max(0, _room(client) - len(running))):
                submit(number, arguments)
            if not running:
                return
            for future in _finished(client, running):
                number, arguments = running.pop(future)
                try:
                    result = future.result()
                except CancelledError as error:
                    raise _scheduler_is_gone() from error
                except Exception as error:
                    if _is_killed(error) and attempts[number] < _ATTEMPTS:
                        submit(number, arguments)
                        continue
                    raise _explained(error, number, what) from error
                del future
                yield number, result
    finally:
        if running:
            client.cancel(list(running), force=True)


def _room(client: Client) -> int:
    """How many pieces may be handed out: enough to keep all threads busy."""
    return max(1, _PER_THREAD * _threads(client))


def _threads(client: Client) -> int:
    if client.status != "running":
        raise _scheduler_is_gone()
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise _scheduler_is_gone() from error


def _finished(client: Client, running: Iterable[Future]) -> list[Future]:
    """Wait until at least one future is finished; says so while there is nobody to work on them."""
    from dask.distributed import CancelledError, wait

    while True:
        try:
            return list(wait(list(running), timeout=_POLL, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if _threads(client) == 0:
                logger.warning("The cluster has no workers at the moment; waiting for some.")
        except (CancelledError, OSError) as error:
            raise _scheduler_is_gone() from error


def _scheduler_is_gone() -> ClusterError:
    return ClusterError("The Dask scheduler is gone; start the same command again, finished blocks are kept.")


def _is_killed(error: BaseException) -> bool:
    from dask.distributed import KilledWorker

    return isinstance(error, KilledWorker)


def _explained(error: Exception, number: int, what: str) -> Exception:
    if _is_killed(error):
        return ClusterError(
            f"Workers died again and again over {what} {number}, probably for lack of memory; use smaller blocks, fewer "
            "workers or a higher memory limit, and start the same command again."
        )
    if isinstance(error, MicroSamError | OSError | MemoryError):
        return error
    return ClusterError(f"{what.capitalize()} {number} failed on a worker ({type(error).__name__}: {error}).")
