"""How many objects a classifier gets right that was shown a few of each class."""

from __future__ import annotations

import numpy as np
import pytest
from classification_toys import CLASSES, a_few_of_each, two_kinds

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.object_classification import (
    Samples,
    compute_object_features,
    iter_object_features,
    run_prediction_with_object_classifier,
    save_classifier,
    train,
)
from micro_sam.object_classification.classifier import describe_model
from micro_sam.progress import drain


def _trained(predictor, image, labels, classes, shown, **tiling):
    embeddings = precompute_image_embeddings(predictor, image, verbose=False, **tiling)
    features = drain(iter_object_features(embeddings, labels, image=image))
    samples = {"first image": Samples(features.values[shown], classes[shown])}
    return train(samples, CLASSES, features.names, features.ndim, describe_model(predictor)), features


@pytest.mark.parametrize("kind", ["brightness", "size"])
@pytest.mark.parametrize("tiling", [{}, {"tile_shape": (128, 128), "halo": (32, 32)}], ids=["whole", "tiled"])
def test_few_samples_classify_the_rest_and_another_image(predictor, tmp_path, kind, tiling):
    image, labels, classes = two_kinds(kind, seed=1)
    shown = a_few_of_each(classes)
    classifier, features = _trained(predictor, image, labels, classes, shown, **tiling)
    rest = np.setdiff1d(np.arange(len(classes)), shown)
    accuracy = (classifier.predict(features) == classes)[rest].mean()
    assert len(rest) > 20 and accuracy >= 0.9

    save_classifier(tmp_path / "nuclei.npz", classifier)
    other_image, other_labels, other_classes = two_kinds(kind, seed=2)
    [found] = run_prediction_with_object_classifier(
        [other_image], [other_labels], predictor, tmp_path / "nuclei.npz", project_prediction=False, verbose=False
    )
    assert (found == other_classes).mean() >= 0.95
    [projected] = run_prediction_with_object_classifier(
        [other_image], [other_labels], predictor, tmp_path / "nuclei.npz", verbose=False
    )
    assert not projected[other_labels == 0].any()
    for label, class_id in zip(np.unique(other_labels)[1:], found):
        assert set(np.unique(projected[other_labels == label])) == {class_id}


def test_volumes(predictor):
    image, labels, classes = two_kinds("brightness", seed=3, shape=(12, 128, 128))
    embeddings = precompute_image_embeddings(predictor, image, ndim=3, verbose=False)
    features = drain(iter_object_features(embeddings, labels, image=image))
    shown = a_few_of_each(classes)
    samples = {"volume": Samples(features.values[shown], classes[shown])}
    classifier = train(samples, CLASSES, features.names, 3, describe_model(predictor))
    rest = np.setdiff1d(np.arange(len(classes)), shown)
    assert len(rest) >= 10 and (classifier.predict(features) == classes)[rest].mean() >= 0.9


def test_features_of_tiles_resemble_those_of_the_whole_image(predictor):
    image, labels, _ = two_kinds("brightness", seed=1)
    whole = precompute_image_embeddings(predictor, image, verbose=False)
    tiled = precompute_image_embeddings(predictor, image, tile_shape=(256, 256), halo=(0, 0), verbose=False)
    ids, expected = compute_object_features(whole, labels, verbose=False)
    _, found = compute_object_features(tiled, labels, verbose=False)
    np.testing.assert_array_equal(ids, np.unique(labels)[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
