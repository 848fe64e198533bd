"""Following nuclei with the model that is part of the package."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.labels import compute_iou
from micro_sam.multi_dimensional_segmentation import PropagationSettings, prompt_decoding, propagate
from micro_sam.sample_data import synthetic_data
from micro_sam.util import get_sam_model, precompute_image_embeddings


@pytest.fixture(scope="module")
def nuclei():
    """Two slices of nuclei that drift by a pixel, their labels, and embeddings."""
    image, labels = synthetic_data((193, 193), seed=3, diameter=36, density=0.3)
    windows = [(slice(z, z + 192), slice(z, z + 192)) for z in range(2)]
    volume, truth = np.stack([image[w] for w in windows]), np.stack([labels[w] for w in windows])
    predictor = get_sam_model("vit_t_builtin", device="cpu", precision="float32")
    return predictor, precompute_image_embeddings(predictor, volume, ndim=3, verbose=False), truth


@pytest.mark.parametrize("projection", ["mask", "box", "points", "single_point"])
def test_decoding_around_objects_gives_the_masks_of_decoding_everything(nuclei, projection, monkeypatch):
    predictor, embeddings, truth = nuclei
    sizes = np.bincount(truth[0].ravel())
    sizes[0] = 0
    start = {int(i): {0: truth[0] == i} for i in np.argsort(-sizes)[:6]}
    settings = PropagationSettings(projection, follow_splits=False)
    local = propagate(start, predictor, embeddings, settings)
    monkeypatch.setattr(prompt_decoding.LocalMaskDecoder, "of", lambda predictor, outside: None)
    everywhere = propagate(start, predictor, embeddings, settings)
    assert local.ended == everywhere.ended
    assert (local.segmentation != everywhere.segmentation).mean() < 1e-3
    if projection == "mask":
        assert np.mean([compute_iou(local.segmentation[1] == i, truth[1] == i) for i in start]) > 0.8


def test_with_the_processors_faster_format_the_masks_are_the_same(nuclei):
    precise, embeddings, truth = nuclei
    start = {int(i): {0: truth[0] == i} for i in np.argsort(-np.bincount(truth[0].ravel()))[1:7]}
    settings = PropagationSettings("mask", follow_splits=False)
    fast = get_sam_model("vit_t_builtin", device="cpu", precision="bfloat16")
    results = [propagate(start, predictor, embeddings, settings).segmentation[1] for predictor in (precise, fast)]
    assert np.mean([compute_iou(results[0] == i, results[1] == i) for i in start]) > 0.98
