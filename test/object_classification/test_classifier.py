"""The forest and its file: the same answers as scikit-learn, and nothing that runs when it is read."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from classification_toys import CLASSES
from sklearn.ensemble import RandomForestClassifier

from micro_sam.errors import InputError, MissingInputError, ParameterError
from micro_sam.object_classification import (
    Forest,
    ObjectFeatures,
    Samples,
    load_classifier,
    save_classifier,
    train,
    write_class_table,
)
from micro_sam.object_classification.shapes import shape_names

NAMES = ("embedding_mean_0", "embedding_mean_1", *shape_names(2))
MODEL = {"name": "vit_t_builtin", "hash": "xxh128:abc"}


def _features(n: int = 60, seed: int = 0) -> tuple[ObjectFeatures, np.ndarray]:
    """Objects of two classes that differ in their area."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 2 + 1
    values = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    values[:, NAMES.index("area")] += 4 * classes
    windows = {label: (slice(label, label + 3), slice(0, 5)) for label in range(1, n + 1)}
    return ObjectFeatures(np.arange(1, n + 1), values, NAMES, 2, windows), classes


def _trained():
    features, classes = _features()
    samples = {"a": Samples(features.values[:12], classes[:12]), "b": Samples(features.values[12:20], classes[12:20])}
    return train(samples, CLASSES, NAMES, 2, MODEL)


def test_the_forest_answers_as_scikit_learn_does():
    rng = np.random.default_rng(1)
    values, targets = rng.normal(size=(80, 6)).astype(np.float32), rng.integers(0, 3, 80)
    expected = RandomForestClassifier(30, class_weight="balanced", random_state=0).fit(values, targets)
    columns = [np.arange(6)] * 30
    forest = Forest._joined([tree.tree_ for tree in expected.estimators_], columns)
    new = rng.normal(size=(200, 6)).astype(np.float32)
    np.testing.assert_allclose(forest.predict(new), expected.predict_proba(new), atol=1e-12)


def test_features_that_matter_are_not_drowned_by_many_that_do_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(100, 500)).astype(np.float32)
    targets = np.arange(100) % 2
    telling = (targets[:, None] * 4 + rng.normal(size=(100, 3))).astype(np.float32)
    values = np.hstack([noise, telling])
    groups = [np.arange(500), np.arange(500, 503)]
    right = (Forest.fit(values[:8], targets[:8], groups).predict(values[8:]).argmax(1) == targets[8:]).mean()
    assert right > 0.9


def test_training_is_repeatable_and_keeps_what_it_was_trained_on():
    features, classes = _features(seed=5)
    first, second = _trained(), _trained()
    np.testing.assert_array_equal(first.probabilities(features), second.probabilities(features))
    assert (first.predict(features) == classes).mean() > 0.9
    assert {name: len(found.classes) for name, found in first.samples.items()} == {"a": 12, "b": 8}


def test_saving_and_loading_changes_nothing(tmp_path):
    classifier, (features, _) = _trained(), _features(seed=5)
    save_classifier(tmp_path / "c.npz", classifier)
    found = load_classifier(tmp_path / "c.npz")
    np.testing.assert_array_equal(found.probabilities(features), classifier.probabilities(features))
    assert found.classes == CLASSES and found.model == MODEL and found.feature_names == NAMES
    for name in ("a", "b"):
        np.testing.assert_array_equal(found.samples[name].values, classifier.samples[name].values)
    again = train(found.samples, found.classes, found.feature_names, found.ndim, found.model)
    np.testing.assert_array_equal(again.probabilities(features), classifier.probabilities(features))


class _Bomb:
    def __reduce__(self):
        return open, ("/tmp/never written by micro_sam", "w")


