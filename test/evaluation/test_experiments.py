"""Experiments over annotated images: prompts, iterative prompting, grid searches, agreement."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from segmentation_toys import TrueDecoder, draw_ellipses, toy_predictor, true_maps

from micro_sam.errors import InputError, ParameterError
from micro_sam.evaluation import agreement, inference, instance_segmentation, plots
from micro_sam.evaluation.evaluation import run_evaluation, run_evaluation_for_iterative_prompting, segmentation_scores
from micro_sam.evaluation.experiments import (
    default_experiment_settings,
    full_experiment_settings,
    get_experiment_setting_name,
)
from micro_sam.instance_segmentation import AutomaticMaskGenerator, InstanceSegmentationWithDecoder

SHAPE = (192, 256)


def image_of(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 255, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two images that the toy model segments perfectly, with their annotations: (image paths, annotation paths)."""
    folder = tmp_path_factory.mktemp("pairs")
    paths = []
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for k in range(2):
        labels = draw_ellipses(SHAPE, 5, (10, 25), seed=k)
        for kind, array in (("images", image_of(labels)), ("labels", labels)):
            tifffile.imwrite(folder / kind / f"{k}.tif", array)
        paths.append((folder / "images" / f"{k}.tif", folder / "labels" / f"{k}.tif"))
    return tuple(map(list, zip(*paths)))


def test_settings_have_different_names():
    settings = full_experiment_settings() + full_experiment_settings(use_boxes=True)
    names = [get_experiment_setting_name(s) for s in settings]
    assert len(set(names)) == len(names) == 30 + 36
    assert all(s["use_points"] or s["use_boxes"] for s in settings)
    assert get_experiment_setting_name(default_experiment_settings()[1]) == "points/p2-n4"


@pytest.mark.parametrize("setting", default_experiment_settings(), ids=get_experiment_setting_name)
def test_prompts_lie_where_they_should(setting, pairs):
    labels = tifffile.imread(pairs[1][0])
    ids, prompts = inference.prompts_from_labels(labels, setting, dilation=3)
    assert ids.tolist() == list(range(1, labels.max() + 1))
    for k, label in enumerate(ids):
        if setting["use_boxes"]:
            x0, y0, x1, y1 = prompts.boxes[k].astype(int)
            assert (labels[y0:y1, x0:x1] == label).sum() == (labels == label).sum()
        for (x, y), positive in zip(
            prompts.points[k] if setting["use_points"] else [], prompts.labels[k] if setting["use_points"] else []
        ):
            assert (labels[int(y), int(x)] == label) == bool(positive)


@pytest.mark.parametrize("setting", [default_experiment_settings()[k] for k in (0, 3)], ids=get_experiment_setting_name)
def test_objects_are_segmented_from_prompts(setting, pairs, tmp_path):
    predictor = toy_predictor()
    arguments = (predictor, *pairs, tmp_path / "embeddings", tmp_path / "predictions")
    inference.precompute_all_embeddings(predictor, pairs[0], tmp_path / "embeddings")
    inference.precompute_all_prompts(pairs[1], tmp_path / "prompts", [setting])
    inference.run_inference_with_prompts(*arguments, **setting, prompt_save_dir=tmp_path / "prompts")
    predictions = sorted((tmp_path / "predictions").glob("*.tif"))
    assert run_evaluation(pairs[1], predictions, verbose=False)["mSA"][0] > 0.9
    decoded = predictor.model.mask_decoder.n_decoded
    inference.run_inference_with_prompts(*arguments, **setting, prompt_save_dir=tmp_path / "prompts")
    assert predictor.model.mask_decoder.n_decoded == decoded  # what is there is not computed again


def test_prompts_of_other_annotations_are_refused(pairs, tmp_path):
    setting = default_experiment_settings()[0]
    inference.precompute_all_prompts(pairs[1][:1], tmp_path, [setting])
    other = tmp_path / "0.tif"
    tifffile.imwrite(other, np.where(tifffile.imread(pairs[1][0]) > 0, 77, 0).astype(np.uint16))
    with pytest.raises(ParameterError, match="other annotations"):
        inference.precompute_all_prompts([other], tmp_path, [setting])


@pytest.mark.parametrize("use_masks", [False, True])
@pytest.mark.parametrize("start_with_box", [False, True])
def test_iterative_prompting_is_scored_in_every_round(start_with_box, use_masks, pairs, tmp_path):
    predictor = toy_predictor()
    inference.run_inference_with_iterative_prompting(
        predictor, *pairs, tmp_path / "embeddings", tmp_path / "out", start_with_box, batch_size=3, n_iterations=3,
        use_masks=use_masks,
    )  # fmt: skip
    table = run_evaluation_for_iterative_prompting(
        pairs[1], tmp_path / "out", tmp_path, start_with_box, use_masks=use_masks
    )
    assert len(table) == 3
    assert table["mSA"][0] > 0.9
    [path] = tmp_path.rglob("*.csv")
    pd.testing.assert_frame_equal(pd.read_csv(path, index_col="iteration"), table)
    plots.plot_iterative_prompting({"point": table}, tmp_path / "plot.png", {"AIS": 0.5})
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_missing_predictions_are_named(pairs, tmp_path):
    with pytest.raises(InputError, match="iteration00"):
        run_evaluation_for_iterative_prompting(pairs[1], tmp_path, tmp_path)


def test_labels_of_another_shape_are_refused(pairs, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((8, 8), np.uint8))
    with pytest.raises(ParameterError, match="shape"):
        inference.run_inference_with_iterative_prompting(toy_predictor(), pairs[0][:1], [path], None, tmp_path / "out")


