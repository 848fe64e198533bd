"""The finetuning window beside an annotator in a real napari window: train a few steps, and go on with the new model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from annotator_toys import iou
from window_driver import Window, open_window

from micro_sam.cli import automatic_segmentation
from micro_sam.sam_annotator import Annotator2d, Annotator3d, TrainingWidget, annotator_2d
from micro_sam.sam_annotator.training_ui import open_for_annotator
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel
from micro_sam.sample_data import synthetic_data

FEW = {"n_iterations": "3", "n_samples": "2", "n_objects_per_batch": "3", "n_sub_iteration": "2", "n_scored": "1"}


@pytest.fixture
def nuclei():
    """A 16 bit image and its labels."""
    image, labels = synthetic_data((128, 128), seed=3, diameter=28, noise=0.01)
    return image.astype(np.uint16) * 150, labels


@pytest.fixture
def open_both(make_napari_viewer, tmp_path, monkeypatch):
    """Opens an annotator and, from its button's function, the finetuning window."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened = []

    def open_(widget_type, image, labels):
        window = open_window(make_napari_viewer(show=True), widget_type, image)
        window.controller.begin_with(labels)
        training = open_for_annotator(window.widget)
        opened.append((window, training))
        window.settle(20)
        return window, training

    yield open_
    for window, training in opened:
        training.controller.close()
        window.controller.close()


def choose_little(training: TrainingWidget, side: int = 128) -> None:
    """A training of a few seconds."""
    for name, value in FEW.items():
        training.model.more._editors[name].setText(value)
    training.model.height.setValue(side)
    training.model.width.setValue(side)


def test_annotate_finetune_and_go_on_annotating(open_both, nuclei, tmp_path, make_napari_viewer):
    image, labels = nuclei
    window, training = open_both(Annotator2d, image, labels)
    window.press(window.widget.embedding.compute)
    window.ready()
    assert not training.visibleRegion().isEmpty()  # in front of the annotator, in the same place
    assert training.data.kind.currentText() == "The open annotator"
    assert training.model.model.currentText() == "vit_t_builtin"
    choose_little(training)
    window.press(training.start)
    window.wait(lambda: training.controller.state == "done" or training.status.kind == "error", 120)
    assert training.controller.state == "done", training.status.text.text()
    assert training.data.table.rowCount() == 1 and training.data.table.item(0, 1).text() == "fine"
    assert len(training.curves.loss.curve.points) == 3 and training.curves.metric.curve.best is not None
    result = training.controller.result
    assert result.verdict == training.verdict.text() and set(result.before) == {"box_iou", "point_iou", "ais_msa"}
    assert training.use.isVisible() and len(result.examples) == 1

    before, steps = window.session.predictor, window.session.history.last
    window.press(training.use)
    window.wait(lambda: window.session.predictor is not before and not window.controller.jobs.is_running(), 60)
    assert window.session.predictor.model_name == "my_model"
    box = window.widget.embedding
    assert box.model.currentText() == result.output_path.name == "my_model.pt"
    assert str(result.output_path) in box.model.toolTip() and box.weights.path() == str(result.output_path)
    assert box.compute.text() == "Embeddings are ready ✓"
    assert not np.array_equal(_weights(window.session.predictor), _weights(before))
    np.testing.assert_array_equal(window.labels("committed"), labels)
    assert window.session.history.last is steps and window.session.image.shape == image.shape
    window.press(window.widget.automatic.run)
    window.wait(lambda: window.labels("auto").any(), 60)
    assert iou(window.labels("auto"), labels) > 0.7

    # The same file in the command line and in another window, without saying what it is
    path = str(result.output_path)
    tifffile.imwrite(tmp_path / "image.tif", image)
    flags = ["-i", str(tmp_path / "image.tif"), "-o", str(tmp_path / "found.tif"), "-d", "cpu"]
    assert automatic_segmentation.main([*flags, "-c", path]) == 0
    assert iou(tifffile.imread(tmp_path / "found.tif"), labels) > 0.7
    viewer = annotator_2d(
        image, checkpoint_path=path, device="cpu", viewer=make_napari_viewer(show=True), return_viewer=True
    )
    other = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    other.ready()
    assert other.session.predictor.model_name == "my_model"
    assert other.widget.embedding.model.currentText() == "my_model.pt"

    # A registered model, chosen in the box, is what is used then
    embedding = other.widget.embedding
    embedding.model.setCurrentText("vit_t_builtin")
    assert embedding.compute.text() == "Compute embeddings"
    other.press(embedding.compute)
    other.wait(lambda: other.session.predictor.model_name == "vit_t_builtin")
    other.ready()
    assert embedding.model.currentText() == "vit_t_builtin" and embedding.weights.path() is None
    other.controller.close()


