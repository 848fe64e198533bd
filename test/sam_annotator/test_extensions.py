"""What other parts add to the panels of the annotators."""

from __future__ import annotations

import importlib

from annotator_toys import discs
from qtpy.QtWidgets import QLabel, QPushButton
from window_driver import open_window

from micro_sam.errors import PromptError
from micro_sam.sam_annotator import extensions
from micro_sam.sam_annotator.annotator_2d import Annotator2d
from micro_sam.sam_annotator.extensions import ALL, EXTENSIONS, Extension
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


def count_objects(panel):
    panel.controller.say(f"{len(panel.controller.layers.own())} layers")


def refuse(panel):
    raise PromptError("There is nothing to export.")


def explain(panel):
    return QLabel(f"For the {panel.title}")


def test_buttons_and_folded_sections_are_added_where_they_belong(make_napari_viewer, monkeypatch):
    own = (
        Extension("Count", "Count layers.", f"{__name__}:count_objects"),
        Extension("Export…", "Export the labels.", f"{__name__}:refuse", section="commit"),
        Extension("Explained", "What this is.", f"{__name__}:explain", is_folded=True),
        Extension("Elsewhere", "Not here.", f"{__name__}:refuse", kinds=("annotator_3d",)),
    )
    monkeypatch.setattr(extensions, "EXTENSIONS", own)
    window = open_window(make_napari_viewer(show=True), Annotator2d, discs()[0])
    panel = window.widget
    buttons = {b.text(): b for b in panel.findChildren(type(panel.commit.save))}
    assert "Elsewhere" not in buttons and buttons["Count"].toolTip() == "Count layers."
    assert panel.commit.isAncestorOf(buttons["Export…"]) and panel.more.isAncestorOf(buttons["Count"])
    assert panel.more.isVisible() and panel.more.heading.text() == "<b>More</b>"
    window.press(buttons["Count"])
    assert window.status == "5 layers"
    window.press(buttons["Export…"])
    assert (window.status, panel.status.kind) == ("There is nothing to export.", "error")
    assert [label.text() for label in panel.more.findChildren(QLabel)] == ["<b>More</b>", "For the Annotator 2d"]
    assert panel.width() <= 320


def break_down(panel):
    raise RuntimeError("no such\n codec.")


def test_an_annotator_opens_without_what_cannot_be_loaded_and_says_so(make_napari_viewer, monkeypatch):
    own = (
        Extension("Broken part", "Breaks.", f"{__name__}:break_down", section="commit", is_folded=True),
        Extension("Nowhere", "Not there.", "micro_sam.not_there:start", is_folded=True),
        Extension("Misplaced", "In no section.", f"{__name__}:explain", section="attic", is_folded=True),
        Extension("Explained", "What this is.", f"{__name__}:explain", is_folded=True),
    )
    monkeypatch.setattr(extensions, "EXTENSIONS", (*own, *EXTENSIONS))
    window = open_window(make_napari_viewer(show=True), Annotator2d)
    panel = window.widget
    texts = [label.text() for label in panel.findChildren(QLabel)]
    broken = "'Broken part' could not be loaded (RuntimeError: no such codec); everything else works."
    assert broken in [label.text() for label in panel.commit.findChildren(QLabel)]
    assert any(text.startswith("'Nowhere' could not be loaded (ModuleNotFoundError: No module") for text in texts)
    assert any(text.startswith("'Misplaced' could not be loaded (AttributeError: ") for text in texts)
    assert window.status in texts and panel.status.kind == "error" and "'Misplaced'" in window.status
    assert "For the Annotator 2d" in texts
    assert {"Export and import", "Finetune the model …"} <= {b.text() for b in panel.findChildren(QPushButton)}
    assert panel.width() <= 320
    window.viewer.add_image(discs()[0])
    window.press(panel.embedding.compute)
    window.ready()
    window.click(50, 50)
    window.answered()
    assert window.labels("current")[50, 50]
    window.controller.close()


def test_nothing_is_shown_where_nothing_was_added(qtbot):
    panel = AnnotatorPanel("Annotator")
    qtbot.addWidget(panel)
    panel.show()
    assert not panel.more.isVisible()


def test_what_is_added_exists():
    for extension in EXTENSIONS:
        module, name = extension.target.split(":")
        assert callable(getattr(importlib.import_module(module), name)), extension
        assert set(extension.kinds) <= set(ALL) and extension.tooltip.endswith("."), extension
