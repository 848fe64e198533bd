"""The 3d annotator in a real napari window: keys, mouse events, slices, and what goes on while something is computed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from annotator_toys import iou, nuclei, place
from window_driver import Window, open_window

from micro_sam.cli import annotator_3d as command
from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.models.predictor import get_sam_model
from micro_sam.sam_annotator import Annotator3d, annotator_3d
from micro_sam.sam_annotator.session import AnnotatedImage, find_unfinished, replay
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

SCALE = (3.0, 0.5, 0.5)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return nuclei()[0]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return nuclei()[1]


@pytest.fixture(scope="module")
def store(volume, tmp_path_factory) -> Path:
    """The embeddings of the volume, on disk."""
    path = tmp_path_factory.mktemp("volume") / "volume.zarr"
    precompute_image_embeddings(get_sam_model("vit_t_builtin", device="cpu"), volume, path, ndim=3, verbose=False)
    return path


@pytest.fixture
def open_3d(make_napari_viewer, store, tmp_path, monkeypatch):
    """Opens the annotator; embeddings are taken from the disk."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened: list[Window] = []

    def open_(image: np.ndarray, ready: bool = True, **options) -> Window:
        window = open_window(make_napari_viewer(show=True), Annotator3d, image, **options)
        opened.append(window)
        if ready:
            window.widget.embedding.store.line.setText(str(store))
            window.press(window.widget.embedding.compute)
            window.ready()
        return window

    yield open_
    for window in opened:
        window.controller.close()


def look(window: Window, z: int) -> None:
    window.viewer.dims.set_current_step(0, z)
    window.settle(1)


def propagated(window: Window) -> None:
    window.wait(lambda: not window.controller.jobs.is_running())
    window.settle()


def test_click_propagate_look_at_what_is_doubtful_commit_next(open_3d, volume, labels):
    window = open_3d(volume, scale=SCALE)
    widget = window.widget.propagation
    assert window.widget.width() <= 320
    headings = [window.widget.sections.itemAt(k).widget() for k in range(1, 7)]
    assert [h.heading.text()[3] for h in headings] == list("123456") and widget.last.value() == 3
    for part in (widget, window.widget.volume):
        assert part.minimumSizeHint().width() <= 275  # what the 3d annotator adds is not cut off
    widget.doubt.setValue(0.7)  # between what models say where the object is, and where it is not
    look(window, 2)
    window.click(*place(1))
    window.answered()
    current = window.labels("current")
    assert iou(current[2], labels[2] == 1) > 0.75 and not current[[0, 1, 3]].any()
    assert "Propagate the object [Shift+S]" in window.status
    window.key("Shift+S")
    propagated(window)
    assert min(iou(current[z], labels[z] == 1) for z in (1, 2, 3)) > 0.75
    assert window.status.startswith("The object reaches from slice") and widget.doubtful.rows.count() == 1
    window.key("J")
    assert window.controller.layers.current_slice() == 0 and current[0].any()
    window.key("T")
    window.click(*place(1))
    window.answered()
    assert not current[0].any() and not widget.doubtful.rows.count()
    window.key("Shift+S")
    propagated(window)
    assert window.session.filled_slices("current") == [1, 2, 3]
    window.key("C")
    committed = window.labels("committed")
    assert min(iou(committed[z] == 1, labels[z] == 1) for z in (1, 2, 3)) > 0.75 and not committed[0].any()
    assert not window.session.prompts and not current.any()
    made = committed.copy()
    steps = 0
    while window.session.history.last is not None:
        window.key("Ctrl+Z")
        steps += 1
    assert steps <= 6 and not committed.any()
    for _ in range(steps):
        window.key("Ctrl+Shift+Z")
    np.testing.assert_array_equal(committed, made)


def test_limits_settings_and_negative_slices(open_3d, volume):
    window = open_3d(volume)
    widget = window.widget.propagation
    look(window, 2)
    widget.first.setValue(1)
    widget.last.setValue(2)
    assert window.session.z_limits == (1, 2)
    widget.projection.setCurrentIndex(widget.projection.findData("box"))
    widget.iou.setValue(0.3)
    assert window.session.propagation.projection.box and not window.session.propagation.projection.mask
    assert window.session.propagation.iou_threshold == 0.3
    window.click(*place(2))
    window.answered()
    window.press(widget.propagate)
    propagated(window)
    assert window.session.filled_slices("current") == [1, 2]
    look(window, 3)
    widget.limit_here.emit(1)
    assert window.session.z_limits == (1, None)
    window.key("Shift+C")
    window.key("Shift+S")
    assert window.widget.status.kind == "error" and "at least one slice" in window.status
    window.key("J")
    assert "no doubtful slice" in window.status


