"""The commands that score segmentations and models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile
from segmentation_toys import draw_ellipses

from micro_sam.cli import benchmark_sam, evaluate
from micro_sam.evaluation.benchmark_datasets import benchmark_datasets


@pytest.fixture
def folders(tmp_path):
    for k in (2, 10):
        labels = draw_ellipses((96, 128), 6, (6, 14), seed=k)
        for folder, array in (("truth", labels), ("found", np.where(labels == 1, 0, labels))):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"img_{k}.tif", array.astype(np.uint16))
    return tmp_path


def test_two_folders_are_compared(folders, capsys):
    output = folders / "scores.csv"
    arguments = ["--labels", str(folders / "truth"), "--predictions", str(folders / "found"), "-o", str(output)]
    assert evaluate.main(arguments) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(printed["mSA"]) == pytest.approx(5 / 6, abs=1e-4)
    assert pd.read_csv(output)["SA75"][0] == pytest.approx(5 / 6)


def test_thresholds_can_be_chosen(folders, capsys):
    files = [str(folders / kind / "img_2.tif") for kind in ("truth", "found")]
    assert evaluate.main(["--labels", files[0], "--predictions", files[1], "--threshold", "0.6", "0.9"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["mSA", "SA60", "SA90"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--labels", "truth", "--predictions", "found/img_2.tif"], "as many predictions"),
        (["--labels", "truth", "--predictions", "nowhere"], "no file or folder"),
        (["--labels", "truth", "--predictions", "found", "-o", "nowhere/scores.csv"], "does not exist"),
        (["--labels", "truth", "--predictions", "found", "--threshold", "2"], "between 0 and 1"),
        (["--labels", "truth", "--predictions", "found", "--typo"], "unrecognized"),
    ],
)
def test_errors_are_one_line(arguments, sentence, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    try:
        code = evaluate.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_the_benchmark_knows_every_data_set_without_loading_anything_heavy():
    assert benchmark_sam.dataset_names() == sorted(benchmark_datasets())
    args = benchmark_sam.build_parser().parse_args(["-i", ".", "-d", "dsb", "livecell", "--device", "cpu"])
    assert (args.dataset_choice, args.device) == (["dsb", "livecell"], "cpu")


def test_the_benchmark_reports_a_missing_folder_in_one_line(tmp_path, capsys):
    assert benchmark_sam.main(["-i", str(tmp_path / "nowhere"), "-d", "dsb"]) == 2
    assert "does not exist" in capsys.readouterr().err
