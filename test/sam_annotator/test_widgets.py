"""The widgets alone: what they show and what they announce. And jobs, which need the window's event loop."""

from __future__ import annotations

import threading
import time

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QWidget

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.settings import SETTINGS
from micro_sam.models.spec import DEFAULT_MODEL, model_names
from micro_sam.progress import Progress
from micro_sam.sam_annotator.jobs import Job, LatestOnly, ThreadedJobs, sentence
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
from micro_sam.sam_annotator.widgets.automatic_widget import AutomaticWidget
from micro_sam.sam_annotator.widgets.commit_widget import CommitWidget
from micro_sam.sam_annotator.widgets.edit_widget import EditWidget
from micro_sam.sam_annotator.widgets.embedding_widget import EmbeddingWidget
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel
from micro_sam.sam_annotator.widgets.segment_widget import SegmentWidget
from micro_sam.sam_annotator.widgets.settings_form import SettingsForm


@pytest.fixture
def show(qtbot):
    def show_(widget: QWidget) -> QWidget:
        qtbot.addWidget(widget)
        widget.show()
        return widget

    return show_


def press(button: QWidget) -> None:
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def test_every_control_explains_itself(show):
    panel = show(AnnotatorPanel("Annotator"))
    panel.automatic.set_modes(["ais", "amg"], "ais")
    panel.automatic.set_settings(SETTINGS["amg"]())
    controls = [
        w for kind in (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit) for w in panel.findChildren(kind)
    ]
    unexplained = [
        (type(w).__name__, w.objectName() or getattr(w, "text", lambda: "")())
        for w in controls
        if not w.toolTip() and not isinstance(w.parent(), QAbstractSpinBox | QComboBox)
    ]
    assert len(controls) > 40 and unexplained == []


def test_the_panel_is_narrow_even_when_everything_is_unfolded(show, qtbot):
    panel = show(AnnotatorPanel("Annotator 2d"))
    panel.automatic.set_modes(["ais", "apg", "amg"], "apg")
    panel.automatic.set_settings(SETTINGS["apg"]())
    from micro_sam.sam_annotator.widgets.parts import Folded

    for folded in panel.findChildren(Folded):
        folded.expand(animate=False)
    panel.resize(320, 700)
    qtbot.wait(20)
    content = panel.sections.parentWidget()
    assert panel.width() <= 320 and content.minimumSizeHint().width() <= content.width() + 1


def test_the_model_and_how_to_embed_are_chosen(show):
    widget = show(EmbeddingWidget())
    assert widget.model_choice() == ModelChoice(DEFAULT_MODEL) and widget.embedding_choice() == EmbeddingChoice()
    assert {widget.model.itemText(k) for k in range(widget.model.count())} == set(
        model_names("bundled", "current", "medical", "previous")
    )
    choice = EmbeddingChoice("cells.zarr", (512, 640), (32, 48), normalization="robust")
    widget.set_embedding(choice)
    assert widget.embedding_choice() == choice
    model = ModelChoice("vit_t_builtin", "own.pt", "own_decoder.pt", "cpu", "float32")
    widget.set_model(model)
    assert widget.model_choice() == model
    widget.weights.line.setText("other.pt")  # the decoder belonged to the other file
    assert widget.model_choice().decoder_path is None


def test_a_model_file_of_ones_own_is_shown_as_the_model(show, qtbot):
    widget = show(EmbeddingWidget())
    count, registered = widget.model.count(), widget.model.currentText()
    widget.set_model(ModelChoice(checkpoint_path="/data/models/my_nuclei.pt", device="cpu"))
    assert widget.model.currentText() == "my_nuclei.pt" and "/data/models/my_nuclei.pt" in widget.model.toolTip()
    assert widget.model_choice() == ModelChoice(checkpoint_path="/data/models/my_nuclei.pt", device="cpu")

    # A registered model takes its place, and one can go back
    with qtbot.waitSignal(widget.model_changed):
        widget.model.setCurrentText("vit_t_builtin")
    assert widget.model_choice() == ModelChoice("vit_t_builtin", device="cpu") and widget.weights.path() is None
    assert "my_nuclei" not in widget.model.toolTip()
    with qtbot.waitSignal(widget.model_changed):
        widget.model.setCurrentText("my_nuclei.pt")
    assert widget.model_choice().checkpoint_path == "/data/models/my_nuclei.pt"

    # Typed by hand; the file says which encoder it holds
    with qtbot.waitSignal(widget.model_changed):
        widget.weights.line.setText("/elsewhere/other.pt")
    assert widget.model.currentText() == "other.pt" and widget.model.count() == count + 1
    assert widget.model_choice() == ModelChoice(checkpoint_path="/elsewhere/other.pt", device="cpu")
    with qtbot.waitSignal(widget.model_changed):
        widget.weights.line.clear()
    assert widget.model.currentText() == "vit_t_builtin" != registered and widget.model.count() == count
    assert widget.model_choice() == ModelChoice("vit_t_builtin", device="cpu")


def test_the_button_computes_and_then_cancels(show, qtbot):
    widget = show(EmbeddingWidget())
    with qtbot.waitSignal(widget.compute_requested):
        press(widget.compute)
    widget.set_running(True)
    assert not widget.model.isEnabled()
    with qtbot.waitSignal(widget.cancel_requested):
        press(widget.compute)
    widget.set_running(False)
    assert widget.compute.text() == "Compute embeddings"


