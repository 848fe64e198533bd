"""Masks and labels, suppression, encodings, settings and stored states."""

from __future__ import annotations

import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import remove_small_holes, remove_small_objects

from micro_sam.errors import ParameterError, PromptError, StoreDamagedError
from micro_sam.instance_segmentation import (
    AISSettings,
    AMGSettings,
    apply_nms,
    has_state,
    load_state,
    mask_data_to_segmentation,
    save_state,
    settings_for,
)
from micro_sam.instance_segmentation.instances import from_record, make_instance
from micro_sam.instance_segmentation.nms import mask_nms, overlap
from micro_sam.instance_segmentation.regions import clean_regions, part_at_prompt
from micro_sam.instance_segmentation.rle import from_rle, to_coco_rle, to_uncompressed_rle
from micro_sam.instance_segmentation.state import state_path
from micro_sam.instance_segmentation.watershed import label_seeds, seed_points
from micro_sam.labels import compute_iou, get_centers_and_bounding_boxes, segmentation_to_one_hot

SHAPE = (40, 50)


def record(window, score=0.9, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[window] = True
    return {"segmentation": mask, "predicted_iou": score, "area": int(mask.sum())}


# masks -> labels


def test_larger_masks_keep_their_pixels_and_others_get_the_rest():
    labels = mask_data_to_segmentation([record(np.s_[0:10, 0:10]), record(np.s_[5:30, 5:30])])
    assert labels.dtype == np.uint32
    assert labels[7, 7] == labels[20, 20] != labels[2, 2] > 0
    on_top = mask_data_to_segmentation([record(np.s_[0:10, 0:10]), record(np.s_[5:30, 5:30])], merge_exclusively=False)
    assert on_top[7, 7] == on_top[2, 2] != on_top[20, 20]


def test_largest_mask_becomes_background_only_if_larger_than_the_rest():
    background = record(np.s_[:, :])
    background["segmentation"][10:20, 10:20] = False
    labels = mask_data_to_segmentation([background, record(np.s_[10:20, 10:20])], with_background=True)
    np.testing.assert_array_equal(labels > 0, record(np.s_[10:20, 10:20])["segmentation"])
    kept = mask_data_to_segmentation([record(np.s_[0:20, 0:20]), record(np.s_[30:35, 30:35])], with_background=True)
    assert kept.max() == 2


def test_a_whole_image_mask_under_objects_does_not_swallow_them():
    labels = mask_data_to_segmentation([record(np.s_[:, :]), record(np.s_[3:9, 3:9])], with_background=True)
    assert labels.max() == 1
    assert labels[5, 5] == 1


def test_sizes_are_limited_and_parts_get_their_own_labels():
    masks = [record(np.s_[0:2, 0:2]), record(np.s_[10:20, 10:20]), record(np.s_[20:40, 0:50])]
    assert mask_data_to_segmentation(masks, min_object_size=5, max_object_size=200).max() == 1
    split = record(np.s_[0:5, 0:5])
    split["segmentation"][20:25, 20:25] = True
    assert mask_data_to_segmentation([split]).max() == 2
    assert mask_data_to_segmentation([split], label_masks=False).max() == 1


def test_no_masks_need_a_shape():
    assert mask_data_to_segmentation([], shape=SHAPE).shape == SHAPE
    assert apply_nms([], 0, shape=SHAPE).shape == SHAPE
    for function in (mask_data_to_segmentation, lambda masks: apply_nms(masks, 0)):
        with pytest.raises(ParameterError, match="shape"):
            function([])
    with pytest.raises(PromptError, match="segmentation"):
        from_record({"mask": 1})


# suppression


def brute_force_nms(records, threshold, over_min):
    kept = []
    for candidate in sorted(records, key=lambda r: -r["predicted_iou"]):
        overlaps = []
        for other in kept:
            a, b = candidate["segmentation"], other["segmentation"]
            smaller = min(a.sum(), b.sum())
            overlaps.append((a & b).sum() / (smaller if over_min else (a | b).sum()))
        if all(value <= threshold for value in overlaps):
            kept.append(candidate)
    return sorted(float(r["predicted_iou"]) for r in kept)


@pytest.mark.parametrize("over_min", [False, True])
@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_mask_suppression_equals_brute_force(over_min, threshold):
    rng = np.random.default_rng(0)
    records = []
    for k in range(60):
        y, x = rng.integers(0, 30, 2)
        height, width = rng.integers(3, 15, 2)
        made = record(np.s_[y : y + height, x : x + width], score=1 - 0.01 * k)
        made["segmentation"] &= rng.random(SHAPE) < 0.9
        records.append(made)
    instances = [from_record(r) for r in records]
    kept = mask_nms(instances, threshold, over_min)
    assert sorted(instances[k].score for k in kept) == pytest.approx(brute_force_nms(records, threshold, over_min))


def test_better_masks_win_and_lie_on_top():
    good, worse, other = (
        record(np.s_[0:10, 0:10], 0.9), record(np.s_[0:10, 0:11], 0.8), record(np.s_[8:20, 8:20], 0.95)
    )  # fmt: skip
    labels = apply_nms([worse, good, other], min_size=0, nms_thresh=0.5)
    assert labels.max() == 2
    assert labels[9, 9] == labels[15, 15] == 1
    assert labels[0, 0] == 2
    assert labels[0, 10] == 0
    np.testing.assert_array_equal(
        apply_nms([worse, good, other], 0, nms_thresh=0.5, perform_box_nms=True) > 0, labels > 0
    )
    inside = record(np.s_[2:6, 2:6], 0.5)
    assert apply_nms([good, inside], 0, nms_thresh=0.5, intersection_over_min=True).max() == 1
    assert apply_nms([good, other], min_size=120, nms_thresh=0.5).max() == 1
    assert apply_nms([good, other], min_size=0, max_size=120, nms_thresh=0.5).max() == 1
    with pytest.raises(ParameterError, match="between 0 and 1"):
        apply_nms([good], 0, nms_thresh=7)


def test_overlap_of_windows_equals_iou_of_images():
    a, b = record(np.s_[3:20, 4:30]), record(np.s_[10:35, 25:50])
    expected = compute_iou(a["segmentation"], b["segmentation"])
    assert overlap(from_record(a), from_record(b)) == pytest.approx(expected)


# encodings and cleaning


@pytest.mark.parametrize("encode", [to_uncompressed_rle, to_coco_rle])
def test_run_lengths_round_trip(encode):
    rng = np.random.default_rng(1)
    for mask in (rng.random((7, 300)) > 0.5, np.zeros((3, 4), bool), np.ones((5, 2), bool), np.eye(9, dtype=bool)):
        np.testing.assert_array_equal(from_rle(encode(mask)), mask)


def test_coco_encoding_is_the_published_one():
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    assert to_uncompressed_rle(mask)["counts"] == [5, 2, 2, 2, 5]
    assert to_coco_rle(mask)["counts"] == "52203"


@pytest.mark.parametrize("min_area", [6, 30])
def test_cleaning_equals_skimage(min_area):
    rng = np.random.default_rng(2)
    mask = ndimage.gaussian_filter(rng.random((60, 70)), 1.5) > 0.5
    cleaned = clean_regions(make_instance(mask), min_area, mask.shape).full(mask.shape)
    expected = remove_small_holes(mask, max_size=min_area - 1, connectivity=2)
    expected = remove_small_objects(expected, max_size=min_area - 1, connectivity=2)
    np.testing.assert_array_equal(cleaned, expected)


def test_cleaning_keeps_the_largest_island_and_open_bays():
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:9, 5:9] = True
    mask[15, 15] = True
    assert clean_regions(make_instance(mask), 100, mask.shape).area == 16
    ring = np.ones((9, 9), dtype=bool)
    ring[4:, 4] = False
    padded = np.pad(ring, 3)
    instance = make_instance(padded)
    assert clean_regions(instance, 50, padded.shape) is instance


