"""Comparing a model with one that fails on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segmentation_toys import draw_ellipses, toy_predictor

from micro_sam.errors import InputError
from micro_sam.evaluation import model_comparison as comparison

SHAPE = (160, 200)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Two samples; the second model sees only what is brighter than everything, so it finds nothing."""
    thresholds = {"good": 0.0, "blind": 1e6}

    def get_model(name, **kwargs):
        predictor = toy_predictor(thresholds[name])
        predictor.model_name = name
        return predictor

    monkeypatch.setattr("micro_sam.models.predictor.get_sam_model", get_model)
    pairs = [draw_ellipses(SHAPE, 5, (9, 18), seed=k).astype(np.int64) for k in range(2)]
    batches = [(torch.from_numpy((p > 0) * 255.0)[None, None], torch.from_numpy(p)[None, None]) for p in pairs]
    comparison.generate_data_for_model_comparison(batches, tmp_path / "data", "good", "blind", 2, model_type3="good")
    return tmp_path


@pytest.mark.parametrize("kind", comparison.KINDS)
def test_the_better_model_is_found(compared, kind):
    objects = comparison.compare_objects(compared / "data" / "sample_0.h5", kind)
    assert len(objects) == 5
    for compared_object in objects:
        good, blind, third = compared_object.ious
        assert good > 0.85 and blind < 0.1 and third == good
        assert compared_object.difference < -0.7
    sizes = comparison.compare_objects(compared / "data" / "sample_0.h5", kind, min_size=10**6)
    assert sizes == []


def test_pictures_are_drawn(compared):
    comparison.model_comparison(compared / "data", 2, 10, compared / "plots", have_model3=True)
    pictures = sorted(path.relative_to(compared / "plots").as_posix() for path in compared.rglob("*.png"))
    assert pictures == ["box/sample_0.png", "box/sample_1.png", "point/sample_0.png", "point/sample_1.png"]


def test_samples_hold_what_a_viewer_shows(compared):
    layers = list(comparison.iter_samples(compared / "data"))
    assert len(layers) == 2
    assert sorted(layers[0]) == [
        "image", "labels", "model1 (good): box", "model1 (good): point", "model2 (blind): box", "model2 (blind): point",
        "model3 (good): box", "model3 (good): point",
    ]  # fmt: skip
    assert all(layer.shape == SHAPE for layer in layers[0].values())


def test_a_folder_without_samples_is_named(tmp_path):
    with pytest.raises(InputError, match="no samples"):
        comparison.model_comparison(tmp_path, 1, 0)