def test_painting_and_working_on_while_it_propagates(open_3d, volume, labels):
    window = open_3d(volume)
    look(window, 3)
    window.click(*place(3))
    window.answered()
    window.key("Shift+S")
    assert window.controller.jobs.is_running("propagation")
    window.key("Shift+S")
    assert "already" in window.status
    window.key("C")  # as soon as it is done
    assert "as soon as" in window.status and not window.labels("committed").any()
    window.wait(lambda: window.labels("committed").any())
    committed = window.labels("committed")
    assert min(iou(committed[z] == 1, labels[z] == 3) for z in range(4)) > 0.7

    # Cancelled: what it reached is kept, as one step
    window.click(*place(4))
    window.answered()
    window.key("Shift+S")
    window.wait(lambda: len(window.session.filled_slices("current")) > 1)
    window.press(window.widget.status.cancel)
    reached = window.session.filled_slices("current")
    assert not window.controller.jobs.is_running() and len(reached) > 1
    window.settle(60)
    assert window.session.filled_slices("current") == reached and "Ctrl+Z takes it back" in window.status
    window.key("Ctrl+Z")
    assert window.session.filled_slices("current") == [3]
    window.key("Shift+S")
    window.key("Ctrl+Z")  # while it runs
    window.settle(60)
    assert not window.controller.jobs.is_running("propagation")
    assert window.session.filled_slices("current") in ([3], [])
    window.key("Shift+C")

    # Painted by hand, in slices that the current object does not touch and in its own
    layer = window.viewer.layers["committed_objects"]
    look(window, 0)
    window.viewer.layers.selection = {layer}
    layer.selected_label, layer.brush_size, layer.mode = 8, 8, "paint"
    window.drag([(95, 20), (95, 60), (95, 100)])
    strokes = committed == 8
    assert strokes[0].sum() > 400 and not strokes[1:].any()
    layer.mode = "pan_zoom"
    window.press(window.widget.segment.tools["point"])
    look(window, 2)
    window.click(*place(2))
    window.answered()
    window.key("Shift+S")
    propagated(window)
    current = window.viewer.layers["current_object"]
    look(window, 1)
    window.viewer.layers.selection = {current}
    current.selected_label, current.brush_size, current.mode = 1, 6, "paint"
    window.drag([(10, 10), (10, 40)])
    corner = window.labels("current")[1, :20, :60].copy()
    assert corner.sum() > 100
    window.key("Shift+S")
    propagated(window)
    np.testing.assert_array_equal(window.labels("current")[1, :20, :60], corner)
    window.key("C")
    np.testing.assert_array_equal(committed == 8, strokes)
    assert (committed[1, :20, :60][corner > 0] == 9).all() and iou(committed[2] == 9, labels[2] == 2) > 0.75

    window.click(*place(1))
    window.answered()
    window.key("Shift+S")
    window.viewer.close()  # while it runs
    assert not window.controller.jobs.is_running()


def test_automatic_segmentation_of_a_slice_and_of_the_volume(open_3d, volume, labels):
    window = open_3d(volume)
    auto = window.labels("auto")
    for z in (1, 2):
        look(window, z)
        window.press(window.widget.automatic.run)
        window.wait(lambda z=z: auto[z].any() and not window.controller.jobs.is_running())
    assert not auto[[0, 3]].any() and not set(np.unique(auto[1])) & set(np.unique(auto[2])) - {0}
    window.widget.volume.what.setCurrentIndex(1)
    window.press(window.widget.automatic.run)
    window.wait(lambda: auto.any(axis=(1, 2)).all() and not window.controller.jobs.is_running())
    for label in (1, 2, 4):
        inside = auto[labels == label]
        best = np.bincount(inside).argmax()
        assert best and iou(auto == best, labels == label) > 0.6
    objects = len(np.unique(auto))
    window.widget.volume.extent.setValue(4)  # disc 1 has three slices
    window.wait(lambda: len(np.unique(auto)) < objects and not window.controller.jobs.is_running())
    assert (auto[labels == 1] > 0).mean() < 0.2
    window.key("Ctrl+Z")
    assert len(np.unique(auto)) == objects
    window.widget.volume.gap.setValue(2)
    window.widget.volume.method.setCurrentIndex(window.widget.volume.method.findData("volume"))
    assert window.widget.status.kind == "error" and "gap_closing" in window.status
    window.press(window.widget.automatic.commit)
    assert not auto.any() and len(np.unique(window.labels("committed"))) == objects


