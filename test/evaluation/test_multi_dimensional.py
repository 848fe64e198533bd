"""Following annotated objects through a small volume, with a model that knows the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from segmentation_toys import draw_ellipses, toy_predictor

from micro_sam.errors import ParameterError
from micro_sam.evaluation import multi_dimensional_segmentation as evaluation


@pytest.fixture
def volume(monkeypatch):
    """Five slices with objects that go through all of them or some; the toy model segments each slice by brightness."""
    monkeypatch.setattr("micro_sam.models.predictor.get_sam_model", lambda *args, **kwargs: toy_predictor())
    truth = np.repeat(draw_ellipses((96, 128), 4, (10, 16), gap=6)[None], 5, axis=0)
    truth[:2][truth[:2] == 2] = 0
    return np.where(truth > 0, 255, 0).astype(np.uint8), truth


@pytest.mark.parametrize("mode", ["box", "points"])
def test_objects_are_followed_from_their_middle_slice(mode, volume, tmp_path):
    scores, labels = evaluation.segment_slices_from_ground_truth(
        *volume,
        "toy",
        iou_threshold=0.5,
        interactive_seg_mode=mode,
        return_segmentation=True,
        save_path=tmp_path / "l.tif",
    )
    assert set(scores) == {"mSA", "SA50", "SA75"} and scores["SA50"] == 1 and scores["mSA"] > 0.8
    assert set(np.unique(labels)) == set(np.unique(volume[1])) and (tmp_path / "l.tif").exists()


def test_small_objects_are_left_out_and_dice_can_be_asked_for(volume):
    image, truth = volume
    truth = truth.copy()
    truth[2, 0, :3] = 9
    scores = evaluation.segment_slices_from_ground_truth(image, truth, "toy", min_size=50, evaluation_metric="dice")
    assert scores["Dice"] > 0.85
    with pytest.raises(ParameterError, match="1000000 voxels"):
        evaluation.segment_slices_from_ground_truth(image, truth, "toy", min_size=10**6)


def test_a_grid_search_resumes_and_writes_the_best(volume, tmp_path):
    grid = {"iou_threshold": [0.5], "projection": ["box", "mask"], "box_extension": [0.0]}
    arguments = (*volume, "toy", None, None, tmp_path)
    path = evaluation.run_multi_dimensional_segmentation_grid_search(*arguments, grid_search_values=grid)
    table = pd.read_csv(tmp_path / "grid_search_results.csv")
    best = json.loads(Path(path).read_text())
    assert len(table) == 2 and best["score"] == pytest.approx(table["mSA"].max())
    changed = table.assign(mSA=[0.0, 0.99])
    changed.to_csv(tmp_path / "grid_search_results.csv", index=False)
    evaluation.run_multi_dimensional_segmentation_grid_search(*arguments, grid_search_values=grid)
    assert json.loads(Path(path).read_text())["score"] == 0.99  # nothing was computed again


def test_the_default_grid_takes_single_values():
    grid = evaluation.default_grid_search_values_multi_dimensional_segmentation([0.7], "box", 0.1)
    assert grid == {"iou_threshold": [0.7], "projection": ["box"], "box_extension": [0.1]}


@pytest.mark.parametrize("change", [{"interactive_seg_mode": "voice"}, {"evaluation_metric": "f1"}])
def test_unknown_choices_are_refused(change, volume):
    with pytest.raises(ParameterError):
        evaluation.segment_slices_from_ground_truth(*volume, "toy", **change)
    with pytest.raises(ParameterError, match="ZYX"):
        evaluation.segment_slices_from_ground_truth(volume[0], volume[1][0], "toy")