def test_what_a_script_sets_is_not_announced(show, qtbot):
    embedding, segment, commit = show(EmbeddingWidget()), show(SegmentWidget()), show(CommitWidget())
    with (
        qtbot.assertNotEmitted(embedding.image_chosen),
        qtbot.assertNotEmitted(embedding.model_changed),
        qtbot.assertNotEmitted(segment.options_changed),
        qtbot.assertNotEmitted(commit.options_changed),
    ):
        embedding.set_images(["a", "b"], "b")
        embedding.set_model(ModelChoice("vit_t_builtin"))
        segment.set_options(live=False, batched=True, tidy=False)
        commit.set_options("none", 0.3, "labels.tif")
    assert embedding.image.currentText() == "b" and commit.preserve_mode() == "none"
    with qtbot.waitSignal(segment.options_changed):
        press(segment.live)


@pytest.mark.parametrize("mode", SETTINGS)
def test_a_form_has_every_setting_with_its_range(show, qtbot, mode):
    form = show(SettingsForm(SETTINGS[mode]()))
    assert form.values() == SETTINGS[mode]()
    name = {"amg": "pred_iou_thresh", "ais": "min_size", "apg": "nms_threshold"}[mode]
    with qtbot.waitSignal(form.changed):
        form._inputs[name].setValue(10**7)
    assert getattr(form.values(), name) in (1, 10**7)


def test_modes_of_the_model_are_offered(show, qtbot):
    widget = show(AutomaticWidget())
    assert widget.settings() is None
    widget.set_modes(["ais", "apg", "amg"], "apg")
    assert widget.mode.currentData() == "apg"
    with qtbot.waitSignal(widget.mode_chosen) as chosen:
        widget.mode.setCurrentIndex(2)
    assert chosen.args == ["amg"]
    widget.set_settings(SETTINGS["amg"](points_per_side=8))
    assert widget.settings().points_per_side == 8


def test_undo_says_what_it_takes_back(show):
    widget = show(EditWidget())
    assert not widget.undo.isEnabled()
    widget.set_history("committed 1 object", None)
    assert widget.undo.isEnabled() and "committed 1 object" in widget.undo.toolTip() and not widget.redo.isEnabled()


# Jobs


def counting(n: int, pause: float = 0.0):
    def work():
        for k in range(n):
            yield Progress(k, n, "Count")
            time.sleep(pause)
        return n

    return work


def test_a_job_tells_its_progress_and_result_in_the_windows_thread(qtbot):
    jobs, told = ThreadedJobs(), []

    def note(value):
        told.append((value, threading.current_thread() is threading.main_thread()))

    jobs.start(Job("count", counting(3), on_progress=note, on_done=note, on_end=lambda: note("end")))
    qtbot.waitUntil(lambda: not jobs.is_running())
    assert [value for value, _ in told] == [
        Progress(0, 3, "Count"),
        Progress(1, 3, "Count"),
        Progress(2, 3, "Count"),
        3,
        "end",
    ]
    assert all(in_main for _, in_main in told)


def test_a_second_job_in_the_slot_silences_the_first(qtbot):
    jobs, told, closed = ThreadedJobs(), [], []

    def slow():
        try:
            while True:
                yield Progress(0, 0)
                time.sleep(0.01)
        finally:
            closed.append(True)

    jobs.start(Job("slot", slow, on_end=lambda: told.append("first ends")))
    jobs.start(Job("slot", counting(2), on_done=told.append, on_end=lambda: told.append("second ends")))
    qtbot.waitUntil(lambda: bool(closed) and not jobs.is_running())
    qtbot.wait(20)
    assert told == ["first ends", 2, "second ends"]
    assert not jobs.cancel("slot")


def test_errors_of_jobs_are_sentences(qtbot, caplog):
    jobs, told = ThreadedJobs(), []

    def failing(error):
        def work():
            yield Progress(0, 1)
            raise error

        return work

    for error in (ParameterError("Take another value."), RuntimeError("CUDA out of memory"), KeyError("x")):
        jobs.start(Job("slot", failing(error), on_error=told.append))
        qtbot.waitUntil(lambda: not jobs.is_running())
    assert told[0] == "Take another value." and "not enough memory" in told[1] and "please report" in told[2]
    assert "read-only" in sentence(OSError(30, "read-only", "/x/y")) and "'/x/y'" in sentence(OSError(30, "ro", "/x/y"))


def test_nothing_is_heard_after_closing(qtbot):
    jobs, told = ThreadedJobs(), []
    jobs.start(Job("slot", counting(50, 0.01), on_progress=told.append, on_end=lambda: told.append("end")))
    qtbot.waitUntil(lambda: bool(told))
    jobs.close()
    n = len(told)
    qtbot.wait(50)
    assert len(told) == n and not jobs.is_running()


def test_only_the_latest_question_is_answered(qtbot):
    asked, answers, errors = [], [], []

    def ask(question):
        asked.append(question)
        time.sleep(0.05)
        if question == "bad":
            raise ParameterError("A bad question.")
        return question

    worker = LatestOnly(ask, answers.append, errors.append)
    for question in range(20):
        worker.put(question)
    qtbot.waitUntil(lambda: answers[-1:] == [19])
    assert len(asked) <= 3
    worker.put("bad")
    qtbot.waitUntil(lambda: errors == ["A bad question."])
    worker.put("never")
    worker.close()
    qtbot.wait(80)
    assert "never" not in answers