def test_grid_search_finds_the_better_parameters_and_resumes(pairs, tmp_path):
    maps = [true_maps(tifffile.imread(path)) for path in pairs[1]]
    predictor = toy_predictor()
    segmenter = InstanceSegmentationWithDecoder(predictor, TrueDecoder(*maps, *maps))
    grid = {"min_size": [10**6, 0], "center_distance_threshold": [0.5]}
    instance_segmentation.run_instance_segmentation_grid_search_and_inference(
        segmenter, grid, *pairs, pairs[0], tmp_path / "embeddings", tmp_path / "predictions", tmp_path, tmp_path / "grid",
    )  # fmt: skip
    best, score = instance_segmentation.evaluate_instance_segmentation_grid_search(tmp_path / "grid", list(grid))
    assert best == {"min_size": 0, "center_distance_threshold": 0.5}
    assert json.loads((tmp_path / "results" / "grid_search_best_params.json").read_text())["parameters"] == best
    predictions = sorted((tmp_path / "predictions").glob("*.tif"))
    assert run_evaluation(pairs[1], predictions, verbose=False)["mSA"][0] == pytest.approx(score)
    segmenter.generate = None  # nothing is generated again
    instance_segmentation.run_instance_segmentation_grid_search(segmenter, grid, *pairs, tmp_path / "grid", None)


def test_grid_search_keeps_none_and_words_apart(tmp_path):
    rows = [{"mask_threshold": v, "mSA": s, "SA50": s, "SA75": s} for v, s in ((None, 0.2), ("auto", 0.4), (0.5, 0.3))]
    for k in range(2):
        instance_segmentation._write_rows(tmp_path / f"{k}.csv", rows, ["mask_threshold"])
    found = instance_segmentation.evaluate_instance_segmentation_grid_search(tmp_path, ["mask_threshold"])
    assert found == ({"mask_threshold": "auto"}, pytest.approx(0.4))


@pytest.mark.parametrize(
    "make",
    [
        instance_segmentation.default_grid_search_values_amg,
        instance_segmentation.default_grid_search_values_instance_segmentation_with_decoder,
        instance_segmentation.default_grid_search_values_apg,
    ],
)
def test_default_grids_are_accepted_by_generate(make, pairs):
    from micro_sam.instance_segmentation import AutomaticPromptGenerator

    kind = make.__name__.rpartition("_")[2]
    labels = tifffile.imread(pairs[1][0])
    predictor, image = toy_predictor(), image_of(labels)
    if kind == "amg":
        segmenter = AutomaticMaskGenerator(predictor, points_per_side=4)
    else:
        cls = AutomaticPromptGenerator if kind == "apg" else InstanceSegmentationWithDecoder
        segmenter = cls(predictor, TrueDecoder(true_maps(labels)))
    segmenter.initialize(image)
    settings = list(instance_segmentation.combinations(make()))
    assert len(settings) > 100
    for chosen in settings[:: len(settings) // 3]:
        assert segmenter.generate(**chosen).shape == labels.shape


def test_bad_grids_are_refused(pairs, tmp_path):
    segmenter = AutomaticMaskGenerator(toy_predictor())
    for grid, fixed, what in (({}, {}, "no values"), ({"a": []}, {}, "for a"), ({"a": [1]}, {"a": 2}, "a is fixed")):
        with pytest.raises(ParameterError, match=what):
            instance_segmentation.run_instance_segmentation_grid_search(segmenter, grid, *pairs, tmp_path, None, fixed)
    with pytest.raises(ParameterError, match="min_distance_values"):
        instance_segmentation.default_grid_search_values_apg(min_distance_values=[1])


def test_agreement_of_two_people_is_symmetric(tmp_path):
    first = draw_ellipses(SHAPE, 8, (8, 20))
    second = np.where(np.roll(first, 2, 1) == 3, 0, np.roll(first, 2, 1)) + 0
    there, back = agreement.annotator_agreement(first, second), agreement.annotator_agreement(second, first)
    assert there["mSA"] == pytest.approx(back["mSA"]) and there["mean_iou"] == pytest.approx(back["mean_iou"])
    assert (there["objects_first"], there["objects_second"], there["matched"]) == (8, 7, 7)
    assert 0.5 < there["mean_iou"] < 1
    same = agreement.run_annotator_agreement([first, second], [first, second], tmp_path / "table.csv")
    assert same["mean_iou"].tolist() == [1, 1] and same["foreground_dice"].tolist() == [1, 1]
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2


def _accuracy_by_hand(prediction, truth, threshold):
    """TP / (TP + FP + FN), counted object by object."""
    predicted, true = (np.unique(labels[labels > 0]) for labels in (prediction, truth))
    hits = sum(
        any(
            ((prediction == p) & (truth == t)).sum() / ((prediction == p) | (truth == t)).sum() > threshold
            for p in predicted
        )
        for t in true
    )
    return hits / (len(predicted) + len(true) - hits)


def test_msa_on_random_labels_equals_a_count_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(3):
        truth = draw_ellipses((96, 128), 9, (5, 14), seed=int(rng.integers(1000)))
        prediction = np.roll(truth, rng.integers(0, 4, 2), (0, 1))
        prediction[prediction == rng.integers(1, 9)] = 0
        prediction[rng.integers(0, 96, 20), rng.integers(0, 128, 20)] = 99
        expected = [_accuracy_by_hand(prediction, truth, t) for t in np.arange(0.5, 1, 0.05)]
        scores = segmentation_scores(prediction, truth)
        assert scores["mSA"] == pytest.approx(np.mean(expected))
        assert scores["SA50"] == pytest.approx(expected[0])
