"""Going through doubtful objects in a real napari window: buttons, keys, where the view is, and the labels that come of it."""

from __future__ import annotations

import numpy as np
import pytest
from annotator_toys import iou, nuclei
from review_toys import small_with_errors
from window_driver import Window, open_window

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.sam_annotator import Annotator2d, Annotator3d
from micro_sam.sam_annotator.layers import OUTLINE_NAME, camera_of
from micro_sam.sam_annotator.session.loading import Ready


@pytest.fixture(scope="module")
def small_embeddings(predictor):
    return precompute_image_embeddings(predictor, small_with_errors()[0], verbose=False)


@pytest.fixture
def open_with(make_napari_viewer, predictor, tmp_path, monkeypatch):
    """Opens an annotator with an image and its embeddings."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened: list[Window] = []

    def open_(widget_type: type, image: np.ndarray, embeddings, **options) -> Window:
        window = open_window(make_napari_viewer(show=True), widget_type, image, **options)
        opened.append(window)
        window.controller._on_ready(window.widget.embedding.model_choice(), Ready(predictor, embeddings))
        window.settle(5)
        return window

    yield open_
    for window in opened:
        window.controller.close()


def listed(window: Window) -> None:
    window.wait(lambda: not window.controller.jobs.is_running("review"), 60)
    window.settle()


def shown_text(window: Window) -> str:
    return window.widget.review.text.text()


def looked_at(window: Window) -> int:
    """The object in the outline; the view is on it, and the panel names it."""
    window.settle(2)
    doubt = window.controller._here()
    rows, columns = doubt.window[-2:]
    middle = [(s.start + s.stop - 1) / 2 for s in (rows, columns)]
    centre = np.asarray(camera_of(window.viewer).center)[-2:]
    layer = window.controller.layers.image
    assert np.allclose(centre, layer.data_to_world((0,) * (layer.ndim - 2) + tuple(middle))[-2:], atol=1)
    assert f"(id {doubt.label})" in shown_text(window) and f"doubt {doubt.doubt:.2f}" in shown_text(window)
    return doubt.label


def outlined(window: Window) -> np.ndarray:
    """The corners of the yellow outline."""
    layer = window.viewer.layers[OUTLINE_NAME]
    return np.concatenate(layer.data)


def test_keep_delete_correct_and_undo_one_after_another(open_with, small_embeddings):
    image, labels, wrong, errors = small_with_errors()
    window = open_with(Annotator2d, image, small_embeddings, scale=(0.5, 0.5))
    review, n_layers = window.widget.review, len(window.viewer.layers)
    assert not window.widget.review_folded.isExpanded()
    window.key("G")
    assert window.widget.status.kind == "error" and "No object is being reviewed" in window.status
    window.key("W")
    assert window.widget.review_folded.isExpanded() and "There are no objects to review" in window.status
    window.controller.begin_with(wrong)
    window.press(review.list)
    assert window.controller.jobs.is_running("review")
    listed(window)
    n_objects = len(np.unique(wrong)) - 1
    order = [doubt.label for doubt in window.session.review.doubts]
    assert review.list.text() == "List them again"
    assert len(order) == n_objects and set(order[:6]) >= set(errors.values()), (order, errors)
    assert review.isVisible() and window.widget.width() <= 320

    # The invented one comes first: it is outlined, and deleted
    assert looked_at(window) == errors["invented"] == order[0]
    assert f"Object 1 of {n_objects}" in shown_text(window) and f"0 of {n_objects} reviewed" in shown_text(window)
    there = np.argwhere(wrong == errors["invented"])
    np.testing.assert_allclose(outlined(window).min(axis=0), there.min(axis=0) - 0.5)
    np.testing.assert_allclose(outlined(window).max(axis=0), there.max(axis=0) + 0.5)
    size = (there.max(axis=0) - there.min(axis=0)).max() * 0.5 * camera_of(window.viewer).zoom
    view = min(window.canvas.width(), window.canvas.height())
    assert 0.1 * view < size + 1 and size < 0.6 * view  # neither a dot nor the whole view
    camera_of(window.viewer).zoom /= 20
    window.key("Q")
    window.key("W")
    assert looked_at(window) == order[0]
    size = (there.max(axis=0) - there.min(axis=0)).max() * 0.5 * camera_of(window.viewer).zoom
    assert 0.1 * view < size + 1 and size < 0.6 * view
    assert window.viewer.layers.selection.active is window.controller.layers.points
    window.press(review.delete)
    assert not (window.labels("committed") == errors["invented"]).any() and looked_at(window) == order[1]
    assert f"1 of {n_objects} reviewed" in shown_text(window)
    assert window.status.startswith("Keep the object [G], correct it [Shift+W]")
    window.wait(lambda: not review.correct.visibleRegion().isEmpty(), 5)  # the panel scrolls

    # Stepping decides nothing
    window.key("W")
    assert looked_at(window) == order[2]
    window.press(review.previous)
    window.key("Q")
    assert window.controller._here().label == order[0] and "(deleted)" in shown_text(window)
    assert OUTLINE_NAME not in window.viewer.layers and not review.keep.isEnabled()
    window.key("G")
    assert window.widget.status.kind == "error" and "not there any more" in window.status
    window.press(review.next)

    # Keep, with the key, and take it back
    window.key("G")
    assert window.session.verdicts == {order[1]: "kept"} and looked_at(window) == order[2]
    window.key("Ctrl+Z")
    assert window.session.verdicts == {} and looked_at(window) == order[1]
    window.key("Ctrl+Z")
    assert (window.labels("committed") == errors["invented"]).any() and looked_at(window) == order[0]
    window.key("Ctrl+Shift+Z")
    assert not (window.labels("committed") == errors["invented"]).any()

    # Correct the object that was cut in half
    while window.controller._here().label != errors["cut"]:
        window.key("W")
    looked_at(window)
    window.key("Shift+W")
    assert window.session.correcting.label == errors["cut"] and "Correcting object" in window.status
    assert "(being corrected)" in shown_text(window) and not review.correct.isEnabled()
    truth = labels == errors["cut"]
    missing = np.argwhere(truth & (wrong != errors["cut"]))
    window.click(*missing.mean(axis=0))
    window.answered()
    before = window.controller._here()
    window.key("C")
    corrected = window.labels("committed") == errors["cut"]
    assert iou(corrected, truth) > max(0.8, iou(wrong == errors["cut"], truth) + 0.2)
    assert window.session.verdicts == {errors["cut"]: "corrected"} and window.controller._here() != before
    assert window.status.startswith(f"Corrected object {errors['cut']}. The next one: keep the object [G]")
    window.key("Ctrl+Z")
    assert "(being corrected)" in shown_text(window) and looked_at(window) == errors["cut"]
    window.key("Ctrl+Shift+Z")

    # Folded away there is no outline; the end is said
    window.widget.review_folded.collapse(animate=False)
    window.settle(2)
    assert OUTLINE_NAME not in window.viewer.layers and len(window.viewer.layers) == n_layers
    for _ in range(n_objects):
        if window.session.open_doubts():
            window.key("W" if window.session.decided(window.controller._here()) else "G")
    assert window.status == f"All {n_objects} objects are reviewed."
    assert f"{n_objects} of {n_objects} reviewed" in shown_text(window)
    window.controller.close()
    assert OUTLINE_NAME not in window.viewer.layers


def test_automatic_results_and_labels_of_other_programs(open_with, small_embeddings):
    image, _, wrong, errors = small_with_errors()
    window = open_with(Annotator2d, image, small_embeddings)
    window.session.put("auto", wrong, "Segmented", kind="automatic")
    window.press(window.widget.review_folded.toggleButton())
    window.press(window.widget.review.list)
    window.wait(lambda: window.controller.jobs.is_running("review"))
    window.controller.cancel()
    listed(window)
    assert not window.session.review.doubts and "Cancelled" in window.status
    window.press(window.widget.review.list)
    listed(window)
    assert window.session.review.key == "auto" and looked_at(window) == errors["invented"]
    window.key("G")
    window.key("W")
    here = window.controller._here()
    window.press(window.widget.automatic.commit)  # the list goes with the objects
    assert window.session.review.key == "committed"
    assert window.controller._here().box == here.box and looked_at(window) != 0
    assert list(window.session.verdicts.values()) == ["kept"]

    other = np.where(np.isin(wrong, [*errors.values(), *np.unique(wrong)[1:8]]), wrong * 10, 0).astype(np.uint16)
    layer = window.viewer.add_labels(other, name="cellpose")  # it is selected now
    window.press(window.widget.review.list)
    listed(window)
    assert window.session.review.key == "layer:cellpose" and looked_at(window) == 10 * errors["invented"]
    assert window.viewer.layers.selection.active is window.controller.layers.points is not layer
    window.key("Shift+Q")
    assert not (other == 10 * errors["invented"]).any()
    window.key("Ctrl+Z")
    assert (other == 10 * errors["invented"]).any()


def test_volumes_go_to_the_slice(open_with, predictor):
    volume, labels = nuclei()
    embeddings = precompute_image_embeddings(predictor, volume, ndim=3, verbose=False)
    window = open_with(Annotator3d, volume, embeddings, scale=(3.0, 0.5, 0.5))
    window.controller.begin_with(labels)
    window.key("W")
    listed(window)
    first, second = window.session.review.doubts[:2]
    assert looked_at(window) == first.label and window.controller.layers.current_slice() == first.i
    here = window.viewer.layers[OUTLINE_NAME].data
    assert {int(ring[0, 0]) for ring in here} == {z for z in range(4) if (labels[z] == first.label).any()}
    window.viewer.dims.set_current_step(0, 0)
    window.key("Shift+W")
    assert window.session.correcting.label == first.label
    assert window.controller.layers.current_slice() == first.i
    window.key("Shift+C")
    np.testing.assert_array_equal(window.labels("committed"), labels)
    assert len(window.session.open_doubts()) == 4
    window.key("G")
    assert looked_at(window) == second.label
    window.press(window.widget.review.delete)
    assert not (window.labels("committed") == second.label).any()
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(window.labels("committed"), labels)


def test_tracks_are_reviewed(open_tracking):
    window = open_tracking(tracks=True)
    window.key("W")
    listed(window)
    doubts = window.session.review.doubts
    assert {doubt.label for doubt in doubts} == set(np.unique(window.labels("committed"))) - {0}
    assert f"Track 1 of {len(doubts)}" in shown_text(window) and looked_at(window) == doubts[0].label
    assert window.controller.layers.current_slice() == doubts[0].i
    before, lineage = window.labels("committed").copy(), window.session.lineage
    window.key("Shift+Q")
    assert doubts[0].label not in window.labels("committed")
    window.key("Ctrl+Z")
    np.testing.assert_array_equal(window.labels("committed"), before)
    assert window.session.lineage == lineage
    window.key("G")
    assert window.session.verdicts == {doubts[0].label: "kept"}
    assert window.session.history.last.text == f"Kept object {doubts[0].label}"
