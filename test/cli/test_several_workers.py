"""The flags for several workers, as far as they can be checked without any."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile

from micro_sam.cli import automatic_segmentation, precompute_embeddings


@pytest.fixture
def image(tmp_path, monkeypatch):
    """An image in the working folder."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", np.zeros((20, 30), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-o a.zarr --n_workers 2 --scheduler tcp://a:1", "give one of them"),
        ("-o a.zarr --scheduler tcp://a:1 --memory_limit 2GB", "--memory_limit belongs to --n_workers"),
        ("-o a.zarr --threads_per_worker 2", "--threads_per_worker belongs to --n_workers"),
        ("-o a.zarr --slab 16 2", "--slab belongs to --n_workers or --scheduler"),
        ("-o b.tif --n_workers 2", "Several workers write labels as OME-Zarr"),
        ("-o a.zarr --n_workers 2 --overlay", "--overlay is done by one process"),
        ("-o a.zarr --n_workers 2 -e e.zarr", "--embedding_path is done by one process"),
        ("-o a.zarr --n_workers 2 --no_tiling", "leave out --no_tiling"),
        ("-o a.zarr --no_tiling --tile_shape 8 8 --halo 2 2", "give one of them"),
        ("-o a.zarr --n_workers 0", "must be at least 1"),
        ("-o a.zarr --scheduler tcp://127.0.0.1:9", "No Dask scheduler answers at 'tcp://127.0.0.1:9'"),
    ],
)
def test_wrong_flags_are_one_line(image, capsys, monkeypatch, arguments, message):
    from micro_sam.distributed import Cluster

    monkeypatch.setattr(Cluster.__init__, "__defaults__", (*Cluster.__init__.__defaults__[:-1], 1.0))  # the timeout
    try:
        code = automatic_segmentation.main(["-i", "a.tif", "-m", "vit_t_builtin", *arguments.split()])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1


def test_without_dask_distributed_it_is_said_how_to_get_it(image, capsys, monkeypatch):
    import dask

    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    monkeypatch.delattr(dask, "distributed", raising=False)
    for command, arguments in (
        (automatic_segmentation, "-i a.tif -o b.zarr --n_workers 2"),
        (precompute_embeddings, "-i a.tif -e b.zarr --n_workers 2"),
    ):
        assert command.main(arguments.split()) == 2
        assert "pip install 'micro_sam[distributed]'" in capsys.readouterr().err


def test_state_is_computed_by_one_process(image, capsys):
    assert precompute_embeddings.main(["-i", "a.tif", "-e", "b.zarr", "-p", "--n_workers", "2"]) == 2
    assert "--precompute_amg_state is computed by one process" in capsys.readouterr().err
