"""The controller with stand-ins for panel, layers and canvas: who is told what. No window, no threads."""

from __future__ import annotations

from unittest.mock import MagicMock

import numpy as np
import pytest
from annotator_toys import DISCS
from psygnal import Signal

from micro_sam.errors import ImageError
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.hints import Situation, next_step
from micro_sam.sam_annotator.jobs import InlineJobs
from micro_sam.sam_annotator.layers import AnnotatorLayers, Hit
from micro_sam.sam_annotator.layers.base import LayerSignals
from micro_sam.sam_annotator.previews import InlinePreviews
from micro_sam.sam_annotator.session import COMMITTED, CURRENT, AnnotatedImage, AnnotationSession, Point, Prompts
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
from micro_sam.sam_annotator.tools import CanvasTools
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


class MockSignals(LayerSignals):
    """The signals of layers and canvas tools, which a mock cannot stand in for."""

    clicked = Signal(str, object)
    stroked = Signal(str, object)


@pytest.fixture
def layers(image):
    signals = MockSignals()
    made = MagicMock(spec=AnnotatorLayers)
    for name in (
        "prompts_changed",
        "prompts_dragged",
        "painted",
        "replaced",
        "lost",
        "images_changed",
        "image_replaced",
    ):
        setattr(made, name, getattr(signals, name))
    made.image, made.point_label = None, "positive"
    made.selected_labels.return_value = None
    made.image_layers.return_value, made.own.return_value = [], []
    made.read_image.return_value = AnnotatedImage.from_array(image)
    made.current_slice.return_value = None
    made.units.return_value = None
    return made


