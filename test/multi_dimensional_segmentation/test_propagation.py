"""Objects are followed from annotated slices, with a model that knows the truth of every slice."""

from __future__ import annotations

import numpy as np
import pytest
from segmentation_toys import toy_predictor
from volume_toys import discs, tube, volume_embeddings

from micro_sam.errors import ParameterError, PromptError
from micro_sam.labels import compute_iou
from micro_sam.multi_dimensional_segmentation import (
    Projection,
    PropagationSettings,
    iter_propagate,
    propagate,
    segment_mask_in_volume,
)
from micro_sam.multi_dimensional_segmentation.projection import PROJECTIONS

SHAPE = (9, 128, 160)
TWO = discs(SHAPE, tube(range(1, 8), 40, 40, 14, (3, 1)), tube(range(9), 80, 110, 16, (-2, 0)))


def _masks(labels: np.ndarray, slices: list[int], ids: tuple[int, ...] = (1, 2)) -> dict:
    return {i: {z: labels[z] == i for z in slices} for i in ids}


def _ious(found: np.ndarray, truth: np.ndarray, label: int, slices) -> list[float]:
    return [compute_iou(found[z] == label, truth[z] == label) for z in slices]


@pytest.fixture(scope="module")
def embeddings():
    return volume_embeddings(TWO)


@pytest.mark.parametrize("projection", [*PROJECTIONS, {"use_box": True, "use_points": True}])
def test_an_object_is_found_in_all_its_slices_and_no_others(projection, embeddings):
    start = np.where(TWO == 1, 1, 0)
    start[[z for z in range(9) if z != 4]] = 0
    found, z_range = segment_mask_in_volume(
        start, toy_predictor(), embeddings, np.array([4]), False, False, 0.5, projection, box_extension=0.05
    )
    assert z_range == (1, 7)
    assert min(_ious(found, TWO, 1, range(1, 8))) > 0.8
    assert not found[[0, 8]].any()
    assert start[3].max() == 0  # the input is not changed


def test_several_objects_together_are_decoded_once_a_slice_and_as_if_alone(embeddings, monkeypatch):
    from micro_sam.multi_dimensional_segmentation import prompt_decoding

    batches = []
    original = prompt_decoding.decode_batches
    monkeypatch.setattr(
        prompt_decoding,
        "decode_batches",
        lambda p, prompts, *rest: batches.append(len(prompts)) or original(p, prompts, *rest),
    )
    together = propagate(_masks(TWO, [4]), toy_predictor(), embeddings)
    assert max(batches) == 2 and len(batches) == 8
    for label in (1, 2):
        alone = propagate(_masks(TWO, [4], (label,)), toy_predictor(), embeddings)
        np.testing.assert_array_equal(alone.segmentation == label, together.segmentation == label)
        assert alone.z_range(label) == together.z_range(label)
    assert together.z_ranges == {1: (1, 7), 2: (0, 8)}
    assert together.ended == {1: [0, 8], 2: []}


def test_every_slice_has_a_score_and_annotated_ones_the_best(embeddings):
    result = propagate(_masks(TWO, [4]), toy_predictor(), embeddings)
    labels, table = result.score_table()
    assert labels == [1, 2] and table.shape == (2, 9)
    assert np.isnan(table[0, [0, 8]]).all() and np.isfinite(table[1]).all()
    assert (table[:, 4] == 1).all() and (np.delete(table, 4, axis=1)[1] < 1).all()
    assert list(result.scores[2]) == list(range(9))


def test_a_slice_in_which_the_mask_jumps_is_the_most_doubtful():
    truth = discs(SHAPE, tube(range(9), 60, 60, 20))
    truth[6] = discs(SHAPE, {6: (60, 66, 24)})[6]
    result = propagate(_masks(truth, [2], (1,)), toy_predictor(), volume_embeddings(truth))
    assert {z for _, z, _ in result.doubtful(0.7)} == {6, 7}
    assert result.doubtful(0.0) == []


def test_stops_limits_and_directions_are_kept(embeddings):
    predictor, start = toy_predictor(), _masks(TWO, [4])
    only_up = propagate(start, predictor, embeddings, below=False)
    assert only_up.z_ranges == {1: (4, 7), 2: (4, 8)}
    limited = propagate(start, predictor, embeddings, z_limits=(3, 6))
    assert limited.z_ranges == {1: (3, 6), 2: (3, 6)}
    stopped = propagate(start, predictor, embeddings, stops={2: [6, 1]})
    assert stopped.z_ranges == {1: (1, 7), 2: (2, 5)}
    found, z_range = segment_mask_in_volume(
        (TWO == 2) & (np.arange(9) == 4)[:, None, None], predictor, embeddings, np.array([4]), True, True, 0.5, "box"
    )
    assert z_range == (4, 4) and found.dtype == np.uint8


