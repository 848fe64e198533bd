"""The commands with the model that is part of the package, on drawn nuclei and on a real image of a cell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from segmentation_toys import draw_ellipses

from micro_sam.cli import automatic_segmentation, precompute_embeddings
from micro_sam.io import load_image_data
from micro_sam.labels import compute_iou

NUCLEI = draw_ellipses((400, 480), 25, (14, 22), seed=3)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with an image of blurred, noisy nuclei of different brightness."""
    monkeypatch.chdir(tmp_path)
    bright = np.where(NUCLEI > 0, 120 + NUCLEI * 37 % 80, 0).astype(np.float32)
    image = ndimage.gaussian_filter(bright, 1.5) + 20 + np.random.default_rng(0).normal(0, 4, NUCLEI.shape)
    tifffile.imwrite("nuclei.tif", image.clip(0, 255).astype(np.uint8))
    return tmp_path


def _share_found(labels: np.ndarray, least_iou: float) -> float:
    """The share of the nuclei that a label matches."""
    found = 0
    for nucleus in range(1, int(NUCLEI.max()) + 1):
        mask = NUCLEI == nucleus
        counts = np.bincount(labels[mask])
        counts[0] = 0
        found += bool(counts.any()) and compute_iou(mask, labels == counts.argmax()) >= least_iou
    return found / int(NUCLEI.max())


@pytest.mark.parametrize(("mode", "least_iou", "share"), [("auto", 0.7, 0.9), ("apg", 0.5, 0.6)])
def test_nuclei_are_found(folder, capsys, mode, least_iou, share):
    arguments = f"-i nuclei.tif -o labels.tif -m vit_t_builtin -d cpu --overlay --mode {mode}"
    assert automatic_segmentation.main(arguments.split()) == 0
    labels = load_image_data("labels.tif")
    assert labels.shape == NUCLEI.shape
    assert _share_found(labels, least_iou) >= share
    assert f"{len(np.unique(labels)) - 1} objects -> labels.tif" in capsys.readouterr().out
    assert Path("labels_overlay.png").is_file()


def test_nuclei_are_found_in_tiles_from_embeddings_computed_ahead(folder):
    arguments = "-i nuclei.tif -m vit_t_builtin -d cpu --tile_shape 256 256 --halo 48 48 -e nuclei.zarr"
    assert precompute_embeddings.main(arguments.split()) == 0
    assert automatic_segmentation.main([*arguments.split(), "-o", "labels.zarr"]) == 0
    assert _share_found(load_image_data("labels.zarr"), 0.7) >= 0.9


def test_the_grid_of_points_runs_without_the_decoder(folder):
    arguments = "-i nuclei.tif -o labels.tif -m vit_t_builtin -d cpu --mode amg --points_per_side 6 --precision float32"
    assert automatic_segmentation.main(arguments.split()) == 0
    assert load_image_data("labels.tif").shape == NUCLEI.shape


def test_the_cell_of_the_bundled_sample_is_found_without_network_and_home(folder):
    """What `make demo` does, as a process of its own."""
    environment = {**os.environ, "HOME": str(folder), "MICROSAM_CACHEDIR": str(folder / "cache")}
    command = [sys.executable, "-m", "micro_sam.cli.automatic_segmentation"]
    flags = ["--sample", "cell", "-m", "vit_t_builtin", "-o", "labels.tif", "--overlay", "overlay.png"]
    result = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "labels.tif" in result.stdout and "overlay.png" in result.stdout
    assert not (folder / "cache").exists()
    labels = load_image_data("labels.tif")
    y, x = np.indices(labels.shape)
    cell = np.hypot(y - 375, x - 429) < 66
    assert labels[375, 429] != 0 and compute_iou(cell, labels == labels[375, 429]) > 0.8