def test_no_file_executes_anything(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("pickle.load", lambda *a, **k: called.append(a))
    monkeypatch.setattr("pickle.loads", lambda *a, **k: called.append(a))
    plain = tmp_path / "plain.joblib"
    plain.write_bytes(pickle.dumps(_Bomb()))
    inside = tmp_path / "inside.npz"
    save_classifier(inside, _trained())
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(inside, "a") as archive:
        archive.writestr("values_9.npy", buffer.getvalue())
    for path in (plain, inside):
        with pytest.raises(InputError, match="could run code"):
            load_classifier(path)
    assert not called


def _changed(path, **changes):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"forest_left": "endless"},
        {"forest_feature": "beyond"},
        {"forest_roots": "negative"},
        {"forest_shares": "nan"},
        {"forest_threshold": "short"},
        {"values_0": "narrow"},
        {"description": "other"},
        {"description": "no json"},
    ],
    ids=lambda change: "-".join(*change.items()),
)
def test_damaged_files_are_refused(tmp_path, change):
    path = tmp_path / "c.npz"
    save_classifier(path, _trained())
    [(name, how)] = change.items()
    array = dict(np.load(path))[name].copy()
    if how == "endless":
        array[array >= 0] = 0
    elif how == "beyond":
        array[array >= 0] = 10**6
    elif how == "negative":
        array -= 5
    elif how == "nan":
        array[:] = np.nan
    elif how == "short":
        array = array[:-1]
    elif how == "narrow":
        array = array[:, :2]
    else:
        text = b"{" if how == "no json" else json.dumps({"format": "something", "version": 3}).encode()
        array = np.frombuffer(text, np.uint8)
    _changed(path, **{name: array})
    with pytest.raises(InputError):
        load_classifier(path)


def test_sentences_for_what_does_not_fit(tmp_path):
    features, classes = _features()
    with pytest.raises(MissingInputError, match="no classifier at"):
        load_classifier(tmp_path / "nothing.npz")
    with pytest.raises(ParameterError, match="no samples yet"):
        train({}, CLASSES, NAMES, 2, MODEL)
    one = classes == 1
    with pytest.raises(ParameterError, match="class 'first' only"):
        train({"a": Samples(features.values[one], classes[one])}, CLASSES, NAMES, 2, MODEL)
    classifier = _trained()

    class Predictor:
        model_name, _hash = "vit_b_lm", "xxh128:def"

    with pytest.raises(ParameterError, match="trained with the model 'vit_t_builtin', but .* 'vit_b_lm'"):
        classifier.check_model(Predictor())
    Predictor.model_name = "vit_t_builtin"
    with pytest.raises(ParameterError, match="with other weights"):
        classifier.check_model(Predictor())
    volume = ObjectFeatures(features.ids, features.values, features.names, 3, {})
    with pytest.raises(ParameterError, match="trained on images, this is one of volumes"):
        classifier.probabilities(volume)
    bright = ObjectFeatures(features.ids, features.values, (*NAMES, "intensity_mean_0"), 2, {})
    with pytest.raises(ParameterError, match=r"0 channel\(s\), this one has 1"):
        classifier.probabilities(bright)


def test_the_table(tmp_path):
    classifier, (features, _) = _trained(), _features(n=6)
    probabilities = classifier.probabilities(features)
    classes = classifier.class_ids[probabilities.argmax(axis=1)]
    annotated = np.arange(6) == 2
    write_class_table(tmp_path / "t.csv", features, classes, probabilities, classifier.classes, annotated)
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["annotated"] for row in rows] == ["no", "no", "yes", "no", "no", "no"]
    for row, expected, shares, area in zip(rows, classes, probabilities, features.values[:, NAMES.index("area")]):
        assert int(row["class_id"]) == expected and row["class"] == CLASSES[expected - 1].name
        assert float(row["probability_first"]) == pytest.approx(shares[0], abs=1e-4)
        assert float(row["area"]) == pytest.approx(area, rel=1e-5)
    assert (rows[3]["box_y_min"], rows[3]["box_x_max"]) == ("4", "5")
