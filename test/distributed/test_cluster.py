"""A real local cluster of two processes, of which one is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr
from elf.evaluation import mean_segmentation_accuracy

from micro_sam.cli import automatic_segmentation, precompute_embeddings
from micro_sam.distributed import (
    Cluster,
    ModelSource,
    connect,
    distributed_embeddings,
    distributed_segmentation,
    iter_distributed_embeddings,
    iter_distributed_segmentation,
)
from micro_sam.distributed.tasks import iter_tasks
from micro_sam.embeddings import EmbeddingStore
from micro_sam.errors import CheckpointError, ClusterError, ImageError, MissingInputError, OutputError, ParameterError
from micro_sam.io import load_image_data, open_image
from micro_sam.labels import compute_iou
from micro_sam.sample_data import synthetic_data

MODEL = ModelSource("vit_t_builtin", device="cpu")
OPTIONS = {"block_shape": (128, 128), "halo": (32, 32), "key": "0"}


@pytest.fixture(scope="module")
def client():
    """Two workers of their own processes, for all tests."""
    with connect(Cluster(n_workers=2, threads_per_worker=1, memory_limit=0)) as client:
        yield client


@pytest.fixture(scope="module")
def image_and_truth():
    return synthetic_data((240, 240), seed=1, diameter=26)


def _write_image(path: Path, data: np.ndarray) -> Path:
    """An OME-Zarr with a pixel size, of 2 x 2 blocks."""
    group = zarr.open_group(path, mode="w")
    group.create_array("0", data=data, chunks=(64, 64))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.25]}, {"type": "translation", "translation": [10, 20]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


@pytest.fixture
def image(tmp_path, image_and_truth) -> Path:
    """The image as OME-Zarr, for one test."""
    return _write_image(tmp_path / "image.zarr", image_and_truth[0])


@pytest.fixture(scope="module")
def segmented(client, image_and_truth, tmp_path_factory):
    """The folder, result and progress of a segmentation of which one worker was killed in the middle."""
    folder = tmp_path_factory.mktemp("killed")
    _write_image(folder / "image.zarr", image_and_truth[0])
    work = iter_distributed_segmentation(folder / "image.zarr", folder / "labels.zarr", MODEL, client, **OPTIONS)
    killed = []
    result, texts = _run(work, then=lambda: killed.append(_kill_one_worker(client)))
    assert killed
    return folder, result, texts


def _kill_one_worker(client) -> None:
    pids = client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)


def _run(work, at: int = 1, then=lambda: None):
    """Drain a generator of progress; call something once when a number of blocks are done."""
    texts = []
    try:
        while True:
            progress = next(work)
            texts.append((progress.text, progress.done, progress.total))
            if progress.done == at and len([t for t in texts if t[1] == at]) == 1:
                then()
    except StopIteration as stop:
        return stop.value, texts


def test_a_killed_worker_leaves_a_complete_and_consistent_result(segmented, image_and_truth):
    folder, result, texts = segmented
    assert ("Segment blocks", 4, 4) in texts
    labels = load_image_data(result.path)
    np.testing.assert_array_equal(np.unique(labels), np.arange(result.n_objects + 1))
    _, truth = image_and_truth
    assert mean_segmentation_accuracy(labels, truth) > 0.5
    cut = np.setdiff1d(np.union1d(truth[127:129], truth[:, 127:129]), [0])  # blocks meet at 128
    whole = [_best_iou(truth == label, labels) > 0.5 for label in cut]
    assert len(cut) >= 10 and np.mean(whole) >= 0.7
    found = open_image(result.path)
    assert dict(found.resolution.size) == {"y": 0.5, "x": 0.25}
    assert dict(found.resolution.origin) == {"y": 10, "x": 20}
    assert sorted(path.name for path in folder.iterdir()) == ["image.zarr", "labels.zarr"]


def _best_iou(mask: np.ndarray, labels: np.ndarray) -> float:
    """How well one label alone covers an object."""
    counts = np.bincount(labels[mask])
    counts[0] = 0
    return compute_iou(mask, labels == counts.argmax()) if counts.any() else 0.0


def test_a_restarted_run_skips_what_is_done_and_gives_the_same(client, image, tmp_path, segmented):
    output, folder = tmp_path / "labels.zarr", tmp_path / "labels.zarr.unfinished"
    work = iter_distributed_segmentation(image, output, MODEL, client, **OPTIONS)
    for progress in work:
        if progress.text == "Segment blocks" and progress.done == 2:
            break
    work.close()  # as Ctrl-C does
    assert not output.exists()
    noted = [json.loads(line) for line in (folder / "done.jsonl").read_text().splitlines()]
    assert len(noted) == 2
    times = {entry["number"]: (folder / "blocks" / f"{entry['number']}.npz").stat().st_mtime_ns for entry in noted}
    lost, *kept = times
    (folder / "blocks" / f"{lost}.npz").write_bytes(b"cut short")

    with pytest.raises(
        OutputError, match=r"unfinished run.*other parameters: halo \(there \[32, 32\], now \[16, 16\]\)"
    ):
        distributed_segmentation(image, output, MODEL, client, **{**OPTIONS, "halo": (16, 16)})
    work = iter_distributed_segmentation(image, output, MODEL, client, **OPTIONS)
    first = next(work)
    assert (first.done, first.total) == (1, 4)
    seen = []
    for progress in work:
        seen.append(progress.text)
        if progress.text == "Match blocks" and progress.done == 0:
            for number in kept:
                assert (folder / "blocks" / f"{number}.npz").stat().st_mtime_ns == times[number]
        if progress.text == "Write labels" and progress.done == 2:
            break
    work.close()
    work = iter_distributed_segmentation(image, output, MODEL, client, **OPTIONS)
    _, texts = _run(work)
    done = {text: count for text, count, _ in reversed(texts)}  # where each stage began
    assert done["Segment blocks"] == 4 and done["Match blocks"] == 4 and done["Write labels"] >= 2
    assert not folder.exists()
    np.testing.assert_array_equal(load_image_data(output), load_image_data(segmented[1].path))


def test_a_finished_result_is_neither_computed_again_nor_overwritten(segmented, tmp_path, caplog):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(segmented[0], folder)
    image, output = folder / "image.zarr", folder / "labels.zarr"
    stamp = (output / "zarr.json").stat().st_mtime_ns
    again = distributed_segmentation(image, output, MODEL, None, verbose=False, **OPTIONS)  # starts no worker
    assert (again.path, again.n_objects) == (output, segmented[1].n_objects)
    assert "finished already" in caplog.text
    with pytest.raises(OutputError, match=r"min_size.*delete it or choose another output"):
        distributed_segmentation(image, output, MODEL, None, min_size=10, **OPTIONS)
    zarr.open_array(image / "0", mode="r+")[:50] = 0
    with pytest.raises(OutputError, match="sample"):
        distributed_segmentation(image, output, MODEL, None, **OPTIONS)
    assert (output / "zarr.json").stat().st_mtime_ns == stamp


def test_the_commands_use_a_running_cluster(client, image, tmp_path, segmented, capsys):
    flags = f"-i {image} -k 0 -m vit_t_builtin -d cpu --scheduler {client.scheduler.address} --tile_shape 128 128"
    arguments = f"{flags} --halo 32 32 -o {tmp_path / 'labels.zarr'}".split()
    assert automatic_segmentation.main(arguments) == 0
    assert f"{segmented[1].n_objects} objects -> " in capsys.readouterr().out
    np.testing.assert_array_equal(load_image_data(tmp_path / "labels.zarr"), load_image_data(segmented[1].path))
    arguments = f"{flags} --halo 32 32 -e {tmp_path / 'store.zarr'} --normalization robust".split()
    arguments[arguments.index("--tile_shape") : arguments.index("--halo")] = ["--tile_shape", "240", "240"]
    assert precompute_embeddings.main(arguments) == 0
    assert EmbeddingStore.open(tmp_path / "store.zarr").is_complete


def test_objects_of_a_volume_go_through_blocks_of_slices(client, tmp_path, image_and_truth):
    image, truth = image_and_truth
    volume = np.stack([image[:120, :128]] * 4)
    zarr.save_array(tmp_path / "volume.zarr", volume)
    options = {"block_shape": (2, 120, 128), "halo": (1, 0, 0)}
    result = distributed_segmentation(tmp_path / "volume.zarr", tmp_path / "l.zarr", MODEL, client, ndim=3, **options)
    labels = load_image_data(result.path)
    expected = truth[:120, :128]
    assert labels.shape == volume.shape
    assert mean_segmentation_accuracy(labels, np.stack([expected] * 4)) > 0.5
    both = (labels[1] > 0) & (labels[2] > 0)  # on both sides of the border between the blocks
    assert (labels[1] == labels[2])[both].mean() > 0.95


def test_embeddings_are_those_of_one_machine_even_if_a_worker_is_killed(client, image, tmp_path):
    from micro_sam.embeddings import Item, precompute_image_embeddings
    from micro_sam.models.predictor import get_sam_model

    tiling = {"tile_shape": (128, 128), "halo": (16, 16)}
    work = iter_distributed_embeddings(image, tmp_path / "store.zarr", MODEL, client, key="0", **tiling)
    store, texts = _run(work, then=lambda: _kill_one_worker(client))
    assert store.is_complete and texts[-1][1:] == (4, 4)
    predictor = get_sam_model("vit_t_builtin", "cpu")
    opened = precompute_image_embeddings(
        predictor, load_image_data(image), tmp_path / "store.zarr", lazy_loading=True, verbose=False, **tiling
    )
    assert opened.is_complete and not opened.lost()
    tile = opened.metadata.tiling.tile(3)
    alone = precompute_image_embeddings(predictor, load_image_data(image)[tile.outer], verbose=False)
    expected = alone.read(Item())
    np.testing.assert_allclose(opened.read(Item(None, 3)), expected, atol=0.02 * np.abs(expected).max())


def test_embeddings_of_a_volume_go_on_where_they_stopped(client, tmp_path, image_and_truth):
    volume = np.stack([image_and_truth[0][:96, :128] + i for i in range(3)])
    lazy = dask.array.from_array(volume, chunks=(1, 96, 64))
    work = iter_distributed_embeddings(lazy, tmp_path / "s.zarr", MODEL, client, ndim=3, batch_size=2)
    for progress in work:
        if progress.text == "Compute image embeddings" and progress.done == 2:
            break
    work.close()
    work = iter_distributed_embeddings(lazy, tmp_path / "s.zarr", MODEL, client, ndim=3)
    store, texts = _run(work, at=-1)
    begun = [done for text, done, _ in texts if text == "Compute image embeddings"]
    assert begun[0] == 2 and begun[-1] == 3
    assert store["features"].shape == (3, 1, 256, 64, 64)


def test_a_scheduler_that_goes_away_is_named():
    """A cluster of its own, whose scheduler is killed while a worker works."""
    script = """
