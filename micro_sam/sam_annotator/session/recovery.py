"""Where journals lie, and which of them hold work on an image that was not finished."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from micro_sam.errors import MicroSamError
from micro_sam.models.cache import journals_directory
from micro_sam.sam_annotator.session.journal import LINES, Journal, is_in_use, read_journal
from micro_sam.sam_annotator.session.kinds import state_for
from micro_sam.sam_annotator.session.state import COMMITTED

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.image import AnnotatedImage

#: Lines of a journal that are no work of a person.
NO_WORK = ("open", "layer", "load", "closed", "restored")


@dataclass(frozen=True)
class Unfinished:
    """Earlier work on an image that can be taken up.

    Attributes:
        folder: Its journal.
        changed: When something was done last.
        n_steps: How much was done.
        n_objects: How many objects are committed.
        crashed: Whether the session ended without being closed.
    """

    folder: Path
    changed: datetime
    n_steps: int
    n_objects: int
    crashed: bool


def new_journal_folder(image: AnnotatedImage, beside: str | os.PathLike | None = None) -> Path:
    """A folder for a new journal: beside the embeddings, or in the cache where that cannot be written."""
    for root in _roots(image, beside):
        if _is_writable(root):
            return root / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return _roots(image, None)[0] / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def find_unfinished(image: AnnotatedImage, kind: str, beside: str | os.PathLike | None = None) -> Unfinished | None:
    """The latest work on an image that was neither saved nor given up, and that no window is open for.

    Args:
        image: The image.
        kind: Which annotator.
        beside: The path of its embeddings.
    """
    folders = sorted(_journals(image, beside), key=lambda folder: folder.name, reverse=True)
    for folder in folders:
        found = None if is_in_use(folder) else _unfinished(folder, image, kind)
        if found is not None:
            return found
    return None


def _unfinished(folder: Path, image: AnnotatedImage, kind: str) -> Unfinished | None:
    try:
        records = read_journal(folder)
    except MicroSamError:
        return None
    header = records[0].content if records else {}
    if header.get("annotator") != kind or header["image"]["fingerprint"] != image.fingerprint:
        return None
    work = [record for record in records if record.do not in NO_WORK]
    if not work or work[-1].do in ("saved", "discarded"):
        return None
    state = state_for(header)
    state.replay(records)
    n_objects = len(np.unique(state.labels[COMMITTED])) - 1
    changed = datetime.fromisoformat(work[-1].content["at"])
    return Unfinished(folder, changed, len(work), max(n_objects, 0), records[-1].do != "closed")


def _roots(image: AnnotatedImage, beside: str | os.PathLike | None) -> list[Path]:
    """The folders in which journals of an image may lie."""
    name = re.sub(r"[^\w-]+", "_", image.name)[:40]
    own = journals_directory() / f"{name}-{image.fingerprint[:12]}"
    if beside is None:
        return [own]
    return [journals_beside(beside), own]


def journals_beside(beside: str | os.PathLike) -> Path:
    """The folder for journals beside a path."""
    beside = Path(beside)
    return beside.with_name(f"{beside.name}.journal")


def _journals(image: AnnotatedImage, beside: str | os.PathLike | None) -> Iterator[Path]:
    roots = _roots(image, beside)
    renamed = journals_directory().glob(f"*-{image.fingerprint[:12]}")
    for root in dict.fromkeys([*roots, *renamed]):
        if root.is_dir():
            yield from (folder for folder in root.iterdir() if (folder / LINES).is_file())


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def give_up(folder: Path) -> None:
    """Write into a journal that its work is not wanted any more; it stays on disk.

    Raises:
        InputError: It is in use.
        OutputError: It cannot be written.
    """
    journal, _ = Journal.resume(folder)
    journal.append("discarded", {})
    journal.close()
