"""Export and import in the panels of real annotator windows."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import shapely
from annotator_toys import DISCS, iou, nuclei
from pycocotools.coco import COCO
from qtpy.QtWidgets import QFileDialog, QMessageBox
from skimage.measure import regionprops
from window_driver import Window, open_window

from micro_sam.exports import FORMATS, export_labels, import_labels
from micro_sam.io import read_tracks
from micro_sam.sam_annotator import Annotator2d, Annotator3d, AnnotatorTracking
from micro_sam.sam_annotator.exchange import classes_of
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.widgets.export_widget import ExportWidget

UNITS = {"scale": (0.5, 0.5), "units": ("micrometer", "micrometer")}


@pytest.fixture
def opened(make_napari_viewer, tmp_path, monkeypatch):
    """Opens annotators."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    windows: list[Window] = []

    def open_(widget_type: type, image: np.ndarray, **options) -> Window:
        windows.append(open_window(make_napari_viewer(show=True), widget_type, image, **options))
        windows[-1].wait(lambda: windows[-1].session.image is not None and not windows[-1].controller.jobs.is_running())
        return windows[-1]

    yield open_
    for window in windows:
        window.controller.close()


def exchange_of(window: Window) -> ExportWidget:
    """The widget, unfolded."""
    widget = window.widget.findChild(ExportWidget)
    widget.parent().parent().expand(animate=False)
    window.settle()
    return widget


def export(window: Window, monkeypatch, format: str, path) -> None:
    """Choose a format, press Export, choose a file."""
    widget = exchange_of(window)
    widget.format.setCurrentIndex(widget.format.findData(format))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    window.press(widget.export)
    window.wait(lambda: not window.controller.jobs.is_running())
    window.settle()


def import_(window: Window, monkeypatch, path) -> None:
    """Press Import, choose a file."""
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (str(path), ""))
    window.press(exchange_of(window).import_)
    window.wait(lambda: not window.controller.jobs.is_running())
    window.settle()


def test_annotated_objects_leave_in_every_format(opened, image, truth, tmp_path, monkeypatch):
    window = opened(Annotator2d, image, **UNITS)
    window.press(window.widget.embedding.compute)
    window.ready()
    for y, x, _ in DISCS.values():
        window.click(y, x)
        window.answered()
        window.key("C")
    committed = window.labels("committed").copy()
    assert len(np.unique(committed)) == 5
    widget = exchange_of(window)
    assert window.widget.width() <= 320 and widget.width() < 300
    assert {widget.format.itemData(k) for k in range(widget.format.count())} == set(FORMATS) - {"ctc", "geff"}
    for name in ("ome-tif", "tif", "ome-zarr", "imagej", "geojson", "coco", "csv", "parquet"):
        path = tmp_path / f"cells{FORMATS[name].suffixes[0]}"
        export(window, monkeypatch, name, path)
        assert f"Exported 4 objects to {path}" in window.status
        if FORMATS[name].readable:
            assert (import_labels(path, committed.shape).labels == committed).all()
    table = pd.read_csv(tmp_path / "cells.csv")
    for row in table.to_dict("records"):
        mask = committed == row["label"]
        assert row["area_um2"] == pytest.approx(mask.sum() / 4)
        assert row["intensity_mean"] == pytest.approx(image[mask].mean())
        [shape] = regionprops(mask.astype(np.uint8))
        assert row["circularity"] == pytest.approx(4 * np.pi * shape.area / shape.perimeter**2, rel=1e-3)
    areas = {
        int(f["properties"]["name"]): shapely.geometry.shape(f["geometry"]).area
        for f in json.loads((tmp_path / "cells.geojson").read_text())["features"]
    }
    assert areas == {label: (committed == label).sum() for label in DISCS}
    assert {found["area"] for found in COCO(tmp_path / "cells.json").anns.values()} == set(areas.values())


def test_settings_are_those_of_the_format(opened, image):
    window = opened(Annotator2d, image)
    widget = exchange_of(window)
    shown = {}
    for name in ("geojson", "coco", "csv", "tif"):
        widget.format.setCurrentIndex(widget.format.findData(name))
        shown[name] = [key for key, editor in widget.settings._inputs.items() if editor.isVisible()]
    assert shown == {"geojson": ["qupath_object"], "coco": ["coco_masks"], "csv": ["shape_descriptors"], "tif": []}


