from __future__ import annotations

import multiprocessing

import dask.array
import numpy as np
import pytest
import zarr

from micro_sam.distributed.journal import Journal
from micro_sam.distributed.source import BlockSource
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


def test_an_input_that_was_replaced_is_opened_again(tmp_path):
    for size in (20, 30):
        np.save(tmp_path / "a.npy", np.full((size, size), size, np.uint8))
        source = BlockSource.of(tmp_path / "a.npy")
        assert source.shape == (size, size)
        assert (source.read((slice(0, 5), slice(0, 5))) == size).all()


@pytest.mark.parametrize(
    "make", [lambda a: dask.array.from_array(a, chunks=32), lambda a: zarr.array(a, chunks=(16, 16))]
)
def test_facts_tell_inputs_apart_and_are_the_same_for_the_same_pixels(tmp_path, make):
    image = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    np.save(tmp_path / "a.npy", image)
    facts = BlockSource.of(tmp_path / "a.npy").facts()
    assert BlockSource.of(make(image)).facts() == facts
    other = image.copy()
    other[40, 40] += 1
    assert BlockSource.of(make(other)).facts() != facts


def test_one_contrast_for_all_blocks_is_that_of_the_whole_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 60_000, (300, 400), np.uint16)
    source = BlockSource.of(dask.array.from_array(image))
    found = source.normalization("robust").range
    assert (found.low, found.high) == tuple(np.percentile(image, (0.1, 99.9), method="inverted_cdf"))
    assert source.normalization("minmax").range is None
