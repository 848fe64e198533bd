"""Embeddings and segmentation state ahead of time, with the toy models."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from segmentation_toys import TrueDecoder, draw_ellipses, toy_predictor, true_maps

from micro_sam import precompute_state as library
from micro_sam.cli import precompute_embeddings as command
from micro_sam.embeddings import EmbeddingStore, precompute_image_embeddings
from micro_sam.models.decoder import LightDecoder
from micro_sam.precompute_state import cache_amg_state, cache_is_state, precompute_state

LABELS = draw_ellipses((100, 120), 3, (10, 16))
IMAGE = np.where(LABELS > 0, 220, 20).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "get_sam_model", lambda *args, **kwargs: toy_predictor())
    monkeypatch.setattr("micro_sam.models.predictor.get_sam_model", lambda *args, **kwargs: toy_predictor())
    Path("images").mkdir()
    Path("slices").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(f"images/{name}.tif", IMAGE)
    for i in range(3):
        tifffile.imwrite(f"slices/{i}.tif", np.roll(IMAGE, i))
    return tmp_path


def test_the_state_of_the_decoder_is_kept_and_used_again(folder, monkeypatch):
    predictor, decoder = toy_predictor(), TrueDecoder(true_maps(LABELS))
    embeddings = precompute_image_embeddings(predictor, IMAGE, "a.zarr", verbose=False)
    first = cache_is_state(predictor, decoder, IMAGE, embeddings, "a.zarr", verbose=False).generate()
    assert Path("a.zarr/is_state.h5").is_file() and first.max() == LABELS.max()
    again = cache_is_state(predictor, decoder, IMAGE, embeddings, "a.zarr", verbose=False).generate()
    np.testing.assert_array_equal(first, again)
    assert decoder.calls == 1
    assert cache_is_state(predictor, decoder, IMAGE, embeddings, "a.zarr", verbose=False, skip_load=True) is None


def test_the_state_of_the_grid_of_points_is_kept_and_used_again(folder, monkeypatch):
    predictor = toy_predictor()
    embeddings = precompute_image_embeddings(predictor, IMAGE, "a.zarr", verbose=False)
    settings = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.3}  # the toy model's inner parts have less
    first = cache_amg_state(predictor, IMAGE, embeddings, "a.zarr", verbose=False, points_per_side=8).generate(
        **settings
    )
    assert first.max() == LABELS.max()
    decoded = predictor.model.mask_decoder.n_decoded
    again = cache_amg_state(predictor, IMAGE, embeddings, "a.zarr", verbose=False, points_per_side=8).generate(
        **settings
    )
    np.testing.assert_array_equal(first, again)
    assert predictor.model.mask_decoder.n_decoded == decoded
    assert not list(Path("a.zarr").rglob("*.pickle"))


def test_one_file_gives_one_store(folder):
    precompute_state("images/a.tif", "a.zarr", model_type="vit_b")
    assert tuple(EmbeddingStore.open("a.zarr")["original_size"]) == IMAGE.shape


def test_a_pattern_gives_a_store_for_each_file(folder):
    precompute_state("images", "embeddings", pattern="*.tif", model_type="vit_b")
    assert sorted(path.name for path in Path("embeddings").iterdir()) == ["a.zarr", "b.zarr"]


def test_a_folder_with_key_is_one_stack(folder):
    precompute_state("slices", "volume.zarr", key="*.tif", model_type="vit_b", ndim=3, precompute_amg_state=False)
    assert EmbeddingStore.open("volume.zarr")["features"].shape == (3, 1, 256, 64, 64)


def test_the_command_does_the_same_and_goes_on_where_it_stopped(folder, monkeypatch, capsys):
    Path("embeddings").mkdir()
    assert command.main(["-i", "images", "--pattern", "*.tif", "-e", "embeddings", "-m", "vit_b"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "images/a.tif -> embeddings/a.zarr",
        "images/b.tif -> embeddings/b.zarr",
    ]
    monkeypatch.setattr("segmentation_toys.ToyEncoder.forward", lambda *args: pytest.fail("computed again"))
    assert command.main(["-i", "images", "--pattern", "*.tif", "-e", "embeddings", "-m", "vit_b"]) == 0


def test_the_command_keeps_the_decoders_predictions_of_every_slice(folder, monkeypatch):
    def predictor_with_decoder(*args, **kwargs):
        predictor = toy_predictor()
        predictor.decoder_state = LightDecoder(widths=(8, 8, 8, 8)).state_dict()
        return predictor

    monkeypatch.setattr("micro_sam.models.predictor.get_sam_model", predictor_with_decoder)
    arguments = ["-i", "slices", "-k", "*.tif", "-e", "volume.zarr", "-m", "vit_b", "-n", "3", "-p"]
    assert command.main(arguments) == 0
    with h5py.File("volume.zarr/is_state.h5") as file:
        assert sorted(file) == ["state-0", "state-1", "state-2"]
        assert file["state-1/foreground"].shape == IMAGE.shape
    monkeypatch.setattr("segmentation_toys.ToyEncoder.forward", lambda *args: pytest.fail("computed again"))
    monkeypatch.setattr(LightDecoder, "forward", lambda *args: pytest.fail("predicted again"))
    assert command.main(arguments) == 0


def test_a_store_of_another_image_is_refused_in_one_line(folder, capsys):
    tifffile.imwrite("other.tif", 255 - IMAGE)
    assert command.main(["-i", "images/a.tif", "-e", "a.zarr", "-m", "vit_b"]) == 0
    assert command.main(["-i", "other.tif", "-e", "a.zarr", "-m", "vit_b"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "a.zarr" in err and "data_signature" in err