def test_objects_of_qupath_are_corrected_and_go_back(opened, image, truth, tmp_path, monkeypatch):
    coarse = truth.copy()
    coarse[:90, 45:90] = 0  # more than half of the first disc is missing
    path = export_labels(tmp_path / "qupath.geojson", coarse, classes={1: "Tumor", 2: "Stroma"})
    window = opened(Annotator2d, image)
    window.press(window.widget.embedding.compute)
    window.ready()
    import_(window, monkeypatch, path)
    assert (window.labels("committed") == coarse).all()
    assert "Imported 4 objects" in window.status
    layer = window.viewer.layers["committed_objects"]
    assert classes_of(layer) == {1: "Tumor", 2: "Stroma"}

    window.hover(50, 35)
    window.key("Shift+E")
    for y, x in ((50, 60), (38, 55), (62, 55)):
        window.click(y, x)
        window.answered()
    window.key("C")
    assert iou(window.labels("committed") == 1, truth == 1) > 0.75 > iou(coarse == 1, truth == 1)
    export(window, monkeypatch, "geojson", tmp_path / "back.geojson")
    back = import_labels(tmp_path / "back.geojson", image.shape)
    assert (back.labels == window.labels("committed")).all() and back.classes == {1: "Tumor", 2: "Stroma"}
    for _ in range(10):
        window.key("Ctrl+Z")
    assert not window.labels("committed").any()


def test_nothing_is_replaced_unasked_and_errors_are_shown(opened, image, truth, tmp_path, monkeypatch):
    window = opened(Annotator2d, image)
    window.session.put("committed", truth, "Loaded labels")
    path, asked = tmp_path / "cells.geojson", []
    path.write_text("precious")
    answers = iter((QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes))
    monkeypatch.setattr(QMessageBox, "question", lambda *a, **_: (asked.append(a[2]), next(answers))[1])
    export(window, monkeypatch, "geojson", tmp_path / "cells")  # the suffix is added
    assert path.read_text() == "precious" and str(path) in asked[0]
    export(window, monkeypatch, "geojson", path)
    assert len(json.loads(path.read_text())["features"]) == 4 and len(asked) == 2

    export(window, monkeypatch, "csv", tmp_path / "missing" / "cells.csv")
    assert window.widget.status.kind == "error" and "does not exist" in window.status
    export_labels(tmp_path / "half.tif", truth[::2, ::2])
    import_(window, monkeypatch, tmp_path / "half.tif")
    assert window.widget.status.kind == "error" and "with the scale 2 they fit" in window.status
    assert (window.labels("committed") == truth).all()
    exchange_of(window).importing._inputs["scale"].setValue(2)
    import_(window, monkeypatch, tmp_path / "half.tif")
    assert iou(window.labels("committed"), truth) > 0.95


def test_volumes_leave_and_come_slice_by_slice(opened, tmp_path, monkeypatch):
    volume, truth = nuclei()
    window = opened(Annotator3d, volume, scale=(2, 0.5, 0.5), units=("micrometer",) * 3)
    window.session.put("committed", truth, "Loaded labels")
    for name in ("imagej", "csv", "ome-tif"):
        export(window, monkeypatch, name, tmp_path / f"nuclei{FORMATS[name].suffixes[0]}")
    table = pd.read_csv(tmp_path / "nuclei.csv")
    assert table["volume_um3"].tolist() == [(truth == label).sum() / 2 for label in table["label"]]
    import_(window, monkeypatch, tmp_path / "nuclei.zip")
    assert (window.labels("committed") == truth).all()
    assert import_labels(tmp_path / "nuclei.ome.tif").resolution.size == {"z": 2, "y": 0.5, "x": 0.5}


def test_tracks_leave_and_come_with_their_lineages(opened, movie, tmp_path, monkeypatch):
    images, tracks, lineages = movie
    window = opened(AnnotatorTracking, images)
    window.session.put_tracks("committed", tracks, Lineage.from_families(lineages), "Loaded tracks")
    families = window.session.lineages()
    for name, path in (("ctc", tmp_path / "challenge"), ("geff", tmp_path / "graph.geff"), ("csv", tmp_path / "t.csv")):
        export(window, monkeypatch, name, path)
        assert "Exported" in window.status and window.widget.status.kind != "error"
        if name == "csv":
            table = pd.read_csv(path)
            assert len(table) == sum(len(np.unique(frame)) - 1 for frame in tracks)
            assert set(table["mother"]) - {0} == {m for family in families for m, d in family.items() if d}
            continue
        labels, read = read_tracks(path)
        assert (labels == tracks).all() and read == families
        window.session.put_tracks("committed", np.zeros_like(tracks), Lineage(), "Loaded tracks")
        import_(window, monkeypatch, path / "res_track.txt" if name == "ctc" else path)
        assert (window.labels("committed") == tracks).all() and window.session.lineages() == families


def test_classes_do_not_go_on_to_the_next_image(opened, image, truth, tmp_path, monkeypatch):
    path = export_labels(tmp_path / "a.ome.zarr", truth)
    export_labels(tmp_path / "a.geojson", truth, classes={1: "Tumor"})
    window = opened(Annotator2d, image)
    import_(window, monkeypatch, tmp_path / "a.geojson")
    assert classes_of(window.controller.layers.labels["committed"]) == {1: "Tumor"}
    window.controller.choose_image(window.viewer.add_image(image[::-1].copy(), name="other"))
    window.wait(lambda: not window.controller.jobs.is_running())
    import_(window, monkeypatch, path / "zarr.json")
    assert (window.labels("committed") == truth).all()
    assert classes_of(window.controller.layers.labels["committed"]) == {}
