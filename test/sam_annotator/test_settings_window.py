"""The settings window: a form from the dataclass, saved as a whole, and the check of the installation."""

from __future__ import annotations

import json

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from micro_sam.health import problems
from micro_sam.sam_annotator.jobs import InlineJobs
from micro_sam.sam_annotator.settings import SettingsWidget
from micro_sam.sam_annotator.widgets.embedding_widget import EmbeddingWidget
from micro_sam.user_settings import UserSettings, load_settings


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "config" / "settings.json"
    monkeypatch.setenv("MICROSAM_SETTINGS", str(path))
    return path


@pytest.fixture
def widget(qtbot, file):
    made = SettingsWidget(jobs=InlineJobs())
    qtbot.addWidget(made)
    made.show()
    return made


def _press(button) -> None:
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def test_what_is_chosen_is_saved_and_new_annotators_use_it(widget, file, qtbot, tmp_path):
    assert widget.form.settings() == UserSettings() and widget.width() <= 320
    widget.form.inputs["journal_directory"].line.setText(str(tmp_path / "journals"))
    widget.form.inputs["model"].setCurrentText("vit_t_builtin")
    widget.form.inputs["precision"].setCurrentText("float32")
    assert "Press Save" in widget.status.text.text() and not file.exists()
    _press(widget.save)
    assert widget.status.kind == "done" and str(file) in widget.status.text.text()
    expected = UserSettings(journal_directory=str(tmp_path / "journals"), model="vit_t_builtin", precision="float32")
    assert load_settings() == expected and json.loads(file.read_text())["device"] == "auto"
    annotator = EmbeddingWidget()
    qtbot.addWidget(annotator)
    assert annotator.model_choice().model_type == "vit_t_builtin"
    _press(widget.defaults)
    assert widget.form.settings() == UserSettings() and load_settings() == expected
    _press(widget.save)
    assert load_settings() == UserSettings()


def test_settings_that_were_saved_are_shown_also_for_a_device_that_is_gone(qtbot, file):
    file.parent.mkdir()
    file.write_text(json.dumps({"device": "cuda:5", "cache_directory": "/somewhere"}))
    widget = SettingsWidget(jobs=InlineJobs())
    qtbot.addWidget(widget)
    assert widget.form.settings() == UserSettings(cache_directory="/somewhere", device="cuda:5")


def test_a_file_that_cannot_be_written_is_said(widget, file):
    file.parent.write_text("a file in the place of the folder")
    _press(widget.save)
    assert widget.status.kind == "error" and "could not be written" in widget.status.text.text()


def test_everything_has_a_tooltip_and_the_environment_is_named(qtbot, file, monkeypatch):
    from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit

    monkeypatch.setenv("MICROSAM_CACHEDIR", "/from/the/environment")
    widget = SettingsWidget(jobs=InlineJobs())
    qtbot.addWidget(widget)
    for kind in (QAbstractButton, QComboBox, QLineEdit):
        assert all(found.toolTip() for found in widget.findChildren(kind) if found.parent() is not None)
    texts = [label.text() for label in widget.findChildren(QLabel)]
    assert any("MICROSAM_CACHEDIR is set and wins: /from/the/environment" in text for text in texts)


def test_the_check_says_what_is_wrong_and_how_to_mend_it(widget, monkeypatch):
    monkeypatch.setattr(problems, "_model_problems", lambda: iter([problems.Problem("It is broken.", "Mend it.")]))
    monkeypatch.setattr(problems, "_window_problems", lambda: iter(()))
    _press(widget.check)
    text = widget.result.toPlainText()
    assert "It is broken." in text and "Mend it." in text and text.index("broken") < text.index("micro_sam: ")
    assert widget.status.kind == "error" and "mend" in widget.status.text.text() and widget.check.isEnabled()


def test_a_healthy_installation(widget, monkeypatch):
    monkeypatch.setattr(problems, "find_problems", list)
    _press(widget.check)
    assert widget.result.toPlainText().startswith("✓ No problems found.") and widget.status.kind == "done"
    assert "vit_t_builtin" in widget.result.toPlainText()