@pytest.mark.parametrize(
    "point_xy, kept",
    [((16.4, 15.2), 4), ((6.0, 6.0), 16), ((0.0, 0.0), 16), ((100.0, 3.0), 16), (None, 16)],
    ids=["in the small part", "in the large part", "in neither", "outside of the window", "no point"],
)
def test_of_a_mask_the_part_at_its_prompt_is_kept_or_the_largest(point_xy, kept):
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:9, 5:9] = True
    mask[15:17, 15:17] = True
    part = part_at_prompt(make_instance(mask, score=0.7, point_xy=point_xy))
    assert part.area == kept == part.full(mask.shape).sum() and part.score == 0.7 and part.point_xy == point_xy
    assert (mask[part.window] >= part.mask).all()


def test_a_mask_in_one_piece_stays_as_it_is():
    instance = make_instance(np.ones((4, 5), dtype=bool), (2, 3), point_xy=(4.0, 3.0))
    assert part_at_prompt(instance) is instance


# labels


def test_centres_lie_inside_and_boxes_are_tight():
    labels = np.zeros((60, 60), dtype=np.uint16)
    labels[5:50, 5:10], labels[45:50, 5:50] = 3, 3
    labels[20:30, 30:41] = 700
    centers, boxes = get_centers_and_bounding_boxes(labels)
    assert set(centers) == set(boxes) == {3, 700}
    assert boxes[3] == (5, 5, 50, 50)
    assert boxes[700] == (20, 30, 30, 41)
    for label, center in centers.items():
        assert labels[tuple(center)] == label
    centroids, _ = get_centers_and_bounding_boxes(labels, mode="p")
    np.testing.assert_allclose(centroids[700], (24.5, 35))
    assert labels[tuple(np.round(centroids[3]).astype(int))] != 3
    with pytest.raises(ParameterError, match="mode"):
        get_centers_and_bounding_boxes(labels, mode="x")


