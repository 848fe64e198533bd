"""Everything that a window can be told is also told by its Python function and by its command."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from annotator_toys import discs
from window_driver import Window, open_window

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator import Annotator2d, Annotator3d, AnnotatorTracking

SHARED = ["--preserve_mode", "pixels", "--preservation_threshold", "0.5", "--no-live", "--no-tidy"]
AUTOMATIC = ["--mode", "ais", "--min_size", "40"]
FLAGS = {
    "annotator_2d": [*SHARED, *AUTOMATIC, "--batched"],
    "annotator_3d": [
        *SHARED, *AUTOMATIC, "--batched", "--projection", "box", "--iou_threshold", "0", "--box_extension", "0.2",
        "--follow_splits", "--z_limits", "0", "1", "--doubtful_below", "0.7", "--gap_closing", "1",
    ],
    "annotator_tracking": [
        *SHARED, *AUTOMATIC, "--projection", "points", "--iou_threshold", "0.3", "--motion_smoothing", "0",
        "--doubtful_below", "0.7", "--gap_closing", "3", "--no-divisions",
    ],
}  # fmt: skip
TYPES = {"annotator_2d": Annotator2d, "annotator_3d": Annotator3d, "annotator_tracking": AnnotatorTracking}
#: What the functions take beside the options.
ARGUMENTS = {
    "embedding_path", "model_type", "checkpoint_path", "decoder_path", "device", "precision", "tile_shape", "halo",
    "normalization", "precompute_amg_state", "prefer_decoder", "segmentation_result", "tracking_result", "scale", "unit",
}  # fmt: skip


def given(name: str, tmp_path: Path, monkeypatch) -> dict:
    """What a command gives to its function, without what is no option."""
    import micro_sam.sam_annotator as annotators

    array = discs()[0] if name == "annotator_2d" else np.stack([discs()[0]] * 3)
    np.save(tmp_path / "image.npy", array)
    calls = []
    monkeypatch.setattr(annotators, name, lambda image, **options: calls.append(options))
    command = importlib.import_module(f"micro_sam.cli.{name}")
    assert command.main(["-i", str(tmp_path / "image.npy"), "-m", "vit_t_builtin", "-d", "cpu", *FLAGS[name]]) == 0
    monkeypatch.undo()
    return {key: value for key, value in calls[0].items() if key not in ARGUMENTS}


@pytest.mark.parametrize("name", FLAGS)
def test_options_of_a_command_arrive_in_the_window(name, make_napari_viewer, tmp_path, monkeypatch):
    options = given(name, tmp_path, monkeypatch)
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    window = open_window(make_napari_viewer(), TYPES[name], np.load(tmp_path / "image.npy"))
    window.controller.set_options(**options)
    now, panel = window.session.options, window.widget
    assert (now.preserve_mode, now.preservation_threshold, now.live, now.tidy) == ("pixels", 0.5, False, False)
    assert not panel.segment.live.isChecked() and panel.commit.preserve_mode() == "pixels"
    window.controller._on_mode_chosen("ais")  # as when a model was loaded
    assert panel.automatic.settings().min_size == 40 and window.controller._mode_wanted == "ais"
    {"annotator_2d": check_2d, "annotator_3d": check_3d, "annotator_tracking": check_tracking}[name](window)
    with pytest.raises(ParameterError, match="no option 'colour'.*live"):
        window.controller.set_options(colour="red")
    with pytest.raises(ParameterError, match="no parameter|No mode has the parameter 'size'"):
        window.controller.set_options(settings={"size": 3})
    with pytest.raises(ParameterError, match="mode is one of amg"):
        window.controller.set_options(mode="best")
    window.controller.close()


def check_2d(window: Window) -> None:
    assert window.session.options.batched and window.widget.segment.batched.isChecked()


def check_3d(window: Window) -> None:
    session, widget = window.session, window.widget.propagation
    assert session.options.batched and session.propagation.projection.box and session.propagation.follow_splits
    assert (session.propagation.iou_threshold, session.propagation.box_extension) == (0.0, 0.2)
    assert (widget.iou.value(), widget.extension.value(), widget.doubt.value()) == (0.0, 0.2, 0.7)
    assert window.widget.volume.settings().gap_closing == 1
    assert session.z_limits == widget.limits() == (None, 1)


def check_tracking(window: Window) -> None:
    follow, links = window.widget.follow, window.widget.automatic.links.values()
    assert follow.projection.currentData() == "points"
    values = follow.form.values()
    assert (values.iou_threshold, values.motion_smoothing, values.doubtful_below) == (0.3, 0.0, 0.7)
    assert (links.gap_closing, links.divisions) == (3, False)
    assert window.controller._doubtful_below == 0.7
    with pytest.raises(ParameterError, match="projection is one of"):
        window.controller.set_options(projection="circle")


def test_a_parameter_of_another_mode_is_refused_by_the_command(tmp_path, capsys):
    command = importlib.import_module("micro_sam.cli.annotator_2d")
    np.save(tmp_path / "image.npy", discs()[0])
    arguments = ["-i", str(tmp_path / "image.npy"), "--mode", "amg", "--min_size", "3"]
    assert command.main(arguments) == 2
    assert "--min_size belongs to --mode ais and apg" in capsys.readouterr().err