def test_slices_between_annotations_are_filled_from_both_sides_and_agree():
    truth = discs(SHAPE, tube(range(1, 8), 40, 40, 14, (4, 0)))
    result = propagate(_masks(truth, [1, 7], (1,)), toy_predictor(), volume_embeddings(truth), below=False, above=False)
    assert result.z_range(1) == (1, 7)
    assert min(_ious(result.segmentation, truth, 1, range(1, 8))) > 0.85
    agreement = {z: score.agreement for z, score in result.scores[1].items() if score.agreement is not None}
    assert list(agreement) == [4] and agreement[4] > 0.85
    np.testing.assert_array_equal(result.segmentation[1], truth[1])


def test_where_one_side_loses_the_object_the_other_goes_on():
    truth = discs(SHAPE, {0: (40, 40, 14), **tube(range(1, 9), 90, 100, 14)})
    result = propagate(_masks(truth, [0, 8], (1,)), toy_predictor(), volume_embeddings(truth))
    assert min(_ious(result.segmentation, truth, 1, range(1, 9))) > 0.85
    assert {score.origin for score in result.scores[1].values()} == {"annotated", "propagated"}


def test_where_nothing_is_found_between_annotations_the_shape_in_between_is_taken():
    truth = discs(SHAPE, tube(range(9), 40, 40, 14, (0, 2)))
    empty = truth.copy()
    empty[1:8] = 0
    result = propagate(_masks(truth, [0, 8], (1,)), toy_predictor(), volume_embeddings(empty))
    assert min(_ious(result.segmentation, truth, 1, range(9))) > 0.8
    assert result.scores[1][4].origin == "interpolated" and result.scores[1][4].score == 0


def test_a_stop_between_two_annotations_leaves_a_gap():
    truth = discs(SHAPE, tube(range(9), 60, 60, 14))
    result = propagate(_masks(truth, [1, 7], (1,)), toy_predictor(), volume_embeddings(truth), stops={1: [4]})
    assert list(result.scores[1]) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert not result.segmentation[4].any()


def test_an_object_is_followed_into_its_branches_and_together_again():
    whole, apart = {0: (60, 60, 18), 8: (60, 60, 18)}, range(1, 8)
    spread = {1: 9, 2: 14, 3: 20, 4: 24, 5: 20, 6: 14, 7: 9}
    truth = discs(SHAPE, whole)
    for side in (-1, 1):
        branch = discs(SHAPE, {z: (60, 60 + side * spread[z], 11) for z in apart})
        truth = np.maximum(truth, branch)
    # the model sees the branches as objects of their own where they do not touch
    seen = np.stack([_components(plane) for plane in truth])
    settings = PropagationSettings("mask", iou_threshold=0.3)
    branches = propagate({1: {0: truth[0] > 0}}, toy_predictor(), volume_embeddings(seen), settings)
    assert min(_ious(branches.segmentation, truth, 1, range(9))) > 0.75
    settings = PropagationSettings("mask", iou_threshold=0.3, follow_splits=False)
    one = propagate({1: {4: truth[4] > 0}}, toy_predictor(), volume_embeddings(seen), settings)
    assert max(_ious(one.segmentation, truth, 1, [3, 5])) < 0.6


def test_objects_that_want_the_same_pixels_share_them_and_go_on():
    truth = discs(SHAPE, {z: (60, 60, 24) for z in range(9)})
    left = (np.arange(SHAPE[2]) < 60)[None]
    halves = {1: {4: (truth[4] > 0) & left}, 2: {4: (truth[4] > 0) & ~left}}
    # the model sees one object where two were annotated
    settings = PropagationSettings("mask", iou_threshold=0)
    result = propagate(halves, toy_predictor(), volume_embeddings(truth), settings)
    for z in (3, 5):
        np.testing.assert_array_equal(result.segmentation[z] > 0, result.segmentation[8 - z] > 0)
        assert compute_iou(result.segmentation[z] > 0, truth[z] > 0) > 0.9


