"""The journal: everything that was done, on disk as it happens.

A journal is a folder with two files that only ever grow. ``journal.jsonl`` has one line of JSON for each step and is
meant to be read; ``labels.bin`` holds the changed pixels that the lines refer to (offset, length, checksum). What a line
says was written before it, so that after a crash the journal is complete up to its last whole line.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import xxhash
from filelock import FileLock, Timeout

from micro_sam.errors import InputError, MissingInputError, OutputError
from micro_sam.sam_annotator.session.diff import Diff

LINES, BLOBS, LOCK = "journal.jsonl", "labels.bin", ".lock"
FORMAT, VERSION = "micro_sam annotation journal", 1
_SYNC_SECONDS = 0.3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """A line of the journal.

    Attributes:
        do: What was done; "open" for the first line, "undo", "redo", "amend", or the kind of a step.
        content: The whole line.
        diffs: The changes of labels that belong to it.
    """

    do: str
    content: Mapping[str, Any]
    diffs: tuple[Diff, ...]


class Journal:
    """A journal that is being written. Make one with `create` or `resume`.

    Lines are handed to the operating system at once, so that they survive the death of this process, and are forced
    to the disk by a thread within a fraction of a second, so that they survive a power cut.
    """

    def __init__(self, folder: Path, lock: FileLock, count: int) -> None:
        self.folder = folder
        self.count = count
        self._lock = lock
        self._lines: BinaryIO = open(folder / LINES, "ab")  # noqa: SIM115
        self._blobs: BinaryIO = open(folder / BLOBS, "ab")  # noqa: SIM115
        self._dirty, self._closed = threading.Event(), False
        self._syncer = threading.Thread(target=self._sync_forever, name="micro_sam journal", daemon=True)
        self._syncer.start()

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Journal:
        """Begin a journal.

        Args:
            folder: A folder that does not exist yet.
            header: What is annotated.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            folder.mkdir(parents=True)
            journal = cls(folder, _locked(folder), 0)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        journal.append("open", {"format": FORMAT, "version": VERSION, **header})
        return journal

    @classmethod
    def resume(cls, folder: Path) -> tuple[Journal, list[Record]]:
        """Go on with a journal: what it holds, with what a crash left unfinished cut off.

        Raises:
            InputError: It cannot be read, or another process writes to it.
            OutputError: It cannot be written.
        """
        lock = _locked(folder)
        records, end = _read(folder)
        try:
            os.truncate(folder / LINES, end)
            return cls(folder, lock, len(records)), records
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def append(self, do: str, content: Mapping[str, Any], diffs: Sequence[Diff] = ()) -> int:
        """Write a line, and before it the changes of labels that belong to it.

        Returns:
            The line's number.

        Raises:
            OutputError: It cannot be written.
        """
        number = self.count
        try:
            described = [self._write_blob(diff) for diff in diffs]
            line = {
                "n": number,
                "at": datetime.now().astimezone().isoformat(timespec="milliseconds"),
                "do": do,
                **content,
            }
            if described:
                line["changes"] = described
            self._lines.write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
            self._lines.flush()
        except (OSError, ValueError) as error:
            raise _cannot_write(self.folder, error) from error
        self.count += 1
        self._dirty.set()
        return number

    def _write_blob(self, diff: Diff) -> dict[str, Any]:
        described, data = diff.to_record()
        start = self._blobs.seek(0, os.SEEK_END)
        self._blobs.write(data)
        self._blobs.flush()
        return {**described, "at": [start, len(data)], "check": xxhash.xxh3_64_hexdigest(data)}

    def _sync_forever(self) -> None:
        while not self._closed:
            self._dirty.wait()
            self._dirty.clear()
            self.sync()
            time.sleep(_SYNC_SECONDS)

    def sync(self) -> None:
        """Force everything to the disk."""
        try:
            for file in (self._blobs, self._lines):
                os.fsync(file.fileno())
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            if not self._closed:
                logger.warning("The journal in '%s' could not be forced to the disk (%s).", self.folder, error)

    def close(self) -> None:
        """Finish writing."""
        if self._closed:
            return
        self.sync()
        self._closed = True
        self._dirty.set()
        self._lines.close()
        self._blobs.close()
        self._lock.release()


def _cannot_write(folder: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"The journal '{folder}' could not be written ({reason}); check the disk and the permissions.")


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"The journal '{folder}' is in use by another window; close that first.") from None
    return lock


def is_in_use(folder: Path) -> bool:
    """Whether a living process writes to a journal."""
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def read_journal(folder: str | os.PathLike) -> list[Record]:
    """All whole lines of a journal, with their changes of labels.

    Raises:
        MissingInputError: There is none.
        InputError: It cannot be read.
    """
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[list[Record], int]:
    """The records, and where the last whole one ends."""
    try:
        lines, blobs = (folder / LINES).read_bytes(), (folder / BLOBS).read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"There is no journal in '{folder}'; check the path.") from None
    except OSError as error:
        raise InputError(f"The journal '{folder}' cannot be read ({error.strerror}); check its permissions.") from error
    records, end = [], 0
    for content, stop in _whole_lines(lines):
        if not records and (content.get("format") != FORMAT or content.get("version") != VERSION):
            raise InputError(f"'{folder}' holds no journal that this version can read; it begins with {content}.")
        try:
            diffs = tuple(_read_diff(described, blobs) for described in content.get("changes", ()))
        except ValueError:
            logger.warning(
                "The journal '%s' is damaged in line %d; what follows is not used.", folder, len(records) + 1
            )
            break
        records.append(Record(content["do"], content, diffs))
        end = stop
    return records, end


def _whole_lines(lines: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    start = 0
    while (stop := lines.find(b"\n", start)) >= 0:
        try:
            content = json.loads(lines[start:stop])
        except ValueError:
            return
        start = stop + 1
        yield content, start


def _read_diff(described: Mapping[str, Any], blobs: bytes) -> Diff:
    start, length = described["at"]
    data = blobs[start : start + length]
    if xxhash.xxh3_64_hexdigest(data) != described["check"]:
        raise ValueError("damaged")
    return Diff.from_record(described, data)
