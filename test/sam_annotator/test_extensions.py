"""What other parts add to the panels of the annotators."""

from __future__ import annotations

import importlib

from annotator_toys import discs
from qtpy.QtWidgets import QLabel
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
