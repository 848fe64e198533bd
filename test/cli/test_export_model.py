"""The command that writes models for other programs."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from micro_sam import bioimageio
from micro_sam.cli import export_model
from micro_sam.models.build_sam import parameter_shapes
from micro_sam.models.decoder_adapter import get_predictor_and_decoder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "cells.tif", np.arange(96 * 96, dtype=np.uint16).reshape(96, 96))
    tifffile.imwrite(tmp_path / "labels.tif", np.eye(96, dtype=np.uint16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_flat_file_follows_from_the_name(folder, capsys):
    assert export_model.main(["-m", "vit_t_builtin", "-o", "flat.pth"]) == 0
    assert capsys.readouterr().out == "flat.pth\n"
    assert set(torch.load(folder / "flat.pth", weights_only=True)) == set(parameter_shapes("vit_t"))


def test_an_exported_model_is_exported_again_with_its_decoder(folder):
    assert export_model.main(["-m", "vit_t_builtin", "-o", "first.pt", "--with_decoder"]) == 0
    assert (
        export_model.main(["-m", "vit_t", "-c", "first.pt", "-o", "second", "--format", "flat", "--with_decoder"]) == 0
    )
    predictor, _ = get_predictor_and_decoder("vit_t", "second", "cpu")
    assert predictor.model_type == "vit_t"


def test_what_a_package_says_comes_from_the_flags(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(
        bioimageio, "export_sam_model", lambda *args, **kwargs: calls.append((args, kwargs)), raising=False
    )
    arguments = [
        "-m",
        "vit_b",
        "-o",
        "cells.zip",
        "--name",
        "My cells",
        "--image",
        "cells.tif",
        "--labels",
        "labels.tif",
    ]
    assert export_model.main([*arguments, "--automatic", "--author", "A", "--author", "B", "--license", "MIT"]) == 0
    [(args, kwargs)] = calls
    assert args[0].shape == args[1].shape == (96, 96) and args[2:4] == ("vit_b", "My cells")
    assert kwargs["automatic"] and kwargs["license"] == "MIT"
    assert kwargs["authors"] == [{"name": "A"}, {"name": "B"}]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "model.bin"], "says no format"),
        (["-o", "cells.tif"], "says no format"),
        (["-o", "cells.tif", "--format", "flat"], "'cells.tif' exists; add --overwrite"),
        (["-o", "labels.tif", "--format", "flat", "--overwrite", "-c", "labels.tif"], "labels.tif"),
        (["-o", "none/model.pth"], "does not exist"),
        (["-o", "model.pth", "-c", "none.pt"], "--checkpoint 'none.pt' does not exist"),
        (["-o", "model.pth", "-c", "cells.tif", "-m", "vit_b"], "cells.tif cannot be used"),
        (["-o", "cells.zip", "--image", "cells.tif"], "needs --name"),
        (["-o", "onnx_files", "--opset", "3"], "opset lies between"),
        (["-o", "model.pth", "-m", "vit_q"], "no model named"),
    ],
)
def test_errors_are_one_line(arguments, sentence, folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    try:
        code = export_model.main(["-m", "vit_t_builtin", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
