"""The 2d annotator in a real napari window: keys, mouse events on the canvas, and the labels that come of it."""

from __future__ import annotations

import numpy as np
import pytest
from annotator_toys import DISCS, iou
from window_driver import Window, open_window

from micro_sam.sam_annotator import Annotator2d
from micro_sam.sam_annotator.session.prompts import Point


@pytest.fixture
def open_2d(make_napari_viewer, tmp_path, monkeypatch):
    """Opens the annotator with an image, as from the Plugins menu."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened: list[Window] = []

    def open_(image: np.ndarray | None, ready: bool = True, **options) -> Window:
        window = open_window(make_napari_viewer(show=True), Annotator2d, image, **options)
        opened.append(window)
        if ready:
            window.press(window.widget.embedding.compute)
            window.ready()
        return window

    yield open_
    for window in opened:
        window.controller.close()


def test_click_see_commit_next(open_2d, image, truth):
    window = open_2d(image)
    assert [layer.name for layer in window.viewer.layers][1:] == [
        "committed_objects", "auto_segmentation", "current_object", "prompts", "point_prompts",
    ]  # fmt: skip
    assert window.widget.width() <= 320 and "click an object" in window.status
    for label, (y, x, _) in DISCS.items():
        window.click(y, x)
        window.answered()
        assert iou(window.labels("current"), truth == label) > 0.75
        window.key("C")
        assert iou(window.labels("committed") == label, truth == label) > 0.75
        assert not len(window.controller.layers.points.data)
    assert window.viewer.layers["committed_objects"].data is window.labels("committed")

    committed = window.labels("committed").copy()
    for _ in DISCS:
        window.key("Ctrl+Z")  # the commit
        window.key("Ctrl+Z")  # the point and its mask
    assert not window.labels("committed").any() and not len(window.controller.layers.points.data)
    for _ in range(2 * len(DISCS)):
        window.key("Ctrl+Shift+Z")
    np.testing.assert_array_equal(window.labels("committed"), committed)

    # Negative points, without live preview
    window.press(window.widget.segment.live)
    window.click(*DISCS[1][:2])
    window.key("T")
    window.click(100, 100)
    assert [p.positive for p in window.session.prompts.points] == [True, False]
    assert not window.labels("current").any() and "Press S" in window.status
    window.key("S")
    window.answered()
    assert window.labels("current")[50, 50] and not window.labels("current")[100, 100]
    window.key("C")
    assert window.widget.status.kind == "error" and "lies on committed objects" in window.status
    window.key("Shift+C")
    assert not window.labels("current").any() and not window.session.prompts
    assert window.controller.layers.point_label == "negative"


def test_boxes_and_ellipses(open_2d, image, truth):
    window = open_2d(image)
    window.press(window.widget.segment.tools["rectangle"])
    seen = []
    y, x, r = DISCS[4]
    steps = np.linspace(-r, r, 6)
    window.drag(
        [(y + s, x + s) for s in steps], between=lambda: (window.settle(4), seen.append(len(window.session.prompts)))
    )
    window.answered()
    assert window.session.prompts.shapes[0].kind == "rectangle" and not any(seen)
    assert iou(window.labels("current"), truth == 4) > 0.75
    y, x, r = DISCS[1]
    window.drag([(y - r, x - r), (y, x), (y + r, x + r)])
    window.answered()
    assert iou(window.labels("current") == 2, truth == 1) > 0.75
    window.key("C")
    assert set(np.unique(window.labels("committed"))) == {0, 1, 2}

    window.press(window.widget.segment.tools["ellipse"])
    y, x, r = DISCS[2]
    window.drag([(y - r, x - r), (y, x), (y + r, x + r)])
    window.answered()
    assert window.session.prompts.shapes[0].kind == "ellipse"
    assert iou(window.labels("current"), truth == 2) > 0.6
    window.key("Shift+C")


def test_the_mask_follows_while_a_prompt_is_drawn_or_dragged(open_2d, image, truth):
    window = open_2d(image)
    shown = []

    def look() -> None:
        """What is shown once the model has answered, and how many prompts count already."""
        window.wait(lambda: not window.controller.previews._worker.is_busy)
        window.settle(2)
        shown.append((window.labels("current").copy(), window.session.prompts))

    # A box, while it is drawn
    window.press(window.widget.segment.tools["rectangle"])
    y, x, r = DISCS[4]
    window.drag([(y + s, x + s) for s in np.linspace(-r, r, 5)], between=look)
    assert not any(prompts for _, prompts in shown)  # none of it is a step
    assert [iou(mask, truth == 4) > 0.75 for mask, _ in shown[-1:]] == [True]
    window.answered()
    assert iou(window.labels("current"), truth == 4) > 0.75 and len(window.session.prompts.shapes) == 1

    # The box, while it is moved onto another object
    shown.clear()
    before = window.session.prompts
    window.viewer.layers["prompts"].mode = "select"
    path = [(y + s * (DISCS[1][0] - y), x + s * (DISCS[1][1] - x)) for s in np.linspace(0, 1, 5)]
    window.click(*path[0])
    window.drag(path, between=look)
    assert all(prompts == before for _, prompts in shown)
    assert iou(shown[-1][0], truth == 1) > 0.75 and iou(shown[0][0], truth == 1) < 0.1
    window.answered()
    assert iou(window.labels("current"), truth == 1) > 0.75
    window.key("Ctrl+Z")
    assert iou(window.labels("current"), truth == 4) > 0.75 and window.session.prompts == before
    window.key("Shift+C")

    # A point; one step brings it back
    window.press(window.widget.segment.tools["point"])
    window.click(*DISCS[3][:2])
    window.answered()
    shown.clear()
    window.viewer.layers["point_prompts"].mode = "select"
    start, end = DISCS[3][:2], DISCS[1][:2]
    window.drag([tuple(np.add(start, s * np.subtract(end, start))) for s in np.linspace(0, 1, 5)], between=look)
    assert iou(shown[-1][0], truth == 1) > 0.75
    window.answered()
    assert window.labels("current")[50, 50] and not window.labels("current")[140, 60]
    window.key("Ctrl+Z")
    assert window.labels("current")[140, 60] and not window.labels("current")[50, 50]
    assert tuple(window.controller.layers.points.data[0]) == pytest.approx(start, abs=1.5)

    # Without live preview nothing is shown before S
    window.press(window.widget.segment.live)
    window.key("Shift+C")
    shown.clear()
    window.press(window.widget.segment.tools["rectangle"])
    window.drag([(y + s, x + s) for s in np.linspace(-r, r, 5)], between=look)
    assert not any(mask.any() for mask, _ in shown) and not window.labels("current").any()


def test_automatic_segmentation_and_edits_by_click_and_stroke(open_2d, image, truth):
    window = open_2d(image)
    window.press(window.widget.automatic.run)
    window.wait(lambda: window.labels("auto").any())
    for label in DISCS:
        found = window.labels("auto")[truth == label]
        assert iou(window.labels("auto") == np.bincount(found).argmax(), truth == label) > 0.5
    first = window.labels("auto").copy()
    form = window.widget.automatic.form
    form._inputs["min_size"].setValue(2000)
    window.wait(lambda: (window.labels("auto") != first).any())
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(window.labels("auto"), first)
    window.press(window.widget.automatic.commit)
    assert not window.labels("auto").any() and window.labels("committed").any()

    window.controller.session.put("committed", truth, "Loaded labels")
    window.press(window.widget.edit.tools["split"])
    window.drag([(50, 105), (50, 140), (50, 175)])
    assert set(np.unique(window.labels("committed"))) == {0, 1, 2, 3, 4, 5}, window.status
    assert "stroke" not in [layer.name for layer in window.viewer.layers]
    window.key("Shift+M")
    assert window.widget.edit.tools["merge"].isChecked()
    window.drag([(35, 140), (50, 140), (66, 140)])
    np.testing.assert_array_equal(window.labels("committed") > 0, truth > 0)
    assert len(np.unique(window.labels("committed"))) == 5
    window.key("Escape")
    assert window.controller.tools.tool is None
    window.hover(*DISCS[4][:2])
    window.key("Shift+D")
    assert not window.labels("committed")[DISCS[4][:2]]
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(window.labels("committed") == 4, truth == 4)

    # Painting by hand is a step like all others
    before = window.labels("committed").copy()
    layer = window.viewer.layers["committed_objects"]
    window.viewer.layers.selection = {layer}
    layer.selected_label, layer.brush_size, layer.mode = 9, 8, "paint"
    window.drag([(95, 20), (95, 60), (95, 100)])
    assert (window.labels("committed") == 9).sum() > 400
    layer.mode = "erase"
    window.drag([(95, 60), (96, 60)])
    window.key("Ctrl+Z")
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(window.labels("committed"), before)


def test_objects_of_any_layer_are_corrected_with_scale_and_rgb(open_2d, image, truth):
    colors = np.stack([image, image // 2, image // 3], axis=-1)
    window = open_2d(colors, rgb=True, scale=(0.5, 0.25), name="stained")
    other = np.where((truth == 3) & (np.arange(192) > 62), 0, truth * 10).astype(np.uint16)
    window.viewer.add_labels(other, name="cellpose", scale=(0.5, 0.25))
    window.press(window.widget.edit.tools["correct"])
    window.click(140, 50)
    assert window.session.correcting.label == 30 and "object 30" in window.status
    assert not (other == 30).any() and window.labels("current").any()
    before = other.copy()
    window.click(140, 75)
    window.answered()
    window.key("C")
    assert iou(other == 30, truth == 3) > 0.5
    np.testing.assert_array_equal(other[other != 30], before[other != 30])
    assert window.session.correcting is None and not window.labels("committed").any()
    for name in ("committed_objects", "point_prompts"):
        np.testing.assert_allclose(window.viewer.layers[name].scale, (0.5, 0.25))
    window.viewer.layers["stained"].scale = (2, 2)
    np.testing.assert_allclose(window.viewer.layers["current_object"].scale, (2, 2))


def test_two_viewers_are_independent(open_2d, image, truth):
    first, second = open_2d(image), open_2d(image.T.copy())
    first.click(*DISCS[2][:2])
    second.click(*DISCS[3][1::-1])
    first.answered()
    second.answered()
    assert iou(first.labels("current"), truth == 2) > 0.75 and iou(second.labels("current"), truth.T == 3) > 0.5
    first.key("T")
    assert second.controller.layers.point_label == "positive"
    second.key("C")
    assert first.labels("current").any() and not first.labels("committed").any()
    assert second.labels("committed").any() and not second.labels("current").any()
    first.key("Ctrl+Z")
    assert second.labels("committed").any() and not first.labels("current").any()
    first.viewer.close()
    second.click(*DISCS[1][1::-1])
    second.answered()
    assert second.session.prompts.points == (Point(50, 50),) or second.labels("current").any()


def test_work_comes_back_in_a_new_window(open_2d, image):
    window = open_2d(image)
    window.click(*DISCS[1][:2])
    window.answered()
    window.key("C")
    window.click(*DISCS[2][:2])
    window.answered()
    committed, current = window.labels("committed").copy(), window.labels("current").copy()
    window.viewer.close()

    window = open_2d(image, ready=False)
    window.wait(lambda: window.widget.banner.isVisible())
    assert "1 object" in window.widget.banner.text.text()
    window.press(window.widget.banner.restore)
    np.testing.assert_array_equal(window.labels("committed"), committed)
    np.testing.assert_array_equal(window.labels("current"), current)
    assert len(window.controller.layers.points.data) == 1 and not window.widget.banner.isVisible()
    window.key("Ctrl+Z")
    window.key("Ctrl+Z")
    assert not window.labels("committed").any()


def test_layers_deleted_renamed_and_images_replaced(open_2d, image, truth, tmp_path):
    window = open_2d(image)
    window.click(*DISCS[1][:2])
    window.answered()
    window.key("C")
    layers = window.viewer.layers
    layers["committed_objects"].name = "my cells"
    layers["point_prompts"].name = "my points"
    window.click(*DISCS[2][:2])
    window.answered()
    window.key("C")
    committed = window.labels("committed").copy()
    assert len(np.unique(committed)) == 3 and layers["my cells"].data is window.labels("committed")
    for name in ("my cells", "my points", "current_object", "prompts"):
        layers.remove(name)
    window.wait(lambda: "committed_objects" in layers and "point_prompts" in layers and "prompts" in layers)
    np.testing.assert_array_equal(layers["committed_objects"].data, committed)
    window.click(*DISCS[3][:2])
    window.answered()
    window.key("C")
    assert iou(window.labels("committed") == 3, truth == 3) > 0.7

    # Other data in the layer: labels stay, embeddings do not
    image_layer = window.controller.layers.image
    image_layer.data = image[::-1].copy()
    assert window.session.embeddings is None and (window.labels("committed") == 3).any()
    assert "compute its embeddings" in window.status
    window.click(100, 100)
    window.key("S")
    assert window.widget.status.kind == "error"

    # Another image: a new session, and the old labels stay as a layer
    window.viewer.add_image(image[:100, :150].copy(), name="second")
    window.widget.embedding.image.setCurrentText("second")
    window.settle()
    assert window.labels("committed").shape == (100, 150) and not window.labels("committed").any()
    kept = next(layer for layer in layers if layer.name.startswith("committed_objects of"))
    assert len(np.unique(kept.data)) == 4
    window.press(window.widget.embedding.compute)
    window.ready()
    window.click(*DISCS[1][:2])
    window.answered()
    assert iou(window.labels("current"), truth[:100, :150] == 1) > 0.5
    layers.remove("second")
    window.settle()
    assert window.controller.layers.image is None


def test_jobs_errors_and_closing(open_2d, image, tmp_path, monkeypatch):
    window = open_2d(np.tile(image, (3, 3)), ready=False)
    embedding = window.widget.embedding
    window.key("S")
    assert window.widget.status.kind == "error" and "Compute embeddings" in window.status

    locked = tmp_path / "locked"
    locked.write_text("a file where a folder is expected")
    embedding.store.line.setText(str(locked / "cells.zarr"))
    window.press(embedding.compute)
    window.wait(lambda: window.widget.status.kind == "error" and "press" not in window.status)
    assert str(locked) in window.status and window.status.endswith(".")
    window.wait(lambda: not window.widget.status.bar.isVisible())  # hidden when the job has ended, just after its error

    embedding.store.line.setText("/sys/cells.zarr")  # read-only for everybody, also for root
    window.press(embedding.compute)
    window.wait(lambda: window.widget.status.kind == "error" and "/sys" in window.status)
    assert "writable" in window.status

    embedding.store.line.setText("")
    embedding.tiling.setCurrentIndex(embedding.tiling.findData("own"))
    for spin, value in zip(embedding.tile.findChildren(type(embedding.halo.children()[1])), (192, 192)):
        spin.setValue(value)
    window.press(embedding.compute)
    window.wait(lambda: window.session.embeddings is not None)
    window.controller.compute()  # a second click changes nothing
    assert window.controller.jobs.is_running("embeddings") and embedding.compute.text() == "Cancel"
    window.press(embedding.compute)
    window.settle()
    assert not window.controller.jobs.is_running() and embedding.compute.text() == "Compute embeddings"
    assert "Cancelled" in window.status
    window.press(embedding.compute)
    window.wait(lambda: window.controller.jobs.is_running("embeddings"))
    window.viewer.close()  # while the job runs
    assert not window.controller.jobs.is_running()
