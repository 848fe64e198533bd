"""Images in several resolutions, as dask arrays and as OME-Zarr: the full one is annotated, wherever it lies in the world."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from annotator_toys import DISCS, iou, nuclei, place
from window_driver import Window, open_window

from micro_sam.cli import annotator_3d as command
from micro_sam.io import open_image, write_labels
from micro_sam.io.resolution import Resolution
from micro_sam.sam_annotator import Annotator2d, Annotator3d
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

#: Depth, height and width of a voxel.
VOXEL = (2.0, 0.25, 0.25)


@pytest.fixture
def viewer(make_napari_viewer, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    return make_napari_viewer(show=True)


def compute(window: Window) -> None:
    window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 60)


def test_a_pyramid_of_dask_arrays_is_annotated_at_full_resolution(viewer, image, truth):
    levels = [da.from_array(image[::step, ::step].copy(), chunks=64) for step in (1, 2, 4)]
    viewer.add_image(levels, multiscale=True, name="pyramid", scale=(0.5, 0.5), translate=(100, -40))
    window = open_window(viewer, Annotator2d)
    compute(window)
    assert window.labels("committed").shape == image.shape
    layer = viewer.layers["committed_objects"]
    np.testing.assert_allclose((*layer.scale, *layer.translate), (0.5, 0.5, 100, -40))
    for label in (1, 2):
        window.click(*DISCS[label][:2])
        window.answered()
        window.key("C")
        assert iou(window.labels("committed") == label, truth == label) > 0.75
    window.press(window.widget.automatic.run)
    window.wait(lambda: window.labels("auto").any())
    assert iou(window.labels("auto")[90:] > 0, truth[90:] > 0) > 0.7
    window.hover(*DISCS[2][:2])
    window.key("Shift+D")  # in the automatic segmentation, which lies on top
    assert not window.labels("auto")[DISCS[2][:2]] and window.labels("committed")[DISCS[2][:2]] == 2
    window.controller.close()


def test_an_ome_zarr_volume_with_its_voxel_size_is_annotated_and_saved(viewer, tmp_path):
    volume, labels = nuclei()
    path = tmp_path / "nuclei.ome.zarr"
    write_labels(path, volume.astype(np.uint16), Resolution(dict(zip("zyx", VOXEL)), "micrometer"))
    file = open_image(path)
    whole = da.from_zarr(file.read(lazy=True))
    levels = [whole, whole[:, ::2, ::2]]
    viewer.add_image(
        levels, multiscale=True, scale=file.resolution.scale("zyx"), units=("micrometer",) * 3, name="nuclei"
    )
    window = open_window(viewer, Annotator3d)
    viewer.dims.set_point(0, 2 * VOXEL[0])
    compute(window)
    assert window.controller.layers.current_slice() == 2
    window.click(*place(2))
    window.answered()
    assert iou(window.labels("current")[2], labels[2] == 2) > 0.75
    window.key("Shift+S")
    window.wait(lambda: not window.controller.jobs.is_running())
    window.settle()
    assert min(iou(window.labels("current")[z], labels[z] == 2) for z in range(4)) > 0.7
    window.key("C")
    window.controller.save(str(tmp_path / "labels.ome.zarr"))
    window.wait(lambda: "Saved" in window.status)
    saved = open_image(tmp_path / "labels.ome.zarr")
    assert tuple(saved.resolution.scale("zyx")) == VOXEL and saved.resolution.unit == "micrometer"
    np.testing.assert_array_equal(saved.read(), window.labels("committed"))
    window.controller.close()


def test_the_command_opens_an_ome_zarr_volume_with_its_voxel_size(viewer, tmp_path, monkeypatch):
    import napari

    volume, labels = nuclei()
    path = tmp_path / "nuclei.ome.zarr"
    write_labels(path, volume.astype(np.uint16), Resolution(dict(zip("zyx", VOXEL)), "micrometer"))
    monkeypatch.setattr(napari, "Viewer", lambda: viewer)
    monkeypatch.setattr(napari, "run", lambda: None)
    assert command.main(["-i", str(path), "-m", "vit_t_builtin", "-d", "cpu"]) == 0
    window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    np.testing.assert_allclose(viewer.layers[0].scale, VOXEL)
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"micrometer"}
    viewer.dims.set_point(0, 2 * VOXEL[0])
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 60)
    window.click(*place(4))
    window.answered()
    assert iou(window.labels("current")[2], labels[2] == 4) > 0.75
    window.key("C")
    window.controller.save(str(tmp_path / "labels.tif"))
    window.wait(lambda: "Saved" in window.status)
    saved = open_image(tmp_path / "labels.tif").resolution
    assert tuple(saved.scale("zyx")) == pytest.approx(VOXEL) and saved.unit == "micrometer"
    window.controller.close()
