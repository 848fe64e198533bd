"""A series when things are not as they should be: layers go, images change, folders are locked, windows close too early."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from annotator_toys import DISCS, discs, iou
from series_windows import MODEL, SeriesWindow, window_of

from micro_sam.errors import OutputError
from micro_sam.sam_annotator import image_folder_annotator


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images of the same discs."""
    (made := tmp_path / "images").mkdir()
    for k in range(3):
        tifffile.imwrite(made / f"cells_{k}.tif", discs()[0])
    return made


@pytest.fixture
def open_series(make_napari_viewer, folder, tmp_path, monkeypatch):
    """Opens the series; the annotator is closed at the end."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened: list[SeriesWindow] = []

    def open_(**options) -> SeriesWindow:
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1000, 640)
        image_folder_annotator(folder, tmp_path / "out", viewer=viewer, **MODEL, **options)
        opened.append(window_of(viewer))
        return opened[-1]

    yield open_
    for window in opened:
        window.controller.close()


def test_layers_deleted_and_renamed_and_an_image_replaced(open_series, tmp_path, truth):
    window = open_series()
    window.at_image(0)
    layers = window.viewer.layers
    layers["committed_objects"].name = "my cells"
    window.commit(*DISCS[1][:2])
    for name in ("my cells", "point_prompts", "current_object"):
        layers.remove(name)
    window.wait(lambda: "committed_objects" in layers and "point_prompts" in layers)
    window.commit(*DISCS[2][:2])
    window.key("N")
    window.at_image(1)
    saved = tifffile.imread(tmp_path / "out" / "cells_0.tif")
    assert iou(saved == 1, truth == 1) > 0.75 and iou(saved == 2, truth == 2) > 0.75

    # The image is replaced: by one of the same shape labels stay, another shape cannot be saved under this name
    window.commit(*DISCS[3][:2])
    committed = window.labels("committed").copy()
    window.controller.layers.image.data = discs()[0][::-1].copy()
    assert window.session.embeddings is None and "compute its embeddings" in window.status
    np.testing.assert_array_equal(window.labels("committed"), committed)
    window.key("N")
    window.at_image(2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "cells_1.tif"), committed)
    window.commit(*DISCS[4][:2])
    window.controller.layers.image.data = np.zeros((50, 60), np.uint8)
    window.settle()
    window.controller.session.put("committed", np.ones((50, 60), np.uint32), "Painted", kind="paint")
    window.key("N")
    window.wait(lambda: window.widget.status.kind == "error")
    assert "(50, 60)" in window.status and "undo that" in window.status and window.series.index == 2
    assert not (tmp_path / "out" / "cells_2.tif").exists()


def test_an_image_layer_that_is_deleted_takes_nothing_along(open_series, tmp_path):
    window = open_series()
    window.at_image(0)
    window.commit(*DISCS[1][:2])
    committed = window.labels("committed").copy()
    window.viewer.layers.remove("cells_0")
    window.settle(5)
    window.key("N")
    window.at_image(1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "cells_0.tif"), committed)
    window.commit(*DISCS[2][:2])
    assert window.labels("committed").any()


def test_embeddings_that_cannot_be_written_are_named_and_work_can_go_on(open_series, tmp_path):
    with pytest.raises(OutputError, match="/sys/embeddings"):  # /sys is read-only for everybody, also for root
        open_series(embedding_path="/sys/embeddings")
    window = open_series(embedding_path="/sys/kernel")
    window.wait(lambda: window.widget.status.kind == "error")
    assert "/sys/kernel" in window.status and window.session.image is not None
    window.widget.embedding.store.line.setText("")
    window.press(window.widget.embedding.compute)
    window.ready()
    window.commit(*DISCS[1][:2])
    window.key("N")
    window.wait(lambda: window.series.index == 1 and not window.series._moving)
    assert (tmp_path / "out" / "cells_0.tif").is_file()


def test_closing_while_the_image_is_encoded_and_while_the_next_is_opened(open_series, tmp_path):
    window = open_series()
    window.wait(lambda: window.series.index == 0 and window.controller.jobs.is_running("embeddings"))
    window.viewer.close()
    assert not window.controller.jobs.is_running() and not window.series.jobs.is_running()

    window = open_series()
    window.at_image(0)
    window.commit(*DISCS[1][:2])
    window.series.next()
    window.series.next()  # a second click while it goes
    assert window.series._moving
    window.viewer.close()
    assert not window.series.jobs.is_running()
    assert tifffile.imread(tmp_path / "out" / "cells_0.tif").any()
    states = [e["state"] for e in json.loads((tmp_path / "out" / "image_series.json").read_text())["images"]]
    assert states == ["done"]  # the record holds the images that were left or marked
