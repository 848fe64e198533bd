"""Automatic mask generation gives what Segment Anything's own generator gives, for less work."""

from __future__ import annotations

import numpy as np
import pytest
from elf.evaluation import mean_segmentation_accuracy
from segment_anything import SamAutomaticMaskGenerator
from segmentation_toys import draw_ellipses, embeddings_of, toy_predictor
from skimage import data

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation import AutomaticMaskGenerator, NotInitializedError, mask_data_to_segmentation
from micro_sam.instance_segmentation import amg as amg_module

LENIENT = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}
WHOLE = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.6}  # the toy model's inner parts have at most 0.85


def image_of(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=-1)


def embeddings_from_segment_anything(predictor, image: np.ndarray) -> dict:
    """So that nothing but the generators differs."""
    predictor.set_image(image)
    return {
        "features": predictor.features.numpy(),
        "input_size": predictor.input_size,
        "original_size": predictor.original_size,
    }


def assert_same_records(ours: list[dict], theirs: list[dict]) -> None:
    """Every record has a partner of IoU >= 0.99 with equal scores."""
    assert len(ours) == len(theirs)
    for theirs_record in theirs:
        partners = [
            record
            for record in ours
            if abs(record["predicted_iou"] - theirs_record["predicted_iou"]) < 1e-5
            and abs(record["stability_score"] - theirs_record["stability_score"]) < 0.01
            and np.allclose(record["point_coords"], theirs_record["point_coords"])
            and np.abs(np.subtract(record["bbox"], theirs_record["bbox"])).max() <= 1
            and record["crop_box"] == theirs_record["crop_box"]
        ]
        unions = [np.count_nonzero(r["segmentation"] | theirs_record["segmentation"]) for r in partners]
        both = [np.count_nonzero(r["segmentation"] & theirs_record["segmentation"]) for r in partners]
        assert any(b >= 0.99 * u for b, u in zip(both, unions))


@pytest.mark.parametrize(
    ("shape", "thresholds", "extra"),
    [
        ((256, 256), (0.88, 0.95), {}),
        ((300, 512), (0.5, 0.6), {}),
        ((700, 330), (0.9, 0.8), {"box_nms_thresh": 0.4}),
        ((260, 300), (0.0, 0.0), {}),
        ((256, 256), (0.5, 0.6), {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2}),
        ((256, 300), (0.5, 0.6), {"min_mask_region_area": 150}),
    ],
)
def test_records_equal_those_of_segment_anything(shape, thresholds, extra):
    pytest.importorskip("cv2") if "min_mask_region_area" in extra else None
    predictor = toy_predictor()
    image = image_of(draw_ellipses(shape, 12, (min(shape) // 30, min(shape) // 8)))
    common = {"pred_iou_thresh": thresholds[0], "stability_score_thresh": thresholds[1]}
    theirs = SamAutomaticMaskGenerator(predictor.model, points_per_side=7, **common, **extra).generate(image)
    for_init = {
        name: value for name, value in extra.items() if name in ("crop_n_layers", "crop_n_points_downscale_factor")
    }
    generator = AutomaticMaskGenerator(predictor, points_per_side=7, **for_init)
    generator.initialize(image, embeddings_from_segment_anything(predictor, image))
    for_generate = {name: value for name, value in extra.items() if name not in for_init}
    ours = generator.generate(output_mode="binary_mask", **common, **for_generate)
    assert len(ours) > 4
    assert_same_records(ours, [record for record in theirs if record["area"]])


@pytest.mark.parametrize(("window", "n_objects"), [(np.s_[:191, :256], 10), (np.s_[100:, 200:], 6)])
def test_labels_of_a_real_image_equal_those_from_segment_anything(window, n_objects):
    predictor = toy_predictor(threshold=0.15)
    image = np.stack([data.coins()[window]] * 3, axis=-1)
    settings = {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.7}
    theirs = SamAutomaticMaskGenerator(predictor.model, points_per_side=10, **settings).generate(image)
    generator = AutomaticMaskGenerator(predictor, points_per_side=10)
    generator.initialize(None, embeddings_from_segment_anything(predictor, image))
    labels = generator.generate(**settings)
    assert labels.max() >= n_objects
    expected = mask_data_to_segmentation(theirs, image.shape[:2], with_background=True, merge_exclusively=False)
    assert mean_segmentation_accuracy(labels, expected) >= 0.98


@pytest.fixture
def labels():
    return draw_ellipses((300, 420), 10, (12, 37))


def test_finds_all_objects(labels):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=16)
    generator.initialize(None, embeddings_of(labels))
    result = generator.generate(**WHOLE)
    assert result.dtype == np.uint32
    assert mean_segmentation_accuracy(result, labels) == 1


def test_small_masks_lie_on_top_of_the_large_ones_around_them(labels):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=16)
    generator.initialize(None, embeddings_of(labels))
    result = generator.generate(**LENIENT)  # accepts the inner parts, too
    for number in range(1, labels.max() + 1):
        within = np.unique(result[labels == number])
        assert len(within[within > 0]) == 2  # the part and the rim that is left of its object


def test_other_thresholds_need_no_decoding_and_give_what_a_fresh_generator_gives(labels):
    predictor, embeddings = toy_predictor(), embeddings_of(labels)
    generator = AutomaticMaskGenerator(predictor, points_per_side=10)
    generator.initialize(None, embeddings)
    decoded = predictor.model.mask_decoder.n_decoded
    strict = generator.generate(0.95, 0.9)
    lenient = generator.generate(0.1, 0.2)
    assert predictor.model.mask_decoder.n_decoded == decoded == 100
    assert lenient.max() >= strict.max()
    fresh = AutomaticMaskGenerator(toy_predictor(), points_per_side=10)
    fresh.initialize(None, embeddings)
    np.testing.assert_array_equal(fresh.generate(0.1, 0.2), lenient)


def test_only_masks_that_pass_are_upscaled(labels, monkeypatch):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=10)
    generator.initialize(None, embeddings_of(labels))
    candidates = generator._state[0]
    upscaled = []
    monkeypatch.setattr(candidates, "_measure", lambda k, measure=candidates._measure: (upscaled.append(k), measure(k)))
    generator.generate(pred_iou_thresh=0.9, stability_score_thresh=0.8)
    assert 0 < len(upscaled) < len(candidates) / 2