def test_centres_of_volumes_and_of_huge_labels():
    volume = np.zeros((5, 20, 20), dtype=np.uint64)
    volume[1:4, 5:15, 5:15] = 2**40
    centers, boxes = get_centers_and_bounding_boxes(volume)
    assert boxes == {2**40: (1, 5, 5, 4, 15, 15)}
    assert volume[tuple(centers[2**40])] == 2**40


def test_one_hot():
    labels = np.array([[0, 2], [5, 2]])
    np.testing.assert_array_equal(segmentation_to_one_hot(labels).numpy()[:, 0], [labels == 2, labels == 5])
    np.testing.assert_array_equal(segmentation_to_one_hot(labels, [5]).numpy()[:, 0], [labels == 5])
    with pytest.raises(PromptError, match="no object 7"):
        segmentation_to_one_hot(labels, [7])


def test_iou():
    a = np.zeros((4, 4), dtype=bool)
    assert compute_iou(a, a) == 0
    b = a.copy()
    a[:2], b[1:3] = True, True
    assert compute_iou(a, b) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="same shape"):
        compute_iou(a, b[1:])


def test_seed_points_are_the_deepest_pixels():
    seeds = np.zeros((40, 60), dtype=bool)
    seeds[3:22, 4:23] = True
    seeds[30:33, 10:50] = True
    points = seed_points(label_seeds(seeds))
    assert points[0].tolist() == [12, 13]
    assert points[1][0] == 31
    assert 11 <= points[1][1] <= 48


# settings


def test_settings_say_what_is_wrong():
    assert settings_for(
        "ais", {"center_distance_thresh": 0.4, "min_size": 100, "projection_mode": "box"}
    ) == AISSettings(center_distance_threshold=0.4, min_size=100)
    assert settings_for("amg", {"min_object_size": 100}, pred_iou_thresh=0.7).min_mask_region_area == 100
    with pytest.raises(ParameterError, match="one of amg, ais, apg"):
        settings_for("sam")
    with pytest.raises(ParameterError, match="points is no parameter of mode 'amg'"):
        settings_for("amg", points=3)
    with pytest.raises(ParameterError, match="between 0.0 and 1.0, got 1.5"):
        AMGSettings(stability_score_thresh=1.5)
    with pytest.raises(ParameterError, match="number"):
        AMGSettings(stability_score_thresh=float("nan"))


def test_settings_need_no_torch():
    code = "import sys, micro_sam.instance_segmentation.settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# stored states

MAPS = {name: np.random.default_rng(0).random((30, 20), dtype=np.float32)
        for name in ("foreground", "boundary_distances", "center_distances")}  # fmt: skip


def test_decoder_states_have_the_layout_of_micro_sam_1(tmp_path):
    save_state(tmp_path, {**MAPS, "image_embeddings": object(), "i": None}, "ais")
    save_state(tmp_path, MAPS, "ais", i=3)
    with h5py.File(tmp_path / "is_state.h5") as file:
        assert set(file) == {"state", "state-3"}
        assert set(file["state"]) == set(MAPS)
        np.testing.assert_array_equal(file["state/foreground"][:], MAPS["foreground"])
    loaded = load_state(tmp_path, "apg", 3)
    for name, expected in MAPS.items():
        np.testing.assert_array_equal(loaded[name], expected)


def test_states_are_replaced_and_missing_ones_are_told(tmp_path):
    assert not has_state(tmp_path, "ais")
    save_state(tmp_path, MAPS, "ais")
    save_state(tmp_path, {name: value + 1 for name, value in MAPS.items()}, "ais")
    np.testing.assert_array_equal(load_state(tmp_path, "ais")["foreground"], MAPS["foreground"] + 1)
    assert not has_state(tmp_path, "ais", 1)
    assert not has_state(tmp_path, "amg")
    with pytest.raises(ParameterError, match="no complete 'state-1'"):
        load_state(tmp_path, "ais", 1)


def test_an_interrupted_write_is_not_taken_for_a_state(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    class Array:
        def __array__(self, *args, **kwargs):
            interrupted()

    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, {**MAPS, "center_distances": Array()}, "ais")
    assert not has_state(tmp_path, "ais")
    save_state(tmp_path, MAPS, "ais")
    assert has_state(tmp_path, "ais")


def test_damaged_files_are_named(tmp_path):
    path = state_path(tmp_path, "ais")
    path.write_bytes(b"no HDF5")
    with pytest.raises(StoreDamagedError, match=r"is_state\.h5.*delete it"):
        has_state(tmp_path, "ais")


def test_nested_states_hold_plain_values_and_no_pickle(tmp_path):
    state = {
        "shape": np.array([4, 5]),
        "n_points": 9,
        "crop-0": {"logits": np.arange(5000, dtype=np.float16), "t": 0.5},
    }
    save_state(tmp_path, state, "amg")
    loaded = load_state(tmp_path, "amg")
    assert loaded["n_points"] == 9
    assert loaded["crop-0"]["t"] == 0.5
    np.testing.assert_array_equal(loaded["crop-0"]["logits"], state["crop-0"]["logits"])
    assert pickle.dumps(1)[:2] not in state_path(tmp_path, "amg").read_bytes()[:2]