def test_objects_are_corrected_split_merged_filled_and_deleted_in_3d(open_3d, volume, labels):
    window = open_3d(volume, scale=SCALE)
    committed = window.labels("committed")
    (y3, x3), (y2, x2) = place(3), place(2)
    start = np.where((labels == 3) & (np.arange(256) > x3), 0, labels)
    start[(2, *place(4))] = 0
    window.session.put("committed", start, "Loaded labels")
    look(window, 2)
    window.press(window.widget.edit.tools["correct"])
    window.click(y3, x3 - 5)
    assert window.session.correcting.label == 3 and window.session.filled_slices("current") == [0, 1, 2, 3]
    others = committed.copy()
    window.click(y3, x3 + 6)
    window.answered()
    window.key("C")
    assert iou(committed[2] == 3, labels[2] == 3) > 0.5
    np.testing.assert_array_equal(committed[1] == 3, start[1] == 3)  # only this slice was changed
    np.testing.assert_array_equal(committed[committed != 3], others[committed != 3])

    window.press(window.widget.edit.tools["split"])
    window.drag([(y2, x2 - 25), (y2, x2), (y2, x2 + 25)])
    parts = [len(np.unique(found[own == 2])) for found, own in zip(committed, labels)]
    assert parts == [2, 2, 2, 2], window.status
    window.key("Shift+M")
    window.drag([(y2 - 8, x2), (y2, x2), (y2 + 8, x2)])
    np.testing.assert_array_equal(committed == 2, labels == 2)
    window.press(window.widget.edit.tools["fill"])
    window.click(*place(4))
    assert committed[(2, *place(4))] == 4
    window.key("Escape")
    window.hover(*place(1))
    window.key("Shift+D")
    assert not (committed == 1).any()
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(committed == 1, labels == 1)
    window.viewer.dims.ndisplay = 3
    window.key("Shift+D")
    assert window.widget.status.kind == "error" and "slices" in window.status


def test_the_slice_in_view_comes_first_and_can_be_annotated_while_the_rest_is_computed(
    make_napari_viewer, volume, labels, tmp_path, monkeypatch
):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    lazy = da.from_array(volume[1:], chunks=(1, 96, 96))
    viewer = make_napari_viewer(show=True)
    viewer.add_image([lazy, lazy[:, ::2, ::2]], multiscale=True, scale=SCALE, name="pyramid")
    window = open_window(viewer, Annotator3d)
    look(window, 2)
    window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None)
    window.click(*place(2))
    window.wait(lambda: window.labels("current")[2].any())
    assert window.controller.jobs.is_running("embeddings") and not window.session.embeddings.is_complete
    assert iou(window.labels("current")[2], labels[3] == 2) > 0.75
    window.key("C")
    assert window.labels("committed")[2].any()
    window.click(*place(4))
    window.answered()
    window.key("Shift+S")  # waits for the other slices
    assert "as soon as" in window.status and not window.controller.jobs.is_running("propagation")
    window.wait(lambda: window.session.labels["reached"].any() and not window.controller.jobs.is_running(), 60)
    assert min(iou(window.labels("current")[z], labels[z + 1] == 4) for z in range(3)) > 0.7
    window.controller.close()