def test_volumes_learn_from_the_annotated_slices_and_a_training_can_be_paused(open_both):
    volume, labels = (array[8:14] for array in synthetic_data((20, 96, 96), seed=4, diameter=26))
    labels = np.where((np.arange(6) % 2 == 0)[:, None, None], labels, 0)  # every second slice
    window, training = open_both(Annotator3d, volume, labels)
    choose_little(training, 96)
    training.model.more._editors["n_iterations"].setText("40")
    window.press(training.start)
    window.wait(lambda: training.curves.loss.curve.points, 120)
    assert [training.data.table.item(row, 1).text() for row in range(training.data.table.rowCount())] == [
        "fine",
        "fine",
    ]
    window.press(training.pause)
    assert training.controller.state == "paused" and training.start.text() == "Go on"
    steps = len(training.curves.loss.curve.points)
    window.press(training.start)
    window.wait(lambda: len(training.curves.loss.curve.points) > steps, 120)
    first, again = (training.curves.loss.curve.points[k][0] for k in (0, steps))
    assert first < again <= steps + 2  # it went on, and did not begin anew
    window.press(training.stop)
    window.wait(lambda: training.controller.state == "done", 120)
    assert training.curves.loss.curve.points[-1][0] < 40
    assert training.controller.result.output_path.exists()


def test_a_method_that_was_chosen_stays_when_the_window_is_opened_again(open_both, nuclei):
    window, training = open_both(Annotator2d, *nuclei)
    method = training.model.method
    assert method.currentData() == "all"  # suits the small model
    method.setCurrentIndex(method.findData("decoder"))
    method.activated.emit(method.currentIndex())  # as a click does
    assert open_for_annotator(window.widget) is training
    assert method.currentData() == "decoder"


KILLED = """
import sys
import napari, numpy as np
from test_training_window import choose_little
from window_driver import open_window
from micro_sam.sam_annotator import Annotator2d
from micro_sam.sam_annotator.training_ui import open_for_annotator
data = np.load(sys.argv[1])
window = open_window(napari.Viewer(), Annotator2d, data["image"])
window.controller.begin_with(data["labels"])
training = open_for_annotator(window.widget)
choose_little(training)
training.model.more._editors["n_iterations"].setText("12")
window.settle(10)
window.press(training.start)
window.wait(lambda: len(training.curves.loss.curve.points) >= 7 or training.status.kind == "error", 120)
print("training", len(training.curves.loss.curve.points), flush=True)
while True:
    window.settle()
"""


def test_a_training_whose_window_is_killed_goes_on_where_it_was(open_both, nuclei, tmp_path):
    np.savez(tmp_path / "data.npz", image=nuclei[0], labels=nuclei[1])
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MICROSAM_CACHEDIR": str(tmp_path / "cache")}
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "data.npz")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().split()[0] == "training"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    window, training = open_both(Annotator2d, *nuclei)
    choose_little(training)
    training.model.more._editors["n_iterations"].setText("12")
    window.press(training.start)
    window.wait(lambda: training.controller.state == "done" or training.status.kind == "error", 120)
    assert training.controller.state == "done", training.status.text.text()
    steps = [step for step, _ in training.curves.loss.curve.points]
    assert training.controller.result.output_path.name == "my_model.pt"
    assert max(steps) == 12 and steps[:3] == [2, 4, 6]  # what the curve knows of the epochs before, then single steps
    assert len(steps) == len(set(steps))


def _weights(predictor) -> np.ndarray:
    return predictor.model.mask_decoder.iou_token.weight.detach().cpu().numpy()
