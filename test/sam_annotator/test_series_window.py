"""The image series annotator in a real napari window: from image to image, back, the end, and after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from annotator_toys import DISCS, discs, iou
from series_windows import MODEL, window_of
from window_driver import Window

from micro_sam.cli import image_series_annotator as command
from micro_sam.sam_annotator import ImageSeriesAnnotator, image_folder_annotator, image_series_annotator


@pytest.fixture
def viewer(make_napari_viewer, tmp_path, monkeypatch):
    """A viewer; the annotator in it is closed at the end."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = make_napari_viewer(show=True)
    made.window.resize(1000, 640)
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    """All discs, all but the first, all but the second; and a file that is broken."""
    made, (image, labels) = tmp_path / "images", discs()
    made.mkdir()
    for k in range(3):
        tifffile.imwrite(made / f"cells_{k}.tif", np.where((labels == k) & (k > 0), image // 4, image))
    (made / "cells_1b.tif").write_bytes(b"this is no image")
    return made


def test_from_image_to_image_and_back_and_to_the_end(viewer, folder, tmp_path, truth):
    out = tmp_path / "out"
    image_folder_annotator(folder, out, "*.tif", viewer=viewer, embedding_path=tmp_path / "e", **MODEL)
    window = window_of(viewer)
    window.at_image(0)
    assert window.widget.width() <= 320 and window.rows()[0] == "○  cells_0.tif"
    window.commit(*DISCS[1][:2])
    window.ahead_ready(1)
    assert (tmp_path / "e" / "cells_1.zarr").is_dir()  # while the first one is annotated

    window.key("N")
    window.at_image(1)
    assert window.rows()[0] == "✓  cells_0.tif"
    saved = tifffile.imread(out / "cells_0.tif")
    assert iou(saved == 1, truth == 1) > 0.75
    assert [layer.name for layer in viewer.layers] == [
        "cells_1", "committed_objects", "auto_segmentation", "current_object", "prompts", "point_prompts",
    ]  # fmt: skip
    assert not window.labels("committed").any()
    window.key("N")
    assert "No object is committed here" in window.status and window.series.index == 1
    window.click(*DISCS[3][:2])
    window.answered()
    window.key("N")
    assert "not committed" in window.status and window.series.index == 1
    window.key("C")
    window.key("N")
    window.at_image(3)  # the broken one is left out
    assert iou(tifffile.imread(out / "cells_1.tif"), truth == 3) > 0.75
    assert window.rows()[2] == "!  cells_1b.tif" and "cells_1b.tif" in window.strip.note.text()
    window.press(window.strip.skip)
    window.wait(lambda: "end of the series" in window.status)
    assert "2 of 4 images are done, 1 skipped, 1 cannot be read" in window.status
    assert window.rows()[3] == "–  cells_2.tif" and window.series.index == 3

    # Back, by key and by the list: labels are there, and so is the history
    window.key("Shift+N")
    window.at_image(1)
    assert iou(window.labels("committed"), truth == 3) > 0.75 and window.strip.done.isChecked()
    window.key("Ctrl+Z")
    assert not window.labels("committed").any() and window.labels("current").any()
    window.key("Ctrl+Shift+Z")
    window.press(window.strip.done)
    window.wait(lambda: window.rows()[1] == "○  cells_1.tif")
    window.strip.jump_requested.emit(0)
    window.at_image(0)
    np.testing.assert_array_equal(window.labels("committed"), saved)
    window.commit(*DISCS[4][:2])
    viewer.close()  # saves
    assert len(np.unique(tifffile.imread(out / "cells_0.tif"))) == 3
    states = {e["name"]: e["state"] for e in json.loads((out / "image_series.json").read_text())["images"]}
    assert states == {"cells_0": "done", "cells_1": "open", "cells_2": "skipped"}


def test_the_next_image_waits_for_work_on_the_current_one_and_is_not_encoded_twice(
    viewer, folder, tmp_path, monkeypatch
):
    image_folder_annotator(folder, tmp_path / "out", "cells_?.tif", viewer=viewer, skip_segmented=False, **MODEL)
    window = window_of(viewer)
    window.at_image(0)
    window.ahead_ready(1)
    ahead = window.series.ahead
    embeddings = ahead.embeddings
    first = window.session.embeddings
    window.strip.done_toggled.emit(True)
    window.key("N")
    window.key("N")
    window.at_image(1)
    assert window.session.embeddings is embeddings

    busy = {"now": True}
    monkeypatch.setattr(window.series, "_is_busy", lambda: busy["now"])
    window.series.ahead = None
    window.series._look_ahead()
    waiting = window.series.ahead
    window.wait(lambda: waiting.is_running)
    window.settle(40)
    assert waiting.opened is None and waiting.embeddings is None  # it waits
    window.strip.jump_requested.emit(0)  # not to the image that it is for: it is dropped
    window.at_image(0)
    assert window.session.embeddings is first and waiting.embeddings is None  # and what was there was kept
    busy["now"] = False
    window.ahead_ready(1) if window.series.ahead is not None and window.series.ahead.index == 1 else None
    window.controller.close()
    assert not window.series.jobs.is_running()


def test_labels_of_another_tool_are_corrected_and_a_wrong_shape_is_named(viewer, folder, tmp_path, truth):
    (tmp_path / "masks").mkdir()
    cut = np.where((truth == 3) & (np.arange(192) > 62), 0, truth * 10).astype(np.uint16)
    tifffile.imwrite(tmp_path / "masks" / "cells_0_masks.tif", cut)
    tifffile.imwrite(tmp_path / "masks" / "cells_1_masks.tif", cut[:50])
    image_folder_annotator(
        folder, tmp_path / "out", "cells_?.tif", tmp_path / "masks", "*_masks.tif", viewer=viewer, **MODEL
    )
    window = window_of(viewer)
    window.at_image(0)
    np.testing.assert_array_equal(window.labels("committed"), cut)
    window.hover(140, 50)
    window.key("Shift+E")
    window.click(140, 75)
    window.answered()
    window.key("C")
    window.key("N")
    window.at_image(1)
    saved = tifffile.imread(tmp_path / "out" / "cells_0.tif")
    assert saved[140, 75] == 30 and iou(saved == 30, truth == 3) > iou(cut == 30, truth == 3)
    np.testing.assert_array_equal((saved != 30) * saved, (cut != 30) * cut)
    assert "cells_1_masks.tif" in window.strip.note.text() and "(50, 192)" in window.strip.note.text()
    assert not window.labels("committed").any()
    window.controller.close()


def test_labels_that_cannot_be_saved_keep_the_window_where_it_is(viewer, folder, tmp_path):
    image_folder_annotator(folder, tmp_path / "out", "cells_?.tif", viewer=viewer, **MODEL)
    window = window_of(viewer)
    window.at_image(0)
    window.commit(*DISCS[1][:2])
    committed = window.labels("committed").copy()
    blocked = tmp_path / "out" / "cells_0.tif"
    blocked.mkdir()
    window.key("N")
    window.wait(lambda: window.widget.status.kind == "error")
    assert "cells_0.tif" in window.status and window.series.index == 0 and window.rows()[0] == "○  cells_0.tif"
    np.testing.assert_array_equal(window.labels("committed"), committed)
    blocked.rmdir()
    window.key("N")
    window.at_image(1)
    np.testing.assert_array_equal(tifffile.imread(blocked), committed)
    window.controller.close()


def test_volumes_are_annotated_one_after_another(viewer, tmp_path, image, truth):
    volumes = [np.stack([image] * 3), np.stack([255 - image] * 2)]
    image_series_annotator(volumes, tmp_path / "out", is_volumetric=True, viewer=viewer, **MODEL)
    window = window_of(viewer)
    window.at_image(0)
    viewer.dims.set_current_step(0, 1)
    window.settle()
    window.commit(*DISCS[2][:2])
    assert window.labels("committed").any(), (window.status, window.session.prompts, viewer.dims.current_step)
    window.key("N")
    window.at_image(1)
    saved = tifffile.imread(tmp_path / "out" / "image_00000.tif")
    assert saved.shape == (3, 192, 192) and iou(saved[1], truth == 2) > 0.75 and not saved[[0, 2]].any()
    assert window.labels("committed").shape == (2, 192, 192)
    window.strip.jump_requested.emit(0)
    window.at_image(0)
    np.testing.assert_array_equal(window.labels("committed"), saved)
    window.controller.close()


KILLED = """
import sys
from pathlib import Path
import numpy as np
from annotator_toys import DISCS
import napari
from window_driver import Window
from micro_sam.sam_annotator import image_folder_annotator
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel
viewer = image_folder_annotator(
    sys.argv[1], sys.argv[2], "cells_?.tif", model_type="vit_t_builtin", device="cpu", return_viewer=True
)
window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
for k in range(2):
    window.wait(lambda: window.widget.series.index == k)
    window.ready()
    for label in (3, 4)[: k + 1]:
        window.click(*DISCS[label][:2])
        window.answered()
        window.key("C")
    if k == 0:
        window.key("N")
np.save(sys.argv[3], window.session.labels["committed"])
print("working", flush=True)
while True:
    window.settle()
"""


def test_a_killed_window_goes_on_with_the_image_it_was_at(viewer, folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    arguments = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out"), str(tmp_path / "committed.npy")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().strip() == "working"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    expected = np.load(tmp_path / "committed.npy")
    assert len(np.unique(expected)) == 3 and not (tmp_path / "out" / "cells_1.tif").exists()

    image_folder_annotator(folder, tmp_path / "out", "cells_?.tif", viewer=viewer, **MODEL)
    window = window_of(viewer)
    window.at_image(1)  # the first is done
    assert "was interrupted" in window.strip.note.text() and window.rows()[0] == "✓  cells_0.tif"
    np.testing.assert_array_equal(window.labels("committed"), expected)
    window.key("Ctrl+Z")
    window.key("Ctrl+Z")
    assert len(np.unique(window.labels("committed"))) == 2
    window.controller.close()
    assert len(np.unique(tifffile.imread(tmp_path / "out" / "cells_1.tif"))) == 2


def test_the_form_of_the_plugins_menu_opens_a_series_and_says_what_is_wrong(viewer, folder, tmp_path):
    form = ImageSeriesAnnotator(viewer)
    viewer.window.add_dock_widget(form, name="Image Series Annotator", area="right")
    window = Window(viewer, form)
    window.press(form.start)
    assert form.status.kind == "error" and "folder of the images" in form.status.text.text()
    form.input.line.setText(str(folder))
    form.output.line.setText(str(folder))
    window.press(form.start)
    assert "output folder is the input folder" in form.status.text.text()
    form.output.line.setText(str(tmp_path / "out"))
    form.pattern.setText("*.czi")
    window.press(form.start)
    assert "*.czi" in form.status.text.text()
    form.pattern.setText("cells_?.tif")
    form.model.setCurrentText("vit_t_builtin")
    window.press(form.start)
    opened = window_of(viewer)
    opened.at_image(0)
    assert opened.rows() == [f"○  cells_{k}.tif" for k in range(3)]
    opened.controller.close()


def test_the_command_passes_on_what_it_was_given(folder, tmp_path, monkeypatch, capsys):
    import micro_sam.sam_annotator as annotators

    calls = []
    monkeypatch.setattr(annotators, "image_folder_annotator", lambda *args, **kwargs: calls.append((args, kwargs)))
    flags = [
        "-i",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "-p",
        "*.tif",
        "-e",
        "e",
        "-m",
        "vit_t_builtin",
        "-d",
        "cpu",
    ]
    flags += ["--initial_segmentation_folder", str(folder), "--initial_segmentation_pattern", "*_m.tif"]
    flags += ["--is_volumetric", "--tile_shape", "512", "512", "--halo", "64", "64", "--precompute_amg_state"]
    flags += ["--no-prefer_decoder", "--no-skip_segmented", "-k", "raw", "--preserve_mode", "pixels"]
    assert command.main(flags) == 0
    [(given, options)] = calls
    assert given == (folder, tmp_path / "out", "*.tif", folder, "*_m.tif")
    assert options["is_volumetric"] and not options["skip_segmented"] and not options["prefer_decoder"]
    assert options["tile_shape"] == (512, 512) and options["embedding_path"] == "e" and options["key"] == "raw"
    assert "commit_path" not in options and options["preserve_mode"] == "pixels" and options["precompute_amg_state"]
    monkeypatch.undo()
    assert command.main(["-i", str(tmp_path / "none"), "-o", "x"]) == 2
    assert command.main(["-i", str(folder), "-o", str(folder)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "does not exist" in errors[0] and "output folder is the input folder" in errors[1] and len(errors) == 2
