"""Which journals are removed, and which never are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from micro_sam.sam_annotator.session import AnnotatedImage, AnnotationSession
from micro_sam.sam_annotator.session.journal import BLOBS, LINES
from micro_sam.sam_annotator.session.pruning import prune_journals
from micro_sam.sam_annotator.session.recovery import give_up
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def journal(seed: int, days: float, saved: bool = True, left: str | None = None, beside: Path | None = None) -> Path:
    """The folder of a journal with a committed object that was written some days ago."""
    session, image = AnnotationSession(), np.full((40, 50), seed, np.uint8)
    session.open(AnnotatedImage.from_array(image, name=f"image {seed}"), beside)
    labels = np.zeros(image.shape, np.uint32)
    labels[5:20, 5:20] = 1
    session.put(COMMITTED, labels, "Painted", kind="paint")
    if left is not None:
        session.put(left, np.roll(labels, 20, axis=1), "Found", kind="automatic")
    if saved:
        session.note("saved", {"path": "labels.tif"})
    folder = session.journal_folder
    session.close_journal()
    aged(folder, days)
    return folder


def aged(folder: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(folder / LINES, (then, then))


def test_only_old_journals_of_finished_work_are_removed(cache):
    old, young = journal(1, days=200), journal(2, days=20)
    unsaved = journal(3, days=900, saved=False)
    uncommitted = journal(4, days=900, left=CURRENT)
    automatic = journal(5, days=900, left=AUTO)
    given_up = journal(6, days=1, saved=False)
    give_up(given_up)
    aged(given_up, 900)
    assert sorted(prune_journals()) == sorted([old, given_up])
    assert not old.parent.exists()  # the empty folder of that image, too
    assert all(folder.is_dir() for folder in (young, unsaved, uncommitted, automatic))
    assert prune_journals() == []


def test_the_oldest_go_first_where_all_together_are_large_but_none_of_this_week(cache):
    folders = {days: journal(days, days) for days in (60, 40, 30, 3)}
    size = sum(path.stat().st_size for name in (LINES, BLOBS) for path in [folders[60] / name])
    assert prune_journals(max_bytes=int(2.5 * size)) == [folders[60], folders[40]]
    assert prune_journals(max_bytes=0) == [folders[30]] and folders[3].is_dir()


def test_journals_in_use_damaged_or_beside_embeddings(cache, tmp_path):
    store = tmp_path / "cells.zarr"
    beside, damaged = journal(1, days=900, beside=store), journal(2, days=900)
    (damaged / LINES).write_text("this is no journal\n")
    aged(damaged, 900)
    session = AnnotationSession()
    session.open(AnnotatedImage.from_array(np.full((40, 50), 3, np.uint8)))
    session.put(COMMITTED, np.ones((40, 50), np.uint32), "Painted", kind="paint")
    session.note("saved", {"path": "labels.tif"})
    aged(session.journal_folder, 900)
    assert prune_journals() == [] and beside.is_dir()
    assert prune_journals(store) == [beside]
    assert damaged.is_dir() and session.journal_folder.is_dir()
    session.close_journal()
