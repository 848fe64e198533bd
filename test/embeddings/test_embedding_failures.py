"""Kills, rivals, damage, full disks and foreign stores: nothing is lost, mixed up or silently wrong."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from embedding_toys import make_toy_predictor

from micro_sam.embeddings import EmbeddingStore, Item, iter_precompute, precompute_image_embeddings, set_precomputed
from micro_sam.embeddings.lock import WriterLock
from micro_sam.errors import MicroSamError, StoreDamagedError, StoreError, StoreLockedError, StoreMismatchError

HERE = Path(__file__).parent
VOLUME = np.random.default_rng(4).integers(0, 3000, (6, 30, 40)).astype("uint16")
TILES = {"tile_shape": (40, 40), "halo": (6, 6)}
formats = pytest.mark.parametrize("zarr_format", [2, 3])


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "segment_anything", "zarr", "micro_sam.embeddings.compute"])


class Worker:
    """A process that computes the embeddings of VOLUME; `lines` is what it has said so far."""

    def __init__(self, folder: Path, pause: float = 0.0, name: str = "e.zarr", **options) -> None:
        from embedding_worker import work

        self._heard, said = PROCESSES.Pipe(duplex=False)
        arguments = said, VOLUME, str(folder / name), pause, options
        self.process = PROCESSES.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        said.close()
        self.lines: list[str] = []

    def read_until(self, wanted: str) -> None:
        while not (self.lines and self.lines[-1].startswith(wanted)):
            assert self._heard.poll(120), f"never said {wanted!r}: {self.lines}"
            self.lines.append(self._heard.recv())

    def kill(self) -> None:
        self.process.kill()
        self.process.join(60)

    def finish(self) -> list[str]:
        self.read_until("encoded")
        self.process.join(60)
        assert self.process.exitcode == 0
        return self.lines


def assert_same(store, reference) -> None:
    assert store.is_complete
    for item in reference.metadata.items():
        np.testing.assert_allclose(store.read(item), reference.read(item), atol=1e-6)


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".")


@pytest.fixture
def reference(predictor):
    return precompute_image_embeddings(predictor, VOLUME, verbose=False)


@formats
def test_a_killed_run_resumes_with_what_is_missing(predictor, reference, tmp_path, zarr_format):
    worker = Worker(tmp_path, pause=0.3, zarr_format=zarr_format)
    worker.read_until("Compute 3")
    worker.kill()
    assert EmbeddingStore.open(tmp_path / "e.zarr").missing() == [Item(3), Item(4), Item(5)]
    (tmp_path / "e.zarr" / "features" / "half.123.partial").write_bytes(b"left by the killed run")
    encoder = predictor.model.image_encoder
    encoder.batch_sizes.clear()
    store = precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    assert sum(encoder.batch_sizes) == 3
    assert_same(store, reference)
    assert not list(tmp_path.rglob("*.partial"))


def test_kills_at_any_time_leave_a_store_that_resumes(predictor, tmp_path, monkeypatch):
    """From the n-th write on nothing reaches the disk, for every n; each time the next run completes the store."""
    from zarr.storage import LocalStore

    image = VOLUME[:2]
    expected = precompute_image_embeddings(predictor, image, verbose=False, **TILES)
    put, count, fail_at = LocalStore.set, [0], [0]

    async def dying(self, key, value):
        count[0] += 1
        if count[0] >= fail_at[0]:
            raise OSError(errno.EIO, "gone")
        await put(self, key, value)

    total = 0
    for fail_at[0] in range(1, 40):
        path, count[0] = tmp_path / f"{fail_at[0]}.zarr", 0
        monkeypatch.setattr(LocalStore, "set", dying)
        try:
            precompute_image_embeddings(predictor, image, path, verbose=False, **TILES)
            break
        except StoreDamagedError:
            total += 1
        monkeypatch.setattr(LocalStore, "set", put)
        assert_same(precompute_image_embeddings(predictor, image, path, verbose=False, **TILES), expected)
        assert_same(EmbeddingStore.open(path), expected)
        shutil.rmtree(path)
    assert total > 10


def test_two_processes_share_one_store(predictor, reference, tmp_path):
    first = Worker(tmp_path, pause=0.3)
    first.read_until("Compute 1")
    second = Worker(tmp_path)
    lines = second.finish()
    first.finish()
    assert any(line.startswith("Waiting") for line in lines)
    assert first.lines[-1] == "encoded 6" and lines[-1] == "encoded 0"
    assert_same(EmbeddingStore.open(tmp_path / "e.zarr"), reference)


def test_a_rival_with_another_model_is_refused_after_waiting(reference, tmp_path):
    first = Worker(tmp_path, pause=0.3)
    first.read_until("Compute 1")
    lines = Worker(tmp_path, hash="xxh128:other").finish()
    first.finish()
    assert any("StoreMismatchError" in line and "model_hash" in line for line in lines)
    assert_same(EmbeddingStore.open(tmp_path / "e.zarr"), reference)


def test_two_processes_that_begin_together_compute_everything_once(reference, tmp_path):
    workers = [Worker(tmp_path), Worker(tmp_path)]
    counts = [int(worker.finish()[-1].split()[1]) for worker in workers]
    assert sum(counts) == 6
    assert_same(EmbeddingStore.open(tmp_path / "e.zarr"), reference)


def test_waiting_has_an_end_if_wanted(predictor, tmp_path):
    first = Worker(tmp_path, pause=5)
    first.read_until("Compute 1")
    with pytest.raises(StoreLockedError, match="Another program is writing") as caught:
        precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False, lock_timeout=0.3)
    assert one_sentence(caught.value)
    first.kill()
    assert precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False).is_complete


def test_a_thread_that_would_wait_for_itself_is_told(predictor, tmp_path):
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    next(work)
    with pytest.raises(StoreLockedError, match="in this program"):
        precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    work.close()
    assert precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False).is_complete


def test_another_thread_waits_and_the_lock_may_be_released_elsewhere(predictor, tmp_path):
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    next(work)
    result = []

    def compute():
        other = make_toy_predictor()
        result.append(precompute_image_embeddings(other, VOLUME, tmp_path / "e.zarr", verbose=False))

    thread = threading.Thread(target=compute)
    thread.start()
    closing = threading.Thread(target=work.close)
    closing.start(), closing.join(), thread.join(60)
    assert result[0].is_complete


def test_a_waiting_run_can_be_cancelled(predictor, tmp_path):
    lock = WriterLock(tmp_path / "e.zarr")
    holder = threading.Thread(target=lock.try_acquire)
    holder.start(), holder.join()
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    assert next(work).text.startswith("Waiting")
    work.close()
    lock.release()
    assert precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False).is_complete


def test_file_systems_without_locks_are_warned_about_and_usable(predictor, tmp_path, monkeypatch, caplog):
    from filelock import FileLock

    def unsupported(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    for n in (2, 6):
        work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
        while next(work).done < n:
            pass
        work.close()
    assert EmbeddingStore.open(tmp_path / "e.zarr").is_complete
    assert "no file locks" in caplog.text


def chunk(path: Path, i: int) -> Path:
    found = [path / "features" / f"{i}.0.0.0.0", path / "features" / "c" / f"{i}/0/0/0/0"]
    return next(file for file in found if file.exists())


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000] ^= 0xFF
    file.write_bytes(data)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@formats
@pytest.mark.parametrize("harm", [flip, cut, empty, os.remove])
def test_a_damaged_chunk_is_named_and_the_rest_goes_on_working(predictor, reference, tmp_path, zarr_format, harm):
    path = tmp_path / "e.zarr"
    precompute_image_embeddings(predictor, VOLUME, path, verbose=False, zarr_format=zarr_format)
    file = chunk(path, 2)
    harm(file)
    store = EmbeddingStore.open(path)
    with pytest.raises(StoreDamagedError, match="slice 2") as caught:
        set_precomputed(predictor, store, i=2)
    assert f"delete '{file}'" in str(caught.value) and one_sentence(caught.value)
    np.testing.assert_array_equal(store.read(Item(1)), reference.read(Item(1)))
    with pytest.raises(StoreDamagedError):
        np.asarray(store["features"])

    file.unlink(missing_ok=True)  # what the message says
    encoder = predictor.model.image_encoder
    encoder.batch_sizes.clear()
    assert_same(precompute_image_embeddings(predictor, VOLUME, path, verbose=False), reference)
    assert sum(encoder.batch_sizes) == 1


@pytest.mark.parametrize("harm", [cut, empty, os.remove])
def test_lost_and_short_files_are_computed_again_by_themselves(predictor, reference, tmp_path, harm, caplog):
    path = tmp_path / "e.zarr"
    precompute_image_embeddings(predictor, VOLUME, path, verbose=False)
    harm(chunk(path, 4))
    assert_same(precompute_image_embeddings(predictor, VOLUME, path, verbose=False), reference)
    assert "slice 4" in caplog.text


def test_a_damaged_1x_store_gets_its_slice_back(predictor, reference, tmp_path):
    path = tmp_path / "e.zarr"
    precompute_image_embeddings(predictor, VOLUME, path, verbose=False)
    group = zarr.open_group(path, mode="r+")
    del group["item_checksums"]
    group.attrs.put({key: value for key, value in group.attrs.items() if key != "embedding_store"})
    os.remove(chunk(path, 3))
    with pytest.raises(StoreDamagedError, match="slice 3"):
        EmbeddingStore.open(path).read(Item(3))
    encoder = predictor.model.image_encoder
    encoder.batch_sizes.clear()
    assert_same(precompute_image_embeddings(predictor, VOLUME, path, verbose=False), reference)
    assert sum(encoder.batch_sizes) == 1


@formats
def test_damaged_descriptions_are_named(predictor, tmp_path, zarr_format):
    whole = tmp_path / "whole.zarr"
    precompute_image_embeddings(predictor, VOLUME[:2], whole, verbose=False, zarr_format=zarr_format, **TILES)
    for file in sorted(
        file for file in whole.rglob("*") if file.name in ("zarr.json", ".zattrs", ".zarray", ".zgroup")
    ):
        for text in ("", "{", "[]", '{"a": 1'):
            path = tmp_path / "e.zarr"
            shutil.copytree(whole, path)
            (path / file.relative_to(whole)).write_text(text)
            try:
                store = precompute_image_embeddings(make_toy_predictor(), VOLUME[:2], path, verbose=False, **TILES)
                assert all(np.isfinite(store.read(item)).all() for item in store.metadata.items())
            except MicroSamError as error:
                assert str(path) in str(error) and one_sentence(error), str(error)
            shutil.rmtree(path)


def test_a_damaged_record_is_named_and_can_be_deleted(predictor, reference, tmp_path):
    path = tmp_path / "e.zarr"
    precompute_image_embeddings(predictor, VOLUME, path, verbose=False)
    cut(next((path / "item_checksums").glob("0*")))
    with pytest.raises(StoreDamagedError, match="item_checksums") as caught:
        EmbeddingStore.open(path)
    assert one_sentence(caught.value)
    shutil.rmtree(path / "item_checksums")
    assert_same(precompute_image_embeddings(predictor, VOLUME, path, verbose=False), reference)


def test_a_full_disk_keeps_what_is_finished(predictor, reference, tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    put, written = LocalStore.set, []

    async def full(self, key, value):
        if key.startswith("features/") and key.split("/")[-1][0].isdigit():
            written.append(key)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device", f"{self.root}/{key}")
        await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(StoreDamagedError, match="disk is full") as caught:
        precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    assert "features/2.0.0.0.0" in str(caught.value) and one_sentence(caught.value)
    assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(LocalStore, "set", put)
    assert len(EmbeddingStore.open(tmp_path / "e.zarr").missing()) == 4
    assert_same(precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False), reference)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to fail at")
def test_files_that_do_not_fit_leave_nothing_half_written(predictor, reference, tmp_path):
    lines = Worker(tmp_path, file_limit=2**20).finish()
    assert any(line.startswith("StoreDamagedError") and "could not be written" in line for line in lines)
    assert not list(tmp_path.rglob("*.partial"))
    assert_same(precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False), reference)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Windows folders are another matter")
def test_a_read_only_folder_can_be_read_but_not_written(predictor, reference, tmp_path):
    precompute_image_embeddings(predictor, VOLUME, tmp_path / "whole.zarr", verbose=False)
    work = iter_precompute(predictor, VOLUME, tmp_path / "part.zarr")
    next(work), next(work), work.close()
    uid = {"uid": 65534} if os.geteuid() == 0 else {}  # the superuser may write anywhere
    for folder in (tmp_path, *tmp_path.parents[:3]):
        os.chmod(folder, 0o755)
    paths = [tmp_path, *(path for name in ("whole.zarr", "part.zarr") for path in (tmp_path / name).rglob("*"))]
    for path in paths:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    for name in ("whole.zarr", "part.zarr"):
        os.chmod(tmp_path / name, 0o555)
    try:
        told = {name: Worker(tmp_path, name=name, **uid).finish() for name in ("whole.zarr", "part.zarr", "new.zarr")}
    finally:
        for path in [*paths, tmp_path / "whole.zarr", tmp_path / "part.zarr"]:
            os.chmod(path, 0o755)
    assert told["whole.zarr"] == ["Compute 6", "encoded 0"]
    for name in ("part.zarr", "new.zarr"):
        line = told[name][0]
        assert line.startswith("StoreDamagedError") and name in line and "make the folder writable" in line


def test_a_foreign_store_is_refused_with_what_differs(predictor, tmp_path):
    path = tmp_path / "e.zarr"
    image = VOLUME[0]
    precompute_image_embeddings(predictor, image, path, verbose=False, **TILES)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def refused(*fields, used=predictor, data=image, **changes):
        with pytest.raises(StoreMismatchError) as caught:
            precompute_image_embeddings(used, data, path, verbose=False, **{**TILES, **changes})
        text = str(caught.value)
        assert isinstance(caught.value, ValueError) and str(path) in text and one_sentence(caught.value)
        everything = ["data_signature", "shape", "n_slices", "tile_shape", "halo", "mask", "normalization"]
        everything += ["model_type", "model_name", "model_hash"]
        assert [name for name in everything if f" {name} (" in text] == list(fields)

    refused("data_signature", data=image + 1)
    refused("shape", data=image[:20])
    refused("n_slices", data=image[None])
    refused("tile_shape", tile_shape=(20, 20))
    refused("halo", halo=(5, 5))
    refused("tile_shape", "halo", tile_shape=None, halo=None)
    refused("normalization", normalization="robust")
    refused("mask", mask=np.eye(30, 40))
    refused("model_hash", used=make_toy_predictor("xxh128:4567"))
    refused("model_type", "model_name", "model_hash", used=make_toy_predictor("xxh128:4567", "vit_b_lm", "vit_b"))
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    precompute_image_embeddings(
        make_toy_predictor(name="same weights, other name"), image, path, verbose=False, **TILES
    )


def test_a_store_of_another_model_is_refused_before_the_image_is_read(predictor, tmp_path):
    class Untouchable:
        shape, dtype = VOLUME.shape, VOLUME.dtype

        def __getitem__(self, key):
            raise AssertionError("was read")

    precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    with pytest.raises(StoreMismatchError, match="model_hash"):
        precompute_image_embeddings(make_toy_predictor("xxh128:f"), Untouchable(), tmp_path / "e.zarr", verbose=False)


def test_what_is_not_computed_yet_is_said(predictor, tmp_path):
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    next(work), next(work), work.close()
    store = EmbeddingStore.open(tmp_path / "e.zarr")
    with pytest.raises(StoreError, match="slice 3 was not computed yet"):
        set_precomputed(predictor, store, i=3)
    with pytest.raises(StoreError, match="open for reading only"):
        store.write(Item(3), np.zeros((1, 256, 64, 64), dtype="float32"))
    with pytest.raises(StoreError, match="lacks 5 embeddings"):
        store.finish()


def test_a_reader_sees_what_another_process_has_written_since(predictor, tmp_path):
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    next(work), next(work)
    store = EmbeddingStore.open(tmp_path / "e.zarr")
    next(work)
    assert len(store.missing()) == 5
    store.refresh()
    assert len(store.missing()) == 4
    work.close()
