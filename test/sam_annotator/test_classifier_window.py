"""The object classifier in a real napari window: strokes by mouse, classes of all objects, and what is written."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
from classification_toys import a_few_of_each, two_kinds
from window_driver import Window, open_window

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.labels import interior_point
from micro_sam.object_classification import load_classifier, run_prediction_with_object_classifier
from micro_sam.sam_annotator import ObjectClassifier, image_series_object_classifier, object_classifier
from micro_sam.sam_annotator.object_classifier import controller_in
from micro_sam.sam_annotator.session.classification import STROKES

KINDS = {seed: two_kinds("brightness", seed) for seed in (1, 2)}
MODEL = {"model_type": "vit_t_builtin", "device": "cpu", "return_viewer": True}


@pytest.fixture(scope="module")
def stores(predictor):
    return {seed: precompute_image_embeddings(predictor, KINDS[seed][0], verbose=False) for seed in KINDS}


@pytest.fixture
def new_viewer(make_napari_viewer, tmp_path, monkeypatch):
    """Makes shown viewers; classifiers in them are closed at the end."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = []

    def make():
        made.append(make_napari_viewer(show=True))
        made[-1].window.resize(1000, 640)
        return made[-1]

    yield make
    for viewer in made:
        controller_in(viewer).close()


def _window(viewer) -> Window:
    window = Window(viewer, controller_in(viewer).panel)
    window.settle(10)
    window.ready()
    return window


def _open(viewer, stores, seed: int = 1) -> Window:
    image, labels, _ = KINDS[seed]
    return _window(object_classifier(image, labels, stores[seed], viewer=viewer, **MODEL))


def _stroke(window: Window, labels: np.ndarray, row: int) -> None:
    y, x = interior_point(labels == np.unique(labels)[1:][row])
    window.drag([(y, x - 1), (y, x), (y, x + 1)])


def _paint(window: Window, labels: np.ndarray, classes: np.ndarray, rows: np.ndarray) -> None:
    for row in rows:
        window.key(str(int(classes[row])))
        _stroke(window, labels, row)


def _trained(window: Window) -> None:
    window.settle(5)
    window.wait(lambda: window.controller.outcome is not None and not window.controller.jobs.is_running(), 300)
    window.settle(5)
    window.wait(lambda: not window.controller.jobs.is_running(), 300)


