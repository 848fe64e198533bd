"""``micro_sam.train``: flags come from the settings, errors are one sentence, and the result is a model file."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import tifffile

from micro_sam.cli import train
from micro_sam.models.predictor import get_sam_model
from micro_sam.sample_data import synthetic_data
from micro_sam.training import run as running
from micro_sam.training.settings import TrainingSettings


@pytest.fixture
def folders(tmp_path):
    """Two images and their labels."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(2):
        raw, labels = synthetic_data((80, 80), seed=i, kind="nuclei", diameter=16)
        tifffile.imwrite(tmp_path / "images" / f"{i}.tif", raw)
        tifffile.imwrite(tmp_path / "labels" / f"{i}.tif", labels.astype(np.uint16))
    return tmp_path


def _flags(root):
    return [
        "--images", str(root / "images"), "--image_key", "*.tif", "--labels", str(root / "labels"), "--label_key", "*.tif",
        "--patch_shape", "64", "64",
    ]  # fmt: skip


def test_every_setting_has_a_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{item.name}" in text for item in fields(TrainingSettings))


def test_check_prints_the_table(folders, capsys):
    assert train.main([*_flags(folders), "--check"]) == 0
    assert "2 fine, 0 skipped, 0 wrong" in capsys.readouterr().out
    tifffile.imwrite(folders / "labels" / "1.tif", np.ones((3, 3), np.uint16))
    assert train.main([*_flags(folders), "--check"]) == 2
    assert "1 fine, 0 skipped, 1 wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--val_images", "x"], "add --val_labels"),
        (["--learning_rate", "-1"], "learning_rate must be between"),
        (["--checkpoint_path", "nothing.pt"], "does not exist"),
        (["--quantize"], "quantize is for peft 'lora'"),
    ],
)
def test_errors_are_one_sentence(folders, capsys, flags, message):
    assert train.main([*_flags(folders), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_comes_out(folders, monkeypatch, capsys):
    monkeypatch.setattr(running, "run_training", partial(running.run_training, model_kwargs={"image_size": 64}))
    output = folders / "cells.pt"
    flags = [
        "--trained_model_name", "cells", "-m", "vit_t_builtin", "-s", str(folders), "--output_path", str(output),
        "--n_iterations", "1", "--n_samples", "1", "--n_objects_per_batch", "2", "--n_sub_iteration", "1", "--n_scored", "1",
        "--freeze", "image_encoder", "-d", "cpu",
    ]  # fmt: skip
    assert train.main([*_flags(folders), *flags]) == 0
    assert "on held-out objects" in capsys.readouterr().out
    assert get_sam_model(checkpoint_path=output, device="cpu").model_name == "cells"