def test_the_function_sets_everything(make_napari_viewer, volume, labels, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    options = {"model_type": "vit_t_builtin", "device": "cpu", "return_viewer": True, "scale": SCALE}
    viewer = annotator_3d(
        volume, str(store), labels, viewer=make_napari_viewer(show=True), precompute_amg_state=True, **options,
        projection="box", iou_threshold=0.4, z_limits=(1, 2), min_z_extent=2, live=False,
    )  # fmt: skip
    window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    window.ready()
    widget, session = window.widget.propagation, window.session
    assert session.z_limits == (1, 2) == widget.limits() and session.propagation.projection.box
    assert widget.projection.currentData() == "box" and widget.iou.value() == 0.4
    assert window.widget.volume.settings().min_z_extent == 2 and not session.options.live
    assert len(window.controller.automatic._ready) == 4
    np.testing.assert_array_equal(window.labels("committed"), labels)
    look(window, 3)
    window.hover(*place(1))
    window.key("Shift+D")
    look(window, 2)
    window.click(*place(1))
    assert not window.labels("current").any()
    window.key("Shift+S")  # also segments what was not segmented yet
    propagated(window)
    assert session.filled_slices("current") == [1, 2] and iou(window.labels("current")[2], labels[2] == 1) > 0.7
    window.controller.close()
    annotator_3d(volume, str(store), viewer=viewer, z_limits=(3, 9), **options)
    window = next(
        Window(viewer, p) for p in viewer.window._qt_window.findChildren(AnnotatorPanel) if not p.controller._closed
    )
    assert window.session.z_limits == (None, None)
    window.controller.close()


def test_the_command_passes_on_what_it_was_given(tmp_path, monkeypatch, volume, capsys):
    import micro_sam.sam_annotator as annotators

    calls = []
    monkeypatch.setattr(annotators, "annotator_3d", lambda *args, **kwargs: calls.append((args, kwargs)))
    path = str(tmp_path / "volume.npy")
    np.save(path, volume)
    flags = ["-i", path, "-m", "vit_t_builtin", "-d", "cpu", "--projection", "points_and_mask", "--z_limits", "0", "2"]
    assert command.main([*flags, "--box_extension", "0.1"]) == 0
    [((array,), given)] = calls
    assert array.shape == volume.shape and given["projection"] == "points_and_mask" and given["z_limits"] == [0, 2]
    assert given["box_extension"] == 0.1 and "iou_threshold" not in given
    assert command.main(["-i", path, "--z_limits", "2", "9"]) == 2
    np.save(tmp_path / "plane.npy", volume[0])
    assert command.main(["-i", str(tmp_path / "plane.npy")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "0 to 3" in errors[0] and "annotator_2d" in errors[1] and len(errors) == 2


KILLED = """
import sys
import napari, numpy as np
from window_driver import open_window
from micro_sam.sam_annotator import Annotator3d
from annotator_toys import place
window = open_window(napari.Viewer(), Annotator3d, np.load(sys.argv[1]))
window.widget.embedding.store.line.setText(sys.argv[2])
window.press(window.widget.embedding.compute)
window.ready()
window.viewer.dims.set_current_step(0, 3)
window.click(*place(2))
window.answered()
window.key("C")
window.click(*place(3))
window.answered()
window.key("Shift+S")
window.wait(lambda: len(window.session.filled_slices("current")) > 1)
np.savez(sys.argv[3], **window.session.labels)
print("working", flush=True)
while True:
    pass
"""


def test_a_window_that_is_killed_while_it_propagates_comes_back(open_3d, volume, store, tmp_path):
    np.save(tmp_path / "volume.npy", volume)
    folders = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    arguments = [sys.executable, "-c", KILLED, *map(str, (tmp_path / "volume.npy", store, tmp_path / "labels.npz"))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().strip() == "working"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    expected = np.load(tmp_path / "labels.npz")
    work = find_unfinished(AnnotatedImage.from_array(volume, ndim=3), "annotator_3d", store)
    assert work.crashed and work.n_objects == 1
    np.testing.assert_array_equal(replay(work.folder).current, expected["current"])
    window = open_3d(volume)
    window.controller._look_for_unfinished()  # the journal lies beside the embeddings
    window.wait(lambda: window.widget.banner.isVisible())
    window.press(window.widget.banner.restore)
    for key in expected:
        np.testing.assert_array_equal(window.labels(key), expected[key])
    window.key("Shift+S")  # and goes on
    propagated(window)
    assert window.session.filled_slices("current") == [0, 1, 2, 3]


def test_two_volumes_side_by_side(open_3d, volume):
    first, second = open_3d(volume), open_3d(volume)
    look(first, 1)
    look(second, 3)
    first.click(*place(2))
    first.answered()
    second.click(*place(4))
    second.answered()
    first.key("Shift+S")
    propagated(first)
    assert first.session.filled_slices("current") == [0, 1, 2, 3]
    assert second.session.filled_slices("current") == [3] and not second.labels("reached").any()
    assert ModelChoice("vit_t_builtin", device="cpu") == second.controller._loaded