def test_strokes_by_mouse_classify_all_objects(new_viewer, stores, tmp_path, predictor):
    window, (image, labels, classes) = _open(new_viewer(), stores), KINDS[1]
    assert window.widget.width() <= 320 and "Paint a short stroke" in window.status
    rows = a_few_of_each(classes)
    _paint(window, labels, classes, rows[:6])
    assert "choose another class" in window.status and window.controller.outcome is None
    _paint(window, labels, classes, rows[6:])
    _trained(window)
    outcome = window.controller.outcome
    assert outcome.annotated.sum() == len(rows) and (outcome.classes == classes).mean() >= 0.95
    shown = window.viewer.layers["class_prediction"].data
    assert shown is outcome.image and not shown[labels == 0].any()
    assert "12 objects in this image" in window.widget.files.samples.text()

    # Doubtful objects: the first in the list is looked at, and painting over it gives it the other class
    window.key("U")
    label = int(window.widget.classify.doubtful.item(0).text().partition(":")[0])
    row = int(np.searchsorted(outcome.features.ids, label))
    assert f"Object {label}" in window.status
    other = 3 - int(outcome.classes[row])
    window.key(str(other))
    _stroke(window, labels, row)
    _trained(window)
    assert window.controller.outcome.classes[row] == other and window.controller.outcome.annotated[row]
    window.key("Ctrl+Z")
    _trained(window)
    assert not window.controller.outcome.annotated[row]

    # What is saved and exported says the same without the window
    window.controller.save(str(tmp_path / "nuclei"))
    window.wait(lambda: not window.controller.jobs.is_running())
    window.controller.export(str(tmp_path / "classes.tif"))
    window.wait(lambda: (tmp_path / "classes.csv").exists() and not window.controller.jobs.is_running())
    final = window.controller.outcome
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "classes.tif"), final.image)
    with open(tmp_path / "classes.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(line["class_id"]) for line in table] == final.classes.tolist()
    assert sum(line["annotated"] == "yes" for line in table) == len(rows)
    [found] = run_prediction_with_object_classifier(
        [image], [labels], predictor, tmp_path / "nuclei.npz", project_prediction=False, verbose=False
    )
    assert (found == final.classes)[~final.annotated].all()


def test_classes_are_named_added_and_removed(new_viewer, stores):
    window, (_, labels, _) = _open(new_viewer(), stores), KINDS[1]
    widget, session = window.widget.classes, window.session
    window.press(widget.new)
    assert [c.name for c in session.classes] == ["class 1", "class 2", "class 3"] and widget.chosen() == 3
    widget.classes.item(2).setText("mitotic")
    assert session.classes[2].name == "mitotic"
    widget.classes.item(2).setText("class 1")
    assert window.widget.status.kind == "error" and "a name of its own" in window.status
    assert widget.classes.item(2).text() == "mitotic"
    _stroke(window, labels, 0)
    strokes = window.viewer.layers["class_strokes"]
    assert (session.labels[STROKES] == 3).any() and strokes.data is session.labels[STROKES]
    assert tuple(np.round(strokes.colormap.map(3)[:3] * 255)) == (0x3C, 0xB4, 0x4B)
    window.key("0")
    _stroke(window, labels, 0)
    assert not session.labels[STROKES].any() and widget.eraser.isChecked()
    window.press(widget.undo)
    window.press(widget.remove)
    assert [c.id for c in session.classes] == [1, 2] and not session.labels[STROKES].any()
    window.key("Ctrl+Z")
    assert (session.labels[STROKES] == 3).any() and [c.id for c in session.classes] == [1, 2, 3]


def test_sentences_in_the_window(new_viewer, stores):
    viewer = new_viewer()
    window = open_window(viewer, ObjectClassifier)
    assert "Drag an image" in window.status
    window.press(window.widget.classify.train)
    assert window.widget.status.kind == "error" and "There is no image" in window.status
    image, labels, _ = KINDS[1]
    viewer.add_image(image)
    window.wait(lambda: window.session.image is not None)
    window.key("T")
    assert "There are no objects" in window.status
    wrong = viewer.add_labels(labels[:100], name="wrong")
    window.widget.classes.segmentation.setCurrentText("wrong")
    assert "has the shape (100, 256), but the image has (256, 256)" in window.status
    viewer.layers.remove(wrong)
    viewer.add_labels(labels, name="nuclei")
    window.wait(lambda: window.controller.objects is not None)
    assert window.widget.classes.segmentation.currentText() == "nuclei"
    window.press(window.widget.classify.train)
    assert "press Compute embeddings" in window.status
    window.press(window.widget.embedding.compute)
    window.ready()
    window.press(window.widget.classify.train)
    window.wait(lambda: window.widget.status.kind == "error" and "no samples yet" in window.status, 90)
    window.controller.load("nothing.npz")
    assert "no classifier at 'nothing.npz'" in window.status
    window.controller.export("x.tif")
    assert "no classes yet" in window.status


def test_strokes_come_back_when_the_image_is_opened_again(new_viewer, stores):
    window, (_, labels, classes) = _open(new_viewer(), stores), KINDS[1]
    window.widget.classify.automatic.setChecked(False)
    window.controller.session.rename_class(2, "dark")
    _paint(window, labels, classes, a_few_of_each(classes, 1))
    strokes = window.session.labels[STROKES].copy()
    window.controller.close()
    again = _open(new_viewer(), stores)
    again.wait(again.widget.banner.isVisible)
    assert "earlier strokes" in again.widget.banner.text.text()
    again.press(again.widget.banner.restore)
    np.testing.assert_array_equal(again.session.labels[STROKES], strokes)
    assert [c.name for c in again.session.classes] == ["class 1", "dark"]
    assert again.widget.classes.classes.item(1).text() == "dark"
    _trained(again)
    assert again.controller.outcome.annotated.sum() == 2


def test_a_series_goes_on_learning_from_image_to_image(new_viewer, stores, tmp_path):
    images, segmentations = ([KINDS[seed][k] for seed in (1, 2)] for k in (0, 1))
    opened = new_viewer()
    image_series_object_classifier(images, segmentations, tmp_path, list(stores.values()), viewer=opened, **MODEL)
    window = _window(opened)
    classes = KINDS[1][2]
    _paint(window, segmentations[0], classes, a_few_of_each(classes))
    _trained(window)
    window.key("N")
    window.wait(lambda: window.widget.series.index == 1)
    window.ready()
    _trained(window)
    outcome = window.controller.outcome
    assert not outcome.annotated.any() and (outcome.classes == KINDS[2][2]).mean() >= 0.95
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "image_1.csv", "image_1.tif", "object_classifier.npz",
    ]  # fmt: skip
    _paint(window, segmentations[1], KINDS[2][2], a_few_of_each(KINDS[2][2], 1))
    _trained(window)
    assert "14 objects in 2 images" in window.widget.files.samples.text()
    window.press(window.widget.series.widget.previous)
    window.wait(lambda: window.widget.series.index == 0)
    window.ready()
    window.wait(lambda: len(np.unique(window.session.labels[STROKES])) == 3)  # strokes are back by themselves
    window.controller.close()
    assert (tmp_path / "image_2.tif").exists()
    assert {len(s.classes) for s in load_classifier(tmp_path / "object_classifier.npz").samples.values()} == {12, 2}


def test_volumes(new_viewer, predictor):
    image, labels, classes = two_kinds("brightness", seed=3, shape=(6, 96, 96))
    store = precompute_image_embeddings(predictor, image, ndim=3, verbose=False)
    viewer = object_classifier(image, labels, store, viewer=new_viewer(), ndim=3, **MODEL)
    window = _window(viewer)
    ids = np.unique(labels)[1:]
    for row in a_few_of_each(classes, 2):
        i, y, x = (int(v) for v in interior_point(labels == ids[row]))
        viewer.dims.set_current_step(0, i)
        window.settle(3)
        window.key(str(int(classes[row])))
        window.drag([(y, x), (y, x + 1)])
    _trained(window)
    assert window.controller.outcome.image.shape == image.shape and window.controller.outcome.annotated.sum() == 4
    label = int(window.widget.classify.doubtful.item(0).text().partition(":")[0])
    window.widget.classify.jump_requested.emit(label)
    window_of = window.controller.features.windows[label]
    assert window_of[0].start <= viewer.dims.current_step[0] < window_of[0].stop