def test_state_round_trip_gives_the_same_masks(labels):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=10)
    generator.initialize(None, embeddings_of(labels))
    other = AutomaticMaskGenerator(toy_predictor(), points_per_side=10)
    other.set_state(generator.get_state())
    np.testing.assert_array_equal(other.generate(**LENIENT), generator.generate(**LENIENT))


def test_state_of_another_grid_is_refused(labels):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=6)
    generator.initialize(None, embeddings_of(labels))
    with pytest.raises(ParameterError, match="36 points.* 64"):
        AutomaticMaskGenerator(toy_predictor(), points_per_side=8).set_state(generator.get_state())


def test_state_of_something_else_is_refused():
    with pytest.raises(ParameterError, match="no state of automatic mask generation"):
        AutomaticMaskGenerator(toy_predictor()).set_state({"foreground": np.zeros((2, 2))})


def test_memory_budget_takes_duplicates_first_and_then_the_worst(labels, monkeypatch, caplog):
    embeddings = embeddings_of(labels)
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=12)
    generator.initialize(None, embeddings)
    full, candidates = generator.generate(**LENIENT), generator._state[0]
    monkeypatch.setattr(amg_module, "LOGIT_BUDGET", candidates.nbytes - 1)
    generator.initialize(None, embeddings)
    thin = generator._state[0]
    assert len(thin) < 0.9 * len(candidates)
    assert "best" not in caplog.text
    assert mean_segmentation_accuracy(generator.generate(**LENIENT), full) == 1
    monkeypatch.setattr(amg_module, "LOGIT_BUDGET", thin.nbytes // 2)
    generator.initialize(None, embeddings)
    assert generator._state[0].nbytes <= thin.nbytes // 2
    assert generator._state[0].ious.max() == candidates.ious.max()
    assert "Kept only the best" in caplog.text


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (64, 3)])
def test_empty_images_give_an_empty_label_image(shape):
    generator = AutomaticMaskGenerator(toy_predictor(threshold=5.0), points_per_side=3)
    generator.initialize(np.zeros(shape, dtype=np.uint8))
    result = generator.generate()
    assert result.shape == shape
    assert result.dtype == np.uint32
    assert not result.any()
    assert generator.generate(output_mode="coco_rle") == []


def test_wrong_use_is_told(labels):
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=3)
    with pytest.raises(NotInitializedError, match="call initialize"):
        generator.generate()
    generator.initialize(None, embeddings_of(labels))
    with pytest.raises(ParameterError, match="pred_iou_thresh must be between"):
        generator.generate(pred_iou_thresh=88)
    with pytest.raises(ParameterError, match="output_mode"):
        generator.generate(output_mode="labels")
    generator.clear_state()
    with pytest.raises(NotInitializedError):
        generator.get_state()
    with pytest.raises(ParameterError, match="either points_per_side or point_grids"):
        AutomaticMaskGenerator(toy_predictor(), points_per_side=None)
    with pytest.raises(ParameterError, match="Pass an image"):
        generator.initialize(None)
    with pytest.raises(ParameterError, match="belong to one of"):
        generator.initialize(np.zeros((50, 50), dtype=np.uint8), embeddings_of(labels))


def test_progress_counts_all_points(labels):
    calls, total = [], []
    generator = AutomaticMaskGenerator(toy_predictor(), points_per_side=5, points_per_batch=7)
    generator.initialize(
        None, embeddings_of(labels), pbar_init=lambda n, text: total.append(n), pbar_update=calls.append
    )
    assert total == [25]
    assert sum(calls) == 25
