"""The widgets of the finetuning window: what they ask for and what they show."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QSpinBox, QWidget

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.training_control import IDLE, PAUSED, RUNNING
from micro_sam.sam_annotator.training_sources import ANNOTATOR, FILES, LAYERS
from micro_sam.sam_annotator.widgets.parts import Folded
from micro_sam.sam_annotator.widgets.training_panel import TrainingPanel
from micro_sam.training import Example, RunResult, TrainingProgress, TrainingSettings
from micro_sam.training.preflight import Finding, PreflightReport


@pytest.fixture
def panel(qtbot):
    made = TrainingPanel()
    qtbot.addWidget(made)
    made.set_sources([ANNOTATOR, LAYERS, FILES], ["nuclei"], ["labels", "more"])
    made.resize(320, 760)
    made.show()
    return made


def test_what_is_chosen_becomes_settings(panel):
    settings = panel.choice().settings
    assert (settings.peft, settings.learning_rate, settings.max_minutes) == ("lora", 2e-4, 10)
    assert settings.model_type is None and settings.configuration is None  # found automatically
    panel.model.method.setCurrentIndex(panel.model.method.findData("decoder"))
    panel.model.hardware.setCurrentIndex(panel.model.hardware.findData("gtx1080"))
    panel.model.minutes.setValue(0)
    panel.data.partly.setChecked(True)
    settings = panel.choice().settings
    assert settings.freeze == ("image_encoder",) and settings.peft == "none"
    assert (settings.configuration, settings.max_minutes, settings.known_margin) == ("gtx1080", None, 10)
    assert "saving memory" in panel.model.hardware.toolTip()


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [("vit_t_builtin", None, "all"), ("vit_b_lm", None, "lora"), ("vit_t_builtin", "mine.pt", "lora")],
)
def test_what_is_trained_suits_the_model_of_the_annotator(panel, model, weights, expected):
    panel.set_model(ModelChoice(model, weights))
    assert panel.model.method.currentData() == expected


def test_every_setting_can_be_reached_and_wins(panel):
    more = panel.model.more._editors
    shown = {"name", "model_type", "configuration", "n_epochs", "max_minutes", "patch_shape", "known_margin"}
    assert set(more) | shown == {item.name for item in fields(TrainingSettings)}
    more["learning_rate"].setText("0.5e-3")
    more["peft_blocks"].setText("-1, -2")
    more["mixed_precision"].setCurrentIndex(more["mixed_precision"].findText("no"))
    more["activation_checkpointing"].setCurrentIndex(more["activation_checkpointing"].findText("yes"))
    settings = panel.choice().settings
    assert (settings.learning_rate, settings.peft_blocks) == (0.5e-3, (-1, -2))
    assert not settings.mixed_precision and settings.activation_checkpointing
    more["batch_size"].setText("many")
    with pytest.raises(ParameterError, match="'Batch size' is a number"):
        panel.choice()
    more["batch_size"].setText("0")
    with pytest.raises(ParameterError, match="batch_size must be between"):
        panel.choice()


def test_names_that_cannot_be_folders_are_refused(panel):
    panel.model.name.setText("../elsewhere")
    with pytest.raises(ParameterError, match="name of a folder"):
        panel.choice()


def test_data_comes_from_the_annotator_layers_or_files(panel, tmp_path):
    data = panel.data
    assert data.source().kind == ANNOTATOR and not data.files.isVisible() and not data.layer_rows.isVisible()
    data.choose_kind(LAYERS)
    data.labels.setCurrentText("more")
    assert data.layer_rows.isVisible()
    source = data.source()
    assert (source.kind, source.image, source.labels) == (LAYERS, "nuclei", "more")
    panel.set_sources([LAYERS, FILES], ["nuclei"], ["more"])
    assert data.source().kind == LAYERS and data.source().labels == "more"
    data.choose_kind(FILES)
    assert data.files.isVisible()
    with pytest.raises(ParameterError, match="file or folder of the images"):
        data.source().files.data()
    data.files.images.line.setText(str(tmp_path))
    data.files.labels.line.setText("labels.h5")
    data.files.label_key.setText("volumes/labels")
    found = data.source().files.data()
    assert found.images == [tmp_path] and found.image_key == "*" and found.label_key == "volumes/labels"
    assert data.source().validation is None
    data.validation.images.line.setText("val.tif")
    with pytest.raises(ParameterError, match="validation labels"):
        data.source().validation.data("validation ")


def test_a_model_of_the_annotator_is_what_is_begun_with(panel):
    panel.set_model(ModelChoice("vit_t_builtin", device="cpu"))
    assert panel.choice().device == "cpu"
    assert panel.choice().settings.model_type == "vit_t_builtin" and panel.choice().checkpoint_path is None
    panel.set_model(ModelChoice(checkpoint_path="mine.pt"))
    assert panel.choice().settings.model_type is None and panel.choice().checkpoint_path == "mine.pt"


def test_what_is_wrong_comes_first_in_the_table(panel):
    findings = (
        Finding("a.tif", "fine", (64, 64), ("uint16", "int32"), 1, 12, 2),
        Finding("b.tif", "wrong", remark="the image has one value everywhere."),
        Finding("c.tif", "skipped", (64, 64), ("uint8", "int32"), 1, 0, 0, remark="no object"),
    )
    panel.show_report(PreflightReport(findings))
    table = panel.data.table
    assert table.isVisible()
    rows = [[table.item(row, column).text() for column in range(table.columnCount())] for row in range(3)]
    assert [row[0] for row in rows] == ["b.tif", "c.tif", "a.tif"]
    assert rows[2] == ["a.tif", "fine", "10 (+2 small)", "64 x 64", "uint16", ""]
    assert "one value everywhere" in table.item(0, 0).toolTip()


def test_only_what_can_be_done_now_can_be_pressed(panel):
    panel.set_state(IDLE)
    assert panel.start.isEnabled() and not panel.pause.isEnabled() and not panel.stop.isEnabled()
    panel.set_state(RUNNING)
    assert not panel.start.isEnabled() and panel.pause.isEnabled() and panel.stop.isEnabled()
    assert not panel.data.isEnabled()
    panel.set_state(PAUSED)
    assert panel.start.isEnabled() and panel.start.text() == "Go on" and panel.stop.isEnabled()


def test_curves_grow_and_mark_the_best(panel, qtbot):
    def drawn(chart) -> int:
        image = chart.grab().toImage()
        colors = (image.pixelColor(x, y) for x in range(45, image.width()) for y in range(16, 80))
        return sum(color.saturation() > 120 and color.value() > 80 for color in colors)

    empty = [drawn(chart) for chart in (panel.curves.loss, panel.curves.metric)]
    for step in range(1, 31):
        panel.curves.add(TrainingProgress(step, 30, losses={"mask": 2 / step, "iou": 0.1}))
        if step % 10 == 0:
            panel.curves.add(TrainingProgress(step, 30, scores={"metric": abs(step - 20) / 20}, is_best=step <= 20))
    assert panel.curves.loss.curve.points[0] == (1, pytest.approx(2.1)) and len(panel.curves.loss.curve.points) == 30
    assert panel.curves.metric.curve.best == (20, 0)
    full = [drawn(chart) for chart in (panel.curves.loss, panel.curves.metric)]
    assert all(after > before + 50 for before, after in zip(empty, full))
    for step in range(31, 5000):
        panel.curves.loss.curve.add(step, 1.0)
    assert len(panel.curves.loss.curve.points) <= 2000 and panel.curves.loss.curve.points[-1][0] == 4999
    panel.curves.clear()
    assert [drawn(chart) for chart in (panel.curves.loss, panel.curves.metric)] == empty


def test_the_result_shows_pictures_with_scores(panel, qtbot):
    image = np.full((64, 48, 3), 90, np.uint8)
    truth = np.zeros((64, 48), np.int32)
    truth[10:30, 10:30] = 1
    example = Example(image, truth, np.zeros_like(truth), truth, (0.12, 0.83))
    result = RunResult(
        Path("m"), Path("m/cells.pt"), PreflightReport(()), {"box_iou": 0.8}, {"box_iou": 0.6}, {},
        "The model got WORSE", (example,),
    )  # fmt: skip
    panel.show_result(result)
    assert result.got_worse and "#c0392b" in panel.verdict.styleSheet()
    texts = [label.text() for label in panel.examples.findChildren(QLabel) if label.text()]
    assert texts == ["Annotated", "Before: 0.12", "After: 0.83"]
    pictures = [
        label for label in panel.examples.findChildren(QLabel) if label.pixmap() and not label.pixmap().isNull()
    ]
    assert [p.pixmap().height() for p in pictures] == [88] * 3
    QTest.mouseClick(pictures[0], Qt.MouseButton.LeftButton)
    assert panel.examples.dialog.isVisible()
    panel.examples.dialog.close()
    panel.examples.show_examples(())
    qtbot.wait(10)


def test_every_control_explains_itself_and_the_panel_is_narrow(panel, qtbot):
    inputs = [
        w for w in panel.findChildren(QWidget) if isinstance(w, QAbstractButton | QComboBox | QSpinBox | QLineEdit)
    ]
    silent = [w for w in inputs if not w.toolTip() and not w.objectName().startswith("qt_")]  # "qt_": parts of others
    assert len(inputs) > 40 and silent == []
    for folded in panel.findChildren(Folded):
        folded.expand(animate=False)
    panel.data.choose_kind(FILES)
    qtbot.wait(20)
    content = panel.area.widget()
    assert panel.width() <= 320 and content.minimumSizeHint().width() <= content.width() + 1
