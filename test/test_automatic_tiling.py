"""Images that are too large for one pass are cut into tiles, and their objects come out whole."""

from __future__ import annotations

from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import zarr
from elf.evaluation import mean_segmentation_accuracy

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.embeddings import automatic_tiling, choose_tiling, is_too_large, precompute_image_embeddings
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation import tiled_counterpart
from micro_sam.precompute_state import StatePrecomputation
from micro_sam.sample_data import synthetic_data


@pytest.fixture(scope="module")
def model():
    """Predictor and segmenter without tiles."""
    return get_predictor_and_segmenter("vit_t_builtin", device="cpu")


@pytest.fixture
def small_limits(monkeypatch):
    """Images of more than 300 pixels count as large, so that the test need not compute large ones."""
    monkeypatch.setattr(automatic_tiling, "LONGEST_SIDE", 300)
    monkeypatch.setattr(automatic_tiling, "TILE_SHAPE", (192, 192))
    monkeypatch.setattr(automatic_tiling, "HALO", (48, 48))


IMAGE, TRUTH = synthetic_data((256, 320), seed=4, diameter=30)


def test_only_large_images_are_cut(caplog):
    assert choose_tiling((2048, 2048)) is None
    assert not caplog.records
    assert is_too_large((100, 2049))
    assert choose_tiling((9532, 9998)) == ((768, 768), (128, 128))
    assert "9532 x 9998 pixels are too many for one pass" in caplog.text and "--no_tiling" in caplog.text


def test_objects_on_the_borders_of_automatic_tiles_are_whole(model, small_limits, caplog):
    labels = automatic_instance_segmentation(*model, IMAGE, ndim=2, verbose=False)
    assert "working in tiles of 192 x 192" in caplog.text
    untiled = automatic_instance_segmentation(*model, IMAGE, ndim=2, verbose=False, automatic_tiling=False)
    crossing = [np.intersect1d(untiled[191], untiled[192]), np.intersect1d(untiled[:, 191], untiled[:, 192])]
    crossing = np.setdiff1d(np.concatenate(crossing), [0])
    assert len(crossing) >= 8
    on_border = np.where(np.isin(untiled, crossing), untiled, 0)
    # What lies mostly on these objects: one object each, of nearly the same shape.
    inside, areas = np.bincount(labels[on_border > 0], minlength=labels.max() + 1), np.bincount(labels.ravel())
    mine = np.setdiff1d(np.flatnonzero(inside > areas / 2), [0])
    assert abs(len(mine) - len(crossing)) <= 1
    assert mean_segmentation_accuracy(np.where(np.isin(labels, mine), labels, 0), on_border) > 0.5


def test_lazy_arrays_are_read_tile_by_tile_and_give_the_same(model, small_limits):
    expected = automatic_instance_segmentation(*model, IMAGE, ndim=2, verbose=False)
    for lazy in (dask.array.from_array(IMAGE, chunks=100), zarr.array(IMAGE, chunks=(64, 64))):
        labels = automatic_instance_segmentation(*model, lazy, ndim=2, verbose=False)
        np.testing.assert_array_equal(labels, expected)


def test_a_segmenter_for_tiles_chooses_them_itself_and_others_can_be_asked_for(model, small_limits):
    predictor, segmenter = model
    tiled = tiled_counterpart(segmenter)
    assert tiled_counterpart(tiled) is tiled
    chosen = automatic_instance_segmentation(predictor, tiled, IMAGE, ndim=2, verbose=False, return_embeddings=True)[1]
    assert chosen.metadata.tile_shape == (192, 192)
    small = automatic_instance_segmentation(predictor, tiled, IMAGE[:64, :64], verbose=False, return_embeddings=True)[1]
    assert small.is_tiled
    with pytest.raises(ParameterError, match="is_tiled=True"):
        automatic_instance_segmentation(predictor, segmenter, IMAGE, ndim=2, tile_shape=(64, 64), halo=(8, 8))


def test_embeddings_that_are_there_decide(model, small_limits, tmp_path):
    predictor, _ = model
    for name, tiles in (("untiled", {}), ("tiled", {"tile_shape": (128, 160), "halo": (32, 32)})):
        path = tmp_path / f"{name}.zarr"
        precompute_image_embeddings(predictor, IMAGE, path, verbose=False, ndim=2, **tiles)
        _, used = automatic_instance_segmentation(
            *model, IMAGE, None, path, ndim=2, verbose=False, return_embeddings=True
        )
        assert used.metadata.tile_shape == tiles.get("tile_shape")


def test_embeddings_computed_ahead_are_cut_in_the_same_way(model, small_limits, tmp_path):
    predictor, _ = model
    StatePrecomputation(predictor).run(IMAGE, tmp_path / "a.zarr", 2, verbose=False)
    _, used = automatic_instance_segmentation(
        *model, IMAGE, None, tmp_path / "a.zarr", ndim=2, verbose=False, return_embeddings=True
    )
    assert used.metadata.tile_shape == (192, 192)
    StatePrecomputation(predictor, automatic_tiling=False).run(IMAGE, tmp_path / "b.zarr", 2, verbose=False)
    assert choose_tiling(IMAGE.shape, tmp_path / "b.zarr") is None


def test_the_tiled_form_of_amg_keeps_its_points():
    from micro_sam.instance_segmentation import AutomaticMaskGenerator, TiledAutomaticMaskGenerator

    generator = AutomaticMaskGenerator(SimpleNamespace(device="cpu"), points_per_side=7, stability_score_offset=0.5)
    tiled = tiled_counterpart(generator)
    assert isinstance(tiled, TiledAutomaticMaskGenerator)
    assert tiled.tile_arguments()["stability_score_offset"] == 0.5
    np.testing.assert_array_equal(
        tiled.tile_arguments()["point_grids"][0], generator.tile_arguments()["point_grids"][0]
    )
    assert len(tiled.tile_arguments()["point_grids"][0]) == 49