from dask.distributed import LocalCluster
import time
options = {"processes": False, "protocol": "tcp://", "dashboard_address": None}
cluster = LocalCluster(n_workers=1, threads_per_worker=1, **options)
print(cluster.scheduler_address, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with connect(Cluster(address)) as client:
            work = iter_tasks(client, time.sleep, [(0, (0.01,)), (1, (60,))], "block")
            assert next(work) == (0, None)
            process.kill()
            with pytest.raises(ClusterError, match="scheduler is gone; start the same command again"):
                next(work)


def test_errors_of_workers_keep_their_sentence(client, image, tmp_path):
    model = ModelSource("vit_t_builtin", checkpoint=str(image / "zarr.json"), device="cpu")
    with pytest.raises(CheckpointError, match="zarr.json"):
        distributed_segmentation(image, tmp_path / "labels.zarr", model, client, verbose=False, **OPTIONS)
    assert not (tmp_path / "labels.zarr").exists()


def test_blocks_over_which_workers_die_again_and_again_are_named(client):
    def give_up_at_once(dask_scheduler):
        dask_scheduler.allowed_failures, before = 0, dask_scheduler.allowed_failures
        return before

    before = client.run_on_scheduler(give_up_at_once)
    try:
        with pytest.raises(ClusterError, match="over block 7, probably for lack of memory"):
            list(iter_tasks(client, os._exit, [(7, (1,))], "block"))
    finally:
        client.run_on_scheduler(lambda dask_scheduler, n: setattr(dask_scheduler, "allowed_failures", n), n=before)


def test_bad_input_is_one_sentence_before_any_worker_is_asked(image, tmp_path, image_and_truth):
    output = tmp_path / "labels.zarr"
    zarr.save_array(tmp_path / "five.zarr", np.zeros((2, 2, 2, 8, 8), np.uint8))
    zarr.save_array(tmp_path / "empty.zarr", np.zeros((0, 8, 8), np.uint8))
    cases = [
        (MissingInputError, "no data set 'raw'", image, output, {"key": "raw"}),
        (MissingInputError, "no file or folder", tmp_path / "no.zarr", output, {}),
        (ImageError, "got shape", tmp_path / "five.zarr", output, {}),
        (ImageError, "at least one pixel", tmp_path / "empty.zarr", output, {}),
        (ImageError, "ndim=3", image, output, {"ndim": 3}),
        (OutputError, "as .zarr", image, tmp_path / "labels.tif", {}),
        (OutputError, "does not exist", image, tmp_path / "no" / "labels.zarr", {}),
        (OutputError, "not replaced", image, tmp_path / "five.zarr", {}),
        (ParameterError, "every halo is at least 1", image, output, {"block_shape": (64, 64), "halo": (0, 8)}),
        (ParameterError, "have 2 numbers", image, output, {"block_shape": (8, 64, 64), "halo": (1, 8, 8)}),
        (ParameterError, "least_iou", image, output, {"least_iou": 0}),
        (ParameterError, "write it to zarr", image_and_truth[0], output, {}),
    ]
    for kind, message, input_, path, options in cases:
        with pytest.raises(kind, match=message):
            distributed_segmentation(input_, path, MODEL, **options)
    with pytest.raises(ClusterError, match="No Dask scheduler answers"):
        cluster = Cluster("tcp://127.0.0.1:9", timeout=1)
        distributed_embeddings(image, tmp_path / "store.zarr", MODEL, cluster, verbose=False)
    assert not output.exists()


def test_without_dask_distributed_there_is_one_sentence(image, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    monkeypatch.delattr("dask.distributed", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'micro_sam\[distributed\]'"):
        distributed_segmentation(image, tmp_path / "labels.zarr", MODEL)
