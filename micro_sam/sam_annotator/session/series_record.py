"""What is known about the images of a series, in a small file in the output folder: which are done, and what was saved.

The file is JSON and meant to be read. An image is recognised by its path and content, so that a folder may be moved, and
labels are never taken for those of another image.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import xxhash

from micro_sam.errors import InputError, OutputError
from micro_sam.io.paths import replacing

RECORD_NAME = "image_series.json"
FORMAT, VERSION = "micro_sam image series", 1
State = Literal["open", "done", "skipped"]
STATES: tuple[State, ...] = ("open", "done", "skipped")
_WHOLE_BYTES, _SAMPLES, _SAMPLE_BYTES = 8 * 2**20, 32, 64 * 2**10


@dataclass(frozen=True)
class Entry:
    """What is known about an image.

    Attributes:
        name: What it is called; its labels are ``<labels>`` in the output folder.
        labels: The name of the file for its labels.
        path: Its file, None for an array.
        signature: A hash of its content.
        stamp: Size and time of change (ns) of the file when the hash was made; both the same: the hash is not made again.
        state: "open", "done" or "skipped".
        changed: When its state or its labels were written last.
        n_objects: How many objects its labels hold; None if none were written.
        labels_signature: A hash of the file of the labels as it was written here last.
    """

    name: str
    labels: str
    path: str | None = None
    signature: str | None = None
    stamp: tuple[int, int] | None = None
    state: State = "open"
    changed: str | None = None
    n_objects: int | None = None
    labels_signature: str | None = None

    def with_changes(self, **changes: Any) -> Entry:
        """The same with other values, changed now."""
        return replace(self, changed=datetime.now().astimezone().isoformat(timespec="seconds"), **changes)


class SeriesRecord:
    """The entries of a series and the file they lie in; it is written anew, at once or not at all, with every change.

    Args:
        folder: The output folder.

    Raises:
        InputError: The file is there but cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_NAME
        self._lock = threading.Lock()
        self._entries = {entry.name: entry for entry in _read(self.path)} if self.path.exists() else {}

    @property
    def entries(self) -> list[Entry]:
        """All entries, also of images that are not in the series at present."""
        return list(self._entries.values())

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def put(self, *entries: Entry) -> None:
        """Note entries and write the file. Images that were never looked at are left out.

        Raises:
            OutputError: It cannot be written.
        """
        with self._lock:
            self._entries |= {entry.name: entry for entry in entries}
            known = [asdict(entry) for entry in self._entries.values() if entry.signature is not None]
            content = {"format": FORMAT, "version": VERSION, "images": known}
            with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())

    def remember(self, entry: Entry) -> None:
        """Note an entry without writing the file."""
        with self._lock:
            self._entries[entry.name] = entry


def _read(path: Path) -> list[Entry]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"it says {content['format']!r}, version {content['version']}")
        return [_entry(described) for described in content["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' says which images are done, but cannot be read ({error}); bring it back from a copy, or move it "
            "away to begin anew."
        ) from error


def _entry(described: dict[str, Any]) -> Entry:
    known = {field.name for field in fields(Entry)}
    values = {name: value for name, value in described.items() if name in known}
    if values.get("state") not in STATES:
        raise ValueError(f"an image has the state {values.get('state')!r}")
    values["stamp"] = None if values.get("stamp") is None else tuple(values["stamp"])
    return Entry(**values)


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None for a folder, or if it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return None if path.is_dir() else (status.st_size, status.st_mtime_ns)


def content_signature(path: Path) -> str:
    """A hash of a file or zarr folder: of its bytes, or of samples of them where they are many.

    Raises:
        InputError: It cannot be read.
    """
    digest = xxhash.xxh3_128()
    try:
        if path.is_dir():
            files = sorted(found for found in path.rglob("*") if found.is_file())
            for found in files:
                digest.update(f"{found.relative_to(path).as_posix()} {found.stat().st_size}\n".encode())
            files = files[:: max(1, len(files) // _SAMPLES)]
        else:
            files = [path]
        for found in files:
            for block in _blocks(found, _WHOLE_BYTES if found is path else _SAMPLE_BYTES):
                digest.update(block)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); check the path and its permissions.") from error
    return digest.hexdigest()


def _blocks(path: Path, whole: int) -> Iterable[bytes]:
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if size <= whole:
            yield file.read()
            return
        for k in range(_SAMPLES):
            file.seek(k * (size - _SAMPLE_BYTES) // (_SAMPLES - 1) if size > _SAMPLE_BYTES else 0)
            yield file.read(_SAMPLE_BYTES)


def check_writable(folder: Path) -> None:
    """Make a folder for results, if it is not there.

    Raises:
        OutputError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder '{folder}' cannot be made ({error.strerror}); choose another one.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder '{folder}' cannot be written to; change its permissions or choose another.")
