"""The commands for classifying objects."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import tifffile
from classification_toys import CLASSES, a_few_of_each, two_kinds

from micro_sam.cli import classify_objects, object_classifier
from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.models.predictor import get_sam_model
from micro_sam.object_classification import Samples, iter_object_features, save_classifier, train
from micro_sam.object_classification.classifier import describe_model
from micro_sam.progress import drain


@pytest.fixture
def files(tmp_path):
    """Two images with labels, and a classifier trained on the first."""
    predictor = get_sam_model("vit_t_builtin", device="cpu")
    for seed, name in ((1, "a"), (2, "b")):
        image, labels, classes = two_kinds("brightness", seed)
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
        tifffile.imwrite(tmp_path / f"{name}_labels.tif", labels)
        if name == "a":
            embeddings = precompute_image_embeddings(predictor, image, verbose=False)
            features = drain(iter_object_features(embeddings, labels, image=image))
            shown = a_few_of_each(classes)
            samples = {"a": Samples(features.values[shown], classes[shown])}
            trained = train(samples, CLASSES, features.names, 2, describe_model(predictor))
            save_classifier(tmp_path / "nuclei.npz", trained)
    return tmp_path


def _arguments(folder, *more: str) -> list[str]:
    images, labels = ([str(folder / f"{name}{end}.tif") for name in "ab"] for end in ("", "_labels"))
    return ["-i", *images, "-s", *labels, "-m", "vit_t_builtin", "-d", "cpu", "--classifier", *more]


def test_objects_of_several_images_are_classified(files, capsys):
    out = files / "classes"
    assert classify_objects.main(_arguments(files, str(files / "nuclei.npz"), "-o", str(out))) == 0, capsys.readouterr()
    for seed, name in ((1, "a"), (2, "b")):
        _, labels, classes = two_kinds("brightness", seed)
        with open(out / f"{name}.csv", newline="") as file:
            found = np.array([int(row["class_id"]) for row in csv.DictReader(file)])
        assert (found == classes).mean() >= 0.95
        written = tifffile.imread(out / f"{name}.tif")
        for label, class_id in zip(np.unique(labels)[1:], found):
            assert (written[labels == label] == class_id).all()


@pytest.mark.parametrize("command", [classify_objects, object_classifier])
def test_bad_input_is_one_sentence(tmp_path, capsys, command):
    for name in ("a", "b", "a_labels", "b_labels"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 9), np.uint8))
    (tmp_path / "c.npz").write_bytes(b"no classifier")
    cases = [
        (_arguments(tmp_path, str(tmp_path / "missing.npz"), "-o", "x"), "--classifier .*missing.npz' does not exist"),
        ([*_arguments(tmp_path, str(tmp_path / "c.npz"), "-o", "x"), "-s", str(tmp_path / "a.tif")], "got 1 for 2"),
    ]
    for arguments, expected in cases:
        assert command.main(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and re.search(expected, error)


def test_a_file_that_is_no_classifier(tmp_path, capsys):
    for name in ("a", "b", "a_labels", "b_labels"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 9), np.uint8))
    (tmp_path / "c.npz").write_bytes(b"no classifier")
    assert classify_objects.main(_arguments(tmp_path, str(tmp_path / "c.npz"), "-o", str(tmp_path / "out"))) == 2
    assert "could run code" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_several_images_in_the_window_need_a_folder(tmp_path, capsys):
    for name in ("a", "b", "a_labels", "b_labels"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 9), np.uint8))
    arguments = _arguments(tmp_path, "x")[:-2]
    assert object_classifier.main(arguments) == 2
    assert "need --output_folder" in capsys.readouterr().err
