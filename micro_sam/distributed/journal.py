"""What a run does and which of its pieces are done, on disk, so that it can go on after anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from micro_sam.errors import OutputError
from micro_sam.io.paths import replacing

_PARAMETERS = "run.json"
_DONE = "done.jsonl"
_LOCK = ".lock"
_FORGOTTEN = "forgotten"


class Journal:
    """The journal of a run in its working folder. Only one program writes to it at a time.

    Args:
        folder: The working folder; made if it is missing.
        parameters: Everything that decides the result, as JSON values.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self.folder = folder
        self.parameters: dict[str, Any] = json.loads(json.dumps(parameters, default=float))
        self._entries: dict[str, dict[int, dict[str, Any]]] = {}

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """Take the folder, and read what was done before.

        Raises:
            OutputError: The folder belongs to a run with other parameters, another program writes to it, or it cannot
                be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder '{self.folder}' cannot be made ({error.strerror}); check the path."
            ) from error
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"Another program is working in '{self.folder}'; wait until it has finished, or choose another output."
            ) from None
        except (NotImplementedError, OSError) as error:
            raise OutputError(
                f"The folder '{self.folder}' cannot be locked ({error}); choose another output."
            ) from error
        try:
            self._begin()
            yield self
        finally:
            lock.release()

    def _begin(self) -> None:
        path = self.folder / _PARAMETERS
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise OutputError(f"'{path}' is damaged; delete the folder '{self.folder}' to begin anew.") from error
            check_same_run(stored, self.parameters, f"The unfinished run in '{self.folder}'")
        else:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.parameters, indent=1), encoding="utf-8")
        self._entries = _read_entries(self.folder / _DONE)

    def done(self, stage: str) -> dict[int, dict[str, Any]]:
        """The pieces of a stage that are done, and what was noted of each."""
        return self._entries.setdefault(stage, {})

    def note(self, stage: str, number: int, facts: Mapping[str, Any] | None = None) -> None:
        """Write down that a piece is done; its results must be on disk."""
        entry = {"stage": stage, "number": number, **(facts or {})}
        self._append(entry)
        self.done(stage)[number] = entry

    def forget(self, stage: str, number: int | None = None) -> None:
        """Write down that a piece, or without number a whole stage, is not done after all, because results are lost."""
        self._append({"stage": stage, "number": number, _FORGOTTEN: True})
        _forget(self._entries, stage, number)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with (self.folder / _DONE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read_entries(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    entries: dict[str, dict[int, dict[str, Any]]] = {}
    if not path.exists():
        return entries
    text = path.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):  # killed while writing a line: the next one must not be glued to it
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            stage, number = entry["stage"], entry["number"]
        except (ValueError, KeyError, TypeError):  # the line that was being written
            continue
        if entry.get(_FORGOTTEN):
            _forget(entries, stage, number)
        else:
            entries.setdefault(stage, {})[int(number)] = entry
    return entries


def _forget(entries: dict[str, dict[int, dict[str, Any]]], stage: str, number: int | None) -> None:
    if number is None:
        entries.pop(stage, None)
    else:
        entries.get(stage, {}).pop(number, None)


def check_same_run(stored: Mapping[str, Any], requested: Mapping[str, Any], what: str) -> None:
    """Raise an `OutputError` that names what differs if two runs are not the same."""
    names = sorted({*stored, *requested})
    found = [
        f"{name} (there {stored.get(name)!r}, now {requested.get(name)!r})"
        for name in names
        if stored.get(name) != requested.get(name)
    ]
    if found:
        raise OutputError(
            f"{what} was made with other parameters: {', '.join(found)}; delete it or choose another output."
        )