def _components(plane: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.label(plane)[0]


def test_other_objects_keep_their_pixels(embeddings):
    occupied = np.zeros(SHAPE, np.uint32)
    occupied[5, :, 100:106] = 7
    result = propagate(_masks(TWO, [4], (2,)), toy_predictor(), embeddings, occupied=occupied)
    assert not result.segmentation[5, :, 100:106].any()
    assert compute_iou(result.segmentation[5] == 2, (TWO[5] == 2) & (occupied[5] == 0)) > 0.85
    both = _masks(TWO, [4])
    both[1][5] = TWO[5] == 2  # an annotation of object 1 where the model sees object 2
    result = propagate(both, toy_predictor(), embeddings)
    np.testing.assert_array_equal(result.segmentation[5] == 1, TWO[5] == 2)


def test_closing_early_keeps_what_was_done(embeddings):
    work = iter_propagate(_masks(TWO, [4]), toy_predictor(), embeddings)
    for step in work:
        if step.z == 6:
            break
    work.close()
    result = step.result
    assert step.done == 2 and step.total == 8
    assert result.z_ranges == {1: (4, 6), 2: (4, 6)}
    assert min(_ious(result.segmentation, TWO, 2, [4, 5, 6])) > 0.85 and not result.segmentation[7].any()


def test_progress_is_called_for_every_slice(embeddings):
    calls = []
    start = np.where(np.arange(9)[:, None, None] == 4, TWO, 0)
    segment_mask_in_volume(start, toy_predictor(), embeddings, [4], False, False, 0.5, "mask", calls.append)
    assert sum(calls) == 8


def test_tiles_give_what_the_whole_image_gives_also_for_objects_larger_than_a_tile():
    from micro_sam.embeddings import precompute_image_embeddings

    truth = discs((3, 128, 128), tube(range(3), 28, 28, 11, (3, 0)), tube(range(3), 80, 80, 38, (1, 1)))
    image = np.where(truth > 0, 220, 20).astype(np.uint8)
    embeddings = precompute_image_embeddings(
        toy_predictor(), image, ndim=3, tile_shape=(64, 64), halo=(16, 16), verbose=False
    )
    result = propagate(_masks(truth, [1]), toy_predictor(), embeddings, PropagationSettings(iou_threshold=0.4))
    assert result.z_ranges == {1: (0, 2), 2: (0, 2)}
    assert min(_ious(result.segmentation, truth, 1, range(3))) > 0.85
    assert min(_ious(result.segmentation, truth, 2, range(3))) > 0.85


def test_a_store_on_disk_serves_as_well(tmp_path):
    from micro_sam.embeddings import EmbeddingStore, precompute_image_embeddings

    image = np.where(TWO[:4] > 0, 220, 20).astype(np.uint8)
    precompute_image_embeddings(toy_predictor(), image, tmp_path / "e.zarr", ndim=3, verbose=False)
    result = propagate(_masks(TWO, [2]), toy_predictor(), EmbeddingStore.open(tmp_path / "e.zarr"))
    assert result.z_ranges == {1: (1, 3), 2: (0, 3)}


@pytest.mark.parametrize(
    ("annotations", "options", "error", "sentence"),
    [
        ({}, {}, PromptError, "no annotated object"),
        ({1: {}}, {}, PromptError, "annotated slice"),
        ({0: {4: TWO[4] == 1}}, {}, PromptError, "id of at least 1"),
        ({1: {9: TWO[4] == 1}}, {}, PromptError, "slices 0 to 8"),
        ({1: {4: TWO[4, :10] == 1}}, {}, PromptError, "must have the shape"),
        ({1: {4: TWO[4] == 5}}, {}, PromptError, "is empty"),
        ({1: {4: TWO[4] == 1}}, {"z_limits": (5, 2)}, ParameterError, "ascending"),
        ({1: {4: TWO[4] == 1}}, {"stops": {1: [4]}}, ParameterError, "also stopped"),
        ({1: {4: TWO[4] == 1}}, {"occupied": TWO[0]}, ParameterError, "shape of the volume"),
        ({300: {4: TWO[4] == 1}}, {"out": np.zeros(SHAPE, np.uint8)}, ParameterError, "holds the id 300"),
    ],
)
def test_bad_input_is_one_sentence(embeddings, annotations, options, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        propagate(annotations, toy_predictor(), embeddings, **options)
    assert "\n" not in str(raised.value)


def test_embeddings_of_an_image_are_refused(embeddings):
    image = embeddings | {"features": embeddings["features"][0]}
    with pytest.raises(ParameterError, match="of one image"):
        propagate(_masks(TWO, [4]), toy_predictor(), image)


@pytest.mark.parametrize(
    "settings",
    [
        {"projection": "magic"},
        {"projection": {"use_magic": True}},
        {"projection": {"use_box": False}},
        {"iou_threshold": 1.5},
        {"box_extension": -1},
        {"motion_smoothing": float("nan")},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ParameterError):
        PropagationSettings(**settings)


def test_projections_have_names_and_dicts():
    assert Projection.of("mask") == Projection.of({"use_box": True, "use_mask": True})
    assert Projection.of("single point").is_ambiguous and not Projection.of("points").is_ambiguous
