"""How annotators are opened: the Plugins menu, the Python function, the command; and what a killed window leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from annotator_toys import DISCS, iou
from npe2 import PluginManifest
from window_driver import Window, open_window

from micro_sam.cli import annotator_2d as command
from micro_sam.sam_annotator import Annotator2d, annotator_2d
from micro_sam.sam_annotator.llvm import keep_triton_out
from micro_sam.sam_annotator.session import AnnotatedImage, find_unfinished, replay
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def window_of(viewer) -> Window:
    return Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))


def test_the_manifest_names_things_that_exist():
    manifest = PluginManifest.from_distribution("micro_sam")
    manifest.validate_imports()
    assert manifest.display_name == "Segment Anything for Microscopy"
    assert "Annotator 2d" in [widget.display_name for widget in manifest.contributions.widgets]
    assert len(manifest.contributions.sample_data) >= 8


def test_synthetic_samples_are_layers(make_napari_viewer):
    from micro_sam.sam_annotator import samples

    for make, ndim in ((samples.synthetic_nuclei, 2), (samples.synthetic_volume, 3)):
        [(data, options, kind)] = make()
        assert kind == "image" and data.ndim == ndim and options["name"] and data.std() > 5


def test_the_function_opens_a_window_that_computes_by_itself(make_napari_viewer, image, truth, cache, tmp_path):
    lazy = da.from_array(np.stack([image, image], axis=-1).astype(np.uint16) * 200, chunks=(64, 64, 2))
    viewer = annotator_2d(
        lazy,
        str(tmp_path / "cells.zarr"),
        segmentation_result=np.where(truth == 4, 9, 0),
        model_type="vit_t_builtin",
        device="cpu",
        viewer=make_napari_viewer(show=True),
        return_viewer=True,
        scale=(0.5, 0.5),
        precompute_amg_state=True,
        commit_path=str(tmp_path / "labels.tif"),
        preserve_mode="pixels",
    )
    window = window_of(viewer)
    assert window.session.embeddings is None  # the window was there first
    window.ready()
    assert (tmp_path / "cells.zarr" / "is_state.h5").exists() and viewer.layers["image"].rgb
    assert window.widget.embedding.compute.text().startswith("Embeddings are ready")
    window.click(*DISCS[1][:2])
    window.answered()
    window.key("C")
    assert set(np.unique(window.labels("committed"))) == {0, 9, 10}
    assert iou(window.labels("committed") == 10, truth == 1) > 0.5
    window.wait(lambda: (tmp_path / "labels.tif").exists() and not window.controller.jobs.is_running())
    assert list((tmp_path / "cells.zarr.journal").iterdir())
    window.controller.close()


def test_embeddings_of_a_script_are_used_and_those_of_another_model_refused(
    make_napari_viewer, image, embeddings, cache, tmp_path
):
    viewer = make_napari_viewer(show=True)
    options = {"model_type": "vit_t_builtin", "device": "cpu", "viewer": viewer, "return_viewer": True}
    annotator_2d(image, embeddings, **options)
    first = window_of(viewer)
    first.ready()
    assert first.session.embeddings is embeddings
    annotator_2d(image[:, :100], embedding_path=None, **options)  # another one in the same viewer takes its place
    panels = [p for p in viewer.window._qt_window.findChildren(AnnotatorPanel) if not p.controller._closed]
    assert len(panels) == 1 and first.controller._closed
    second = Window(viewer, panels[0])
    second.ready()
    assert second.labels("committed").shape == (192, 100)
    assert any("S" == str(key) for key in viewer.keymap)
    viewer.window.remove_dock_widget(second.widget)  # as the cross of the dock does
    second.settle()
    assert second.controller._closed and not viewer.keymap
    assert not [call for call in viewer.mouse_drag_callbacks if "CanvasTools" in repr(call)]


def test_the_command_takes_all_flags_and_refuses_what_is_not_there(tmp_path, capsys, monkeypatch):
    args = command.build_parser().parse_args(
        [
            "-i",
            "a.tif",
            "-k",
            "raw",
            "-e",
            "e.zarr",
            "-s",
            "s.tif",
            "-sk",
            "labels",
            "-m",
            "vit_t_builtin",
            "-c",
            "own.pt",
            "--decoder_path",
            "d.pt",
            "-d",
            "cpu",
            "--tile_shape",
            "512",
            "512",
            "--halo",
            "64",
            "64",
            "--precompute_amg_state",
            "--no-prefer_decoder",
            "--commit_path",
            "l.tif",
            "--preserve_mode",
            "none",
        ]
    )
    assert args.segmentation_key == "labels" and not args.prefer_decoder
    assert command.main(["-i", str(tmp_path / "missing.tif")]) == 2
    np.save(tmp_path / "volume.npy", np.zeros((20, 30, 40), np.uint8))
    assert command.main(["-i", str(tmp_path / "volume.npy")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "does not exist" in errors[0] and "annotator_3d" in errors[1] and len(errors) == 2


def test_the_command_passes_on_what_it_was_given(tmp_path, monkeypatch, image):
    import micro_sam.sam_annotator as annotators

    calls = []
    monkeypatch.setattr(annotators, "annotator_2d", lambda *args, **kwargs: calls.append((args, kwargs)))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", (image > 100).astype(np.uint16))
    flags = ["-i", str(tmp_path / "image.npy"), "-s", str(tmp_path / "labels.npy"), "-m", "vit_t_builtin", "-d", "cpu"]
    assert command.main([*flags, "-e", "cells.zarr", "--tile_shape", "512", "512", "--halo", "64", "64"]) == 0
    [((array,), given)] = calls
    np.testing.assert_array_equal(array, image)
    np.testing.assert_array_equal(given["segmentation_result"], image > 100)
    assert given["embedding_path"] == "cells.zarr" and given["tile_shape"] == (512, 512) and given["device"] == "cpu"
    assert given["prefer_decoder"] is True and given["checkpoint_path"] is None


def test_triton_stays_out_only_where_mesa_has_its_own_llvm(monkeypatch):
    from micro_sam.sam_annotator import llvm

    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(llvm, "_mesa_has_llvm", lambda: False)
    assert not keep_triton_out() and "triton" not in sys.modules
    monkeypatch.setattr(llvm, "_mesa_has_llvm", lambda: True)
    assert keep_triton_out()
    with pytest.raises(ImportError):
        import triton  # noqa: F401
    monkeypatch.delitem(sys.modules, "triton", raising=False)


PLUGIN_FIRST = """
import napari
viewer = napari.Viewer(show=True)
napari.qt.get_qapp().processEvents()
from micro_sam.sam_annotator.annotator_2d import Annotator2d
viewer.window.add_dock_widget(Annotator2d(viewer))
print("opened", flush=True)
viewer.close()
"""


def test_the_annotator_opens_in_a_napari_that_runs_already(cache):
    """Torch is then loaded after OpenGL, which once ended in a segmentation fault."""
    done = subprocess.run(
        [sys.executable, "-c", PLUGIN_FIRST], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "opened" in done.stdout, done.stderr[-2000:]


KILLED = """
import sys
import napari, numpy as np
from window_driver import open_window
from annotator_toys import DISCS
from micro_sam.sam_annotator import Annotator2d
window = open_window(napari.Viewer(), Annotator2d, np.load(sys.argv[1]))
window.press(window.widget.embedding.compute)
window.ready()
for label in (1, 2, 3):
    window.click(*DISCS[label][:2])
    window.answered()
    if label < 3:
        window.key("C")
np.savez(sys.argv[2], **window.session.labels)
print("working", flush=True)
while True:
    window.settle()
"""


def test_a_window_that_is_killed_comes_back_exactly_as_it_was(make_napari_viewer, image, cache, tmp_path):
    np.save(tmp_path / "image.npy", image)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "image.npy"), str(tmp_path / "labels.npz")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().strip() == "working"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    expected = np.load(tmp_path / "labels.npz")

    work = find_unfinished(AnnotatedImage.from_array(image), "annotator_2d")
    assert work.crashed and work.n_objects == 2
    np.testing.assert_array_equal(replay(work.folder).committed, expected["committed"])
    window = open_window(make_napari_viewer(show=True), Annotator2d, image)
    window.wait(lambda: window.widget.banner.isVisible())
    assert "was interrupted: 2 objects" in window.widget.banner.text.text()
    window.press(window.widget.banner.restore)
    for key in expected:
        np.testing.assert_array_equal(window.labels(key), expected[key])
    assert tuple(window.controller.layers.points.data[0]) == pytest.approx(DISCS[3][:2], abs=1.5)
    for _ in range(10):
        window.key("Ctrl+Z")
    assert not window.labels("committed").any() and not window.session.prompts
    window.controller.close()
