from __future__ import annotations

import multiprocessing

import pytest

from micro_sam.distributed.journal import Journal
from micro_sam.errors import OutputError

PARAMETERS = {"halo": (4, 4), "model": {"name": "a"}}


def test_what_is_noted_is_there_after_a_restart(tmp_path):
    with Journal(tmp_path / "run", PARAMETERS).opened() as journal:
        journal.note("segment", 3, {"objects": 7})
        journal.note("segment", 1)
        journal.note("match", 3)
        journal.forget("segment", 1)
    with Journal(tmp_path / "run", PARAMETERS).opened() as journal:
        assert journal.done("segment").keys() == {3}
        assert journal.done("segment")[3]["objects"] == 7
        journal.forget("segment")
    with Journal(tmp_path / "run", PARAMETERS).opened() as journal:
        assert not journal.done("segment") and journal.done("match").keys() == {3}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_counts_as_not_done_and_spoils_no_other(tmp_path, cut):
    with Journal(tmp_path, PARAMETERS).opened() as journal:
        journal.note("segment", 0)
        journal.note("segment", 1)
    path = tmp_path / "done.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, PARAMETERS).opened() as journal:
        assert 0 in journal.done("segment")
        assert (1 in journal.done("segment")) == (cut == 1)
        journal.note("segment", 2)
    with Journal(tmp_path, PARAMETERS).opened() as journal:
        assert {0, 2} <= journal.done("segment").keys()


def test_another_run_is_refused_with_what_differs(tmp_path):
    with Journal(tmp_path, PARAMETERS).opened():
        pass
    with (
        pytest.raises(OutputError, match=r"other parameters: halo \(there \[4, 4\], now \[8, 8\]\); delete"),
        Journal(tmp_path, {**PARAMETERS, "halo": (8, 8)}).opened(),
    ):
        pass


def _open_elsewhere(folder, queue):
    try:
        with Journal(folder, PARAMETERS).opened():
            queue.put("opened")
    except OutputError as error:
        queue.put(str(error))


def test_two_programs_do_not_write_to_one_run(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with Journal(tmp_path, PARAMETERS).opened():
        process = context.Process(target=_open_elsewhere, args=(tmp_path, queue))
        process.start()
        assert "Another program is working" in queue.get(timeout=20)
        process.join()
