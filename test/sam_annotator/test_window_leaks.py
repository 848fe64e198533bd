"""Nothing is left of an annotator whose window was closed: no widget, thread, timer, session or array.

`make_napari_viewer` looks for widgets and viewers that were not cleaned up; threads, timers and our own objects are
looked for here, as napari does in its own tests.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from annotator_toys import DISCS, discs
from movie_toys import ALONE, centre, movie
from qtpy.QtCore import QTimer
from window_driver import Window, open_window

from micro_sam.sam_annotator import Annotator2d, Annotator3d, AnnotatorTracking, image_folder_annotator
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


@pytest.fixture
def timers(monkeypatch) -> weakref.WeakSet:
    """All timers that are started."""
    started, start = weakref.WeakSet(), QTimer.start

    def remember(self, *milliseconds) -> None:
        started.add(self)
        start(self, *milliseconds)

    monkeypatch.setattr(QTimer, "start", remember)
    return started


def annotate(window: Window, place: tuple[float, float]) -> None:
    """Embed, click, commit, edit, and segment everything."""
    if window.session.embeddings is None and not window.controller.jobs.is_running():  # a series begins by itself
        window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 60)
    window.click(*place)
    window.answered()
    if window.widget.ndim == 3:
        window.key("Shift+S")
        window.wait(lambda: not window.controller.jobs.is_running())
    window.key("C")
    window.settle(5)
    assert window.labels("committed").any(), window.status
    window.press(window.widget.edit.tools["split"])
    window.drag([(place[0] - 40, place[1]), (place[0] + 40, place[1])])
    window.key("Escape")
    window.press(window.widget.automatic.run)
    window.wait(lambda: not window.controller.jobs.is_running(), 60)
    window.key("Ctrl+Z")


def open_2d(viewer, folder) -> Window:
    return open_window(viewer, Annotator2d, discs()[0])


def open_3d(viewer, folder) -> Window:
    return open_window(viewer, Annotator3d, np.stack([discs()[0]] * 2))


def open_tracking(viewer, folder) -> Window:
    return open_window(viewer, AnnotatorTracking, movie()[0][:2])


def open_series(viewer, folder) -> Window:
    (folder / "images").mkdir()
    for k in range(2):
        tifffile.imwrite(folder / "images" / f"{k}.tif", discs()[0])
    options = {"model_type": "vit_t_builtin", "device": "cpu", "return_viewer": True}
    image_folder_annotator(folder / "images", folder / "out", viewer=viewer, **options)
    window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    window.wait(lambda: window.widget.series.index == 0)
    return window


@pytest.mark.parametrize(
    ("open_", "place"),
    [(open_2d, DISCS[2][:2]), (open_3d, DISCS[2][:2]), (open_tracking, centre(ALONE, 0)), (open_series, DISCS[2][:2])],
    ids=["2d", "3d", "tracking", "series"],
)
def test_nothing_is_left_of_a_window_that_was_closed(
    open_: Callable, place: tuple[float, float], make_napari_viewer, timers, qtbot, tmp_path, monkeypatch
):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    before = set(threading.enumerate())

    def use() -> dict[str, weakref.ref]:
        window = open_(make_napari_viewer(show=True, strict_qt="raise"), tmp_path)
        annotate(window, place)
        controller = window.controller
        own = {"panel": window.widget, "controller": controller, "session": controller.session}
        own |= {"layers": controller.layers, "jobs": controller.jobs, "labels": window.labels("committed")}
        left = {name: weakref.ref(thing) for name, thing in own.items()}
        window.viewer.close()
        return left

    left = use()

    def threads() -> list[str]:
        return [t.name for t in set(threading.enumerate()) - before if t.name.startswith("micro_sam")]

    qtbot.waitUntil(lambda: not threads(), timeout=60000)
    qtbot.wait(50)
    gc.collect()
    assert [name for name, reference in left.items() if reference() is not None] == []
    running = [timer for timer in timers if timer.isActive()]
    assert running == []