@pytest.fixture
def controller(layers, predictor, embeddings, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    signals = MockSignals()
    tools = MagicMock(spec=CanvasTools, clicked=signals.clicked, stroked=signals.stroked, tool=None)
    panel = MagicMock(spec=AnnotatorPanel)
    for part in ("status", "banner", "embedding", "segment", "automatic", "commit", "edit", "review", "review_folded"):
        setattr(panel, part, MagicMock())
    panel.embedding.embedding_choice.return_value = EmbeddingChoice()
    panel.later.side_effect = lambda function: function()
    made = AnnotatorController(MagicMock(), panel, layers, tools, AnnotationSession(), InlineJobs(), InlinePreviews())
    made.choose_image(MagicMock())
    made.session.predictor, made.session.embeddings = predictor, embeddings
    yield made
    made.close()


def said(controller: AnnotatorController) -> str:
    """The sentence that is shown."""
    return controller.panel.status.say.call_args.args[0]


def at(label: int) -> Prompts:
    return Prompts((Point(*map(float, DISCS[label][:2])),))


def test_placing_a_prompt_shows_its_mask_and_c_commits_it(controller, layers):
    layers.prompts_changed.emit(at(1))
    assert controller.session.labels[CURRENT][50, 50]
    assert [call.args[0] for call in layers.refresh.call_args_list] == [CURRENT]
    controller.commit()
    assert controller.session.labels[COMMITTED][50, 50] == 1 and said(controller).startswith("Committed 1 object")
    assert layers.write_prompts.call_args.args[0] == Prompts()


def test_without_live_preview_the_mask_waits_for_s(controller, layers):
    controller.set_options(live=False)
    layers.prompts_changed.emit(at(1))
    assert not controller.session.labels[CURRENT].any()
    controller.segment()
    assert controller.session.labels[CURRENT][50, 50]


def test_removing_the_last_prompt_removes_the_mask(controller, layers):
    layers.prompts_changed.emit(at(1))
    layers.prompts_changed.emit(Prompts())
    assert not controller.session.labels[CURRENT].any()
    controller.undo()
    assert controller.session.labels[CURRENT][50, 50] and controller.session.prompts == at(1)


def test_dragging_makes_no_steps(controller, layers):
    layers.prompts_changed.emit(at(1))
    n_steps = len(controller.session.history)
    for label in (2, 3):
        layers.prompts_dragged.emit(at(label))
        assert controller.session.labels[CURRENT][DISCS[label][:2]]
    assert len(controller.session.history) == n_steps
    layers.prompts_changed.emit(at(3))
    assert len(controller.session.history) == n_steps + 1


def test_undo_and_redo_are_offered_by_name(controller, layers):
    controller.panel.edit.set_history.assert_called_with(None, None)
    layers.prompts_changed.emit(at(1))
    controller.panel.edit.set_history.assert_called_with("placed a point", None)
    controller.undo()
    controller.panel.edit.set_history.assert_called_with(None, "placed a point")
    controller.undo()
    assert said(controller) == "There is nothing to undo."


def test_errors_are_shown_in_a_sentence(controller, layers):
    controller.commit()
    assert said(controller) == "There is nothing to commit: segment an object first."
    assert controller.panel.status.say.call_args.args[1] == "error"
    layers.read_image.side_effect = ImageError("The layer 'x' has the shape (3, 4, 5), use another.")
    controller.choose_image(MagicMock())
    assert "(3, 4, 5)" in said(controller)
    layers.hit.return_value = None
    controller.act_under_cursor("delete")
    assert "outside the image" in said(controller)


def test_an_unexpected_error_keeps_the_window_alive(controller, monkeypatch, caplog):
    monkeypatch.setattr(controller.session, "clear", lambda: 1 / 0)
    controller.clear()
    assert "ZeroDivisionError" in said(controller) and "Traceback" in caplog.text


def test_objects_of_other_layers_are_taken_into_the_session(controller, layers, truth):
    cellpose = truth.astype(np.uint16)
    layers.hit.return_value = Hit(None, "cellpose", 2, (50, 140))
    layers.foreign_array.return_value = cellpose
    controller._on_click("delete", (50, 140))
    assert not (cellpose == 2).any()
    controller.undo()
    np.testing.assert_array_equal(cellpose, truth)


def test_layers_that_are_deleted_come_back(controller, layers):
    layers.image = MagicMock()
    layers.show.reset_mock()
    layers.lost.emit(["committed_objects"])
    layers.show.assert_called_once_with(controller.session.labels)
    assert "committed_objects" in said(controller)


def test_a_second_computation_is_not_started(controller):
    controller.jobs = MagicMock()
    controller.jobs.is_running.return_value = True
    controller.compute()
    controller.jobs.start.assert_not_called()


def test_embeddings_are_computed_and_tell_their_progress(controller, predictor):
    controller.session.predictor = controller.session.embeddings = None
    controller.compute_with(ModelChoice("vit_t_builtin", device="cpu"), EmbeddingChoice())
    assert controller.session.embeddings.is_complete and controller.session.predictor.model_name == "vit_t_builtin"
    shown = [call.args[0] for call in controller.panel.status.show_progress.call_args_list]
    assert shown[-1] is None and any(p is not None and p.text == "Compute image embeddings" for p in shown)
    assert [call.args[0] for call in controller.panel.embedding.set_running.call_args_list] == [True, False]
    controller.panel.automatic.set_modes.assert_called_once()


def test_saving_tells_where_and_writes_it_down(controller, layers, tmp_path):
    layers.prompts_changed.emit(at(1))
    controller.set_options(commit_path=str(tmp_path / "labels.tif"))
    controller.commit()
    assert (tmp_path / "labels.tif").exists() and (tmp_path / "labels_prompts.json").exists()
    assert said(controller) == f"Saved to {tmp_path / 'labels.tif'}."
    controller.save(str(tmp_path / "missing" / "labels.tif"))
    assert "does not exist" in said(controller)


def test_closing_lets_go_of_everything(controller, layers):
    controller.close()
    layers.prompts_changed.emit(at(1))
    assert not controller.session.prompts
    layers.close.assert_called_once()
    controller.tools.close.assert_called_once()


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (Situation(), "Open an image"),
        (Situation(has_image=True), "press Compute embeddings"),
        (Situation(has_image=True, computing=True), "Computing"),
        (Situation(has_image=True, can_segment=True), "Click an object"),
        (Situation(has_image=True, can_segment=True, prompts=1, live=False), "Press S"),
        (Situation(has_image=True, can_segment=True, prompts=1, has_current=True), "Commit the object [C]"),
        (Situation(has_image=True, can_segment=True, correcting=7, has_current=True), "Correcting object 7"),
        (Situation(has_image=True, can_segment=True, has_auto=True), "commit all"),
        (Situation(has_image=True, can_segment=True, tool="split"), "stroke across"),
    ],
)
def test_the_status_says_what_comes_next(situation, expected):
    assert expected in next_step(situation)
