"""Removing journals that nobody needs any more. One that holds work that was not saved is never removed."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from micro_sam.errors import MicroSamError
from micro_sam.models.cache import journals_directory
from micro_sam.sam_annotator.session.journal import BLOBS, LINES, is_in_use, read_journal
from micro_sam.sam_annotator.session.kinds import state_for
from micro_sam.sam_annotator.session.recovery import NO_WORK, journals_beside
from micro_sam.sam_annotator.session.state import AUTO, CURRENT

#: Journals of finished work are kept this long, and while all of them together are not larger than this.
MAX_DAYS, MAX_BYTES = 180.0, 2 * 2**30
#: Journals younger than this are kept in any case.
MIN_DAYS = 7.0
_DAY = 24 * 3600

logger = logging.getLogger(__name__)


def prune_journals(
    beside: str | os.PathLike | None = None, max_days: float = MAX_DAYS, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Remove journals of finished work that are old, or the oldest of them if all together are large.

    Finished means: the labels were saved after the last change, with nothing left uncommitted, or the work was given up,
    or nothing was done. Journals that a window writes to, that cannot be read, or that changed within the last week stay.

    Args:
        beside: Embeddings, beside which journals lie, too; without it only those in the cache are looked at.
        max_days: Finished ones are removed when their last change is longer ago.
        max_bytes: The size of all journals above which the oldest finished ones are removed.

    Returns:
        The folders that were removed.
    """
    roots = [*journals_directory().glob("*"), *([journals_beside(beside)] if beside else [])]
    folders = [f for root in roots if root.is_dir() for f in root.iterdir() if (f / LINES).is_file()]
    dated = sorted((_changed(folder), folder) for folder in folders)
    total, now, removed = sum(_size(folder) for folder in folders), time.time(), []
    for changed, folder in dated:
        days = (now - changed) / _DAY
        if days < MIN_DAYS or (days <= max_days and total <= max_bytes):
            continue
        size = _size(folder)
        if not is_in_use(folder) and _is_finished(folder) and _remove(folder):
            total -= size
            removed.append(folder)
    return removed


def _changed(folder: Path) -> float:
    return (folder / LINES).stat().st_mtime


def _size(folder: Path) -> int:
    return sum(_file_sizes(folder / name for name in (LINES, BLOBS)))


def _file_sizes(paths: Iterable[Path]) -> Iterable[int]:
    return (path.stat().st_size for path in paths if path.is_file())


def _is_finished(folder: Path) -> bool:
    try:
        records = read_journal(folder)
    except MicroSamError:
        return False
    work = [record for record in records if record.do not in NO_WORK]
    if not records or (work and work[-1].do not in ("saved", "discarded")):
        return False
    if not work or work[-1].do == "discarded":
        return True
    state = state_for(records[0].content)
    state.replay(records)
    return not any(state.labels[key].any() for key in (CURRENT, AUTO) if key in state.labels)


def _remove(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    except OSError as error:
        logger.warning("The old journal '%s' could not be removed (%s).", folder, error.strerror)
        return False
    logger.info("Removed the old journal '%s'; its work was finished.", folder)
    return True
