"""One writer per embedding store: a lock file that the operating system frees when its process dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from micro_sam.embeddings.failures import write_errors
from micro_sam.errors import StoreLockedError

LOCK_NAME = ".micro_sam.lock"

logger = logging.getLogger(__name__)
_held: dict[Path, int] = {}  # the stores this process writes to, and the thread that began it
_held_guard = threading.Lock()


class WriterLock:
    """The right to write to one embedding store.

    Args:
        path: The folder of the store; it is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._lock = FileLock(self._path / LOCK_NAME, thread_local=False)
        self._is_held = False

    def try_acquire(self) -> bool:
        """Take the lock if it is free.

        Raises:
            StoreLockedError: If this thread already writes to the store: waiting would never end.
            StoreDamagedError: If the folder cannot be written to.
        """
        with _held_guard:
            if _held.get(self._path) == threading.get_ident():
                raise StoreLockedError(
                    f"The embedding store '{self._path}' is already being computed in this program;"
                    " finish or close that computation first."
                )
        with write_errors(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return False
            except NotImplementedError:
                logger.warning(
                    "The file system of '%s' has no file locks: let only one program write there.", self._path
                )
        with _held_guard:
            _held[self._path], self._is_held = threading.get_ident(), True
        return True

    def wait(self, timeout: float | None, poll: float = 0.2) -> Generator[float, None, None]:
        """Take the lock, yielding the seconds waited so far each time it is found taken.

        Args:
            timeout: After how many seconds to give up; None to wait as long as it takes.
            poll: The seconds between two attempts.

        Raises:
            StoreLockedError: If the time is over.
        """
        start = time.monotonic()
        while not self.try_acquire():
            waited = time.monotonic() - start
            if timeout is not None and waited >= timeout:
                raise StoreLockedError(
                    f"Another program is writing to the embedding store '{self._path}';"
                    " wait until it has finished, or give another embedding path."
                )
            yield waited
            time.sleep(poll)

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        with _held_guard:
            if self._is_held:
                _held.pop(self._path, None)
            self._is_held = False
        self._lock.release()
