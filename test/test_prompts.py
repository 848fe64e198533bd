"""Prompts are checked, and lead to the object they mean."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from segmentation_toys import draw_ellipses, embeddings_of, toy_predictor

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.errors import ParameterError, PromptError
from micro_sam.inference import batched_inference
from micro_sam.labels import compute_iou, get_centers_and_bounding_boxes
from micro_sam.prompt_based_segmentation import (
    segment_from_box,
    segment_from_box_and_points,
    segment_from_mask,
    segment_from_points,
)
from micro_sam.prompts import extend_box, mask_to_logits, mask_to_points

SHAPE = (120, 160)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def labels():
    return draw_ellipses(SHAPE, 6, (10, 18), seed=1)


@pytest.fixture
def predictor():
    return toy_predictor()


def facts(labels):
    return get_centers_and_bounding_boxes(labels)


# one object


def test_points_box_and_mask_lead_to_the_object(predictor, labels):
    embeddings = embeddings_of(labels)
    centers, boxes = facts(labels)
    for k in centers:
        truth = labels == k
        results = [
            segment_from_points(predictor, centers[k][None], np.array([1]), embeddings),
            segment_from_box(predictor, np.array(boxes[k]), embeddings),
            segment_from_box(predictor, np.array(boxes[k]), embeddings, box_extension=0.1),
            segment_from_box_and_points(predictor, np.array(boxes[k]), centers[k][None], np.array([1]), embeddings),
            segment_from_mask(predictor, truth, embeddings),
            segment_from_mask(predictor, truth, embeddings, use_box=False),
            segment_from_mask(predictor, truth, embeddings, use_mask=False, use_points=True),
            segment_from_mask(predictor, truth, embeddings, use_box=False, use_mask=False, use_single_point=True),
            segment_from_mask(predictor, truth[::2, ::2], embeddings, original_size=SHAPE),
        ]
        for result in results:
            assert result.shape == (1, *SHAPE)
            assert result.dtype == bool
            assert compute_iou(result[0], truth) > 0.88


def test_without_embeddings_the_image_of_the_predictor_is_used(predictor, labels):
    predictor.set_image(np.where(labels > 0, 255, 0).astype(np.uint8)[..., None].repeat(3, -1))
    centers, _ = facts(labels)
    assert compute_iou(segment_from_points(predictor, centers[2][None], [1])[0], labels == 2) > 0.88


def test_number_of_masks_and_what_is_returned(predictor, labels):
    embeddings = embeddings_of(labels)
    centers, boxes = facts(labels)
    point = centers[1][None], np.array([1])
    masks, scores, logits = segment_from_points(predictor, *point, embeddings, multimask_output=True, return_all=True)
    assert (masks.shape, scores.shape, logits.shape) == ((3, *SHAPE), (3,), (3, 256, 256))
    best, score, _ = segment_from_points(predictor, *point, embeddings, return_all=True)
    assert best.shape == (1, *SHAPE)
    assert score[0] == scores.max()
    np.testing.assert_array_equal(best[0], masks[scores.argmax()])
    assert segment_from_box(predictor, boxes[1], embeddings, multimask_output=True).shape == (3, *SHAPE)
    logits = segment_from_mask(predictor, labels == 1, embeddings, return_logits=True)
    np.testing.assert_array_equal(logits > 0, segment_from_mask(predictor, labels == 1, embeddings))


def test_an_object_that_fills_the_image(predictor):
    labels = np.ones(SHAPE, dtype=np.uint32)
    embeddings = embeddings_of(labels)
    assert segment_from_mask(predictor, labels, embeddings, use_points=True).all()
    assert segment_from_box(predictor, [0, 0, *SHAPE], embeddings).all()
    assert segment_from_points(predictor, [[60, 80]], [1], embeddings).all()


def test_an_image_of_one_pixel(predictor):
    embeddings = embeddings_of(np.ones((1, 1), dtype=np.uint32))
    assert segment_from_points(predictor, [[0, 0]], [1], embeddings).shape == (1, 1, 1)
    assert segment_from_mask(predictor, np.ones((1, 1)), embeddings).shape == (1, 1, 1)


NAN = float("nan")


@pytest.mark.parametrize(
    ("points", "point_labels", "message"),
    [
        ([[5, 200]], [1], r"Point 0 \(y, x\) = \(5, 200\) lies outside the image of height 120 and width 160"),
        ([[5, 5], [-3, 2]], [1, 1], r"Point 1 .*outside"),
        ([[5, NAN]], [1], r"Points contain nan at index \(0, 1\)"),
        (np.zeros((0, 2)), [], "Points is empty"),
        ([5, 5], [1], r"shape \(n, 2\), got \(2,\)"),
        ([[5, 5, 5]], [1], r"shape \(n, 2\), got \(1, 3\)"),
        ([[5, 5]], [1, 0], "Each of the 1 points needs one label"),
        ([[5, 5]], [2], "1 .positive. or 0 .negative., got 2 for point 0"),
        ([[5, 5]], [0], "All points are negative"),
        ("here", [1], "array of numbers, got str"),
    ],
)
def test_wrong_points_are_told(predictor, labels, points, point_labels, message):
    with pytest.raises(PromptError, match=message):
        segment_from_points(predictor, points, point_labels, embeddings_of(labels))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 20, 10, 40], r"The box \[20, 20, 10, 40\] is inverted: max_y is smaller than min_y"),
        ([20, 40, 30, 20], "max_x is smaller than min_x"),
        ([20, 20, 20, 40], "no extent along y"),
        ([200, 20, 220, 40], "outside the image"),
        ([20, -50, 40, -20], "outside the image"),
        ([20, 20, NAN, 40], "nan"),
        ([20, 20, 30], "four numbers"),
        ([], "empty"),
    ],
)
def test_wrong_boxes_are_told(predictor, labels, box, message):
    with pytest.raises(PromptError, match=message):
        segment_from_box(predictor, box, embeddings_of(labels))


def test_boxes_over_the_edge_are_clipped(predictor):
    labels = np.zeros(SHAPE, dtype=np.uint32)
    labels[90:, 100:150] = 1
    result = segment_from_box(predictor, [85, 95, 140, 155], embeddings_of(labels))
    assert compute_iou(result[0], labels == 1) > 0.9


def test_wrong_masks_are_told(predictor, labels):
    embeddings = embeddings_of(labels)
    with pytest.raises(PromptError, match=r"shape of the image \(120, 160\), got \(60, 80\)"):
        segment_from_mask(predictor, labels[::2, ::2], embeddings)
    with pytest.raises(PromptError, match="empty"):
        segment_from_mask(predictor, np.zeros(SHAPE), embeddings)
    with pytest.raises(PromptError, match="NaN"):
        segment_from_mask(predictor, np.full(SHAPE, np.nan), embeddings)
    with pytest.raises(PromptError, match="No prompt would be left"):
        segment_from_mask(predictor, labels == 1, embeddings, use_box=False, use_mask=False)
    with pytest.raises(PromptError, match="box_extension"):
        segment_from_mask(predictor, labels == 1, embeddings, box_extension=-1)
    with pytest.raises(PromptError, match="no image"):
        segment_from_mask(predictor, labels == 1)


# tiles


@pytest.fixture(scope="module")
def tiles(labels):
    image = np.where(labels > 0, 255, 0).astype(np.uint8)
    return precompute_image_embeddings(toy_predictor(), image, tile_shape=(64, 64), halo=(24, 24), verbose=False)


def test_tiled_results_have_the_shape_of_the_image(predictor, labels, tiles):
    centers, boxes = facts(labels)
    for k in centers:
        truth = labels == k
        for result in (
            segment_from_box(predictor, boxes[k], tiles),
            segment_from_points(predictor, centers[k][None], [1], tiles),
            segment_from_mask(predictor, truth, tiles),
            segment_from_mask(predictor, truth, tiles, use_box=False),
        ):
            assert result.shape == (1, *SHAPE)
            assert np.count_nonzero(result[0] & truth) > 0.8 * np.count_nonzero(result[0])
    logits = segment_from_mask(predictor, labels == 1, tiles, return_logits=True)
    assert logits.shape == (1, *SHAPE)
    assert not (logits > 0).all()


def test_prompts_that_no_tile_sees_together_are_told(predictor, labels, tiles, caplog):
    center = facts(labels)[0][1]
    opposite = [0 if c > size / 2 else size - 1 for c, size in zip(center, SHAPE)]
    with caplog.at_level(logging.WARNING):
        segment_from_points(predictor, [center, opposite], [1, 0], tiles)
    assert "1 of 2 points are not used" in caplog.text
    with caplog.at_level(logging.WARNING):
        segment_from_box(predictor, [0, 0, 119, 159], tiles)
    assert "the box is cut" in caplog.text


# many objects


def test_batches_label_objects_by_their_prompts(predictor, labels):
    embeddings = embeddings_of(labels)
    centers, boxes = facts(labels)
    points = np.array([centers[k][::-1] for k in centers])[:, None]
    corners = np.array([[boxes[k][1], boxes[k][0], boxes[k][3], boxes[k][2]] for k in boxes])
    ones = np.ones((len(points), 1))
    for prompts in ({"points": points, "point_labels": ones}, {"boxes": corners}, {"boxes": torch.tensor(corners)},
                    {"points": points, "point_labels": ones, "boxes": corners, "multimasking": True}):  # fmt: skip
        result = batched_inference(predictor, None, 4, embedding_path=embeddings, **prompts)
        assert result.dtype == np.uint32
        for k in centers:
            assert compute_iou(result == k, labels == k) > 0.85
    ids = [10 * k for k in centers]
    named = batched_inference(predictor, None, 2, boxes=corners, embedding_path=embeddings, segmentation_ids=ids)
    assert sorted(np.unique(named)) == [0, *ids]
    logits = torch.tensor(np.stack([mask_to_logits(labels == k, (768, 1024)) for k in centers]))
    from_masks = batched_inference(predictor, None, 2, logits_masks=logits, embedding_path=embeddings)
    assert compute_iou(from_masks == 1, labels == 1) > 0.85


def test_batches_give_records(predictor, labels):
    _, boxes = facts(labels)
    corners = np.array([[boxes[k][1], boxes[k][0], boxes[k][3], boxes[k][2]] for k in boxes])
    arguments = {"boxes": corners, "embedding_path": embeddings_of(labels), "return_instance_segmentation": False}
    records = batched_inference(predictor, None, 4, **arguments)
    assert [len(objects) for objects in records] == [1] * len(corners)
    assert set(records[0][0]) >= {"segmentation", "predicted_iou", "stability_score", "area", "bbox", "logits"}
    assert records[0][0]["logits"].shape == (256, 256)
    three = batched_inference(
        predictor, None, 4, multimasking=True, reduce_multimasking=False, return_highres_logits=True, **arguments
    )
    assert [len(objects) for objects in three] == [3] * len(corners)
    np.testing.assert_array_equal(three[0][0]["logits"].numpy() > 0, three[0][0]["segmentation"])


def test_batches_compute_embeddings_and_keep_them(predictor, labels, tmp_path):
    image = np.where(labels > 0, 255, 0).astype(np.uint8)
    _, boxes = facts(labels)
    corners = np.array([[boxes[k][1], boxes[k][0], boxes[k][3], boxes[k][2]] for k in boxes])
    path = tmp_path / "embeddings.zarr"
    first = batched_inference(predictor, image, 4, boxes=corners, embedding_path=path, verbose_embeddings=False)
    again = batched_inference(predictor, None, 4, boxes=corners, embedding_path=path, verbose_embeddings=False)
    np.testing.assert_array_equal(first, again)
    assert first.max() == len(corners)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ({}, PromptError, "There is no prompt"),
        ({"boxes": np.zeros((0, 4))}, PromptError, "boxes is empty"),
        ({"boxes": [[1, 1, 9, 9], [9, 1, 2, 9]]}, PromptError, "Box 1 .*inverted: max_x"),
        ({"boxes": [[1, 1, 9, 9], [1, 130, 9, 140]]}, PromptError, "Box 1 .*outside"),
        ({"points": [[[5, 5]], [[200, 5]]], "point_labels": [[1], [1]]}, PromptError, r"Object 1: Point 0 \(x, y\)"),
        ({"points": [[[5, 5]]], "point_labels": [[3]]}, PromptError, "Object 0: .*got 3"),
        ({"points": [[[5, 5]]]}, PromptError, "point_labels must be given"),
        ({"point_labels": [[1]], "boxes": [[1, 1, 9, 9]]}, PromptError, "without points"),
        ({"points": [[[5, 5]]], "point_labels": [[1]], "boxes": np.ones((2, 4))}, PromptError, "same objects"),
        ({"logits_masks": torch.zeros(1, 1, 9, 9)}, PromptError, "256"),
        ({"boxes": [[1, 1, 9, 9]], "segmentation_ids": [1, 2]}, ParameterError, "segmentation_ids must be 1"),
        ({"boxes": [[1, 1, 9, 9]], "mask_threshold": "best"}, ParameterError, "mask_threshold"),
    ],
)
def test_wrong_batches_are_told(predictor, labels, prompts, error, message):
    with pytest.raises(error, match=message):
        batched_inference(predictor, None, 4, embedding_path=embeddings_of(labels), **prompts)


def test_batches_without_an_image_are_told(predictor):
    with pytest.raises(ParameterError, match="There is no image"):
        batched_inference(predictor, None, 4, boxes=[[1, 1, 9, 9]])


# derived prompts


def test_boxes_are_extended_by_fraction_or_pixels():
    box = np.array([10.0, 10.0, 30.0, 50.0])
    np.testing.assert_allclose(extend_box(box, SHAPE, 0.1), [8, 6, 32, 54])
    np.testing.assert_allclose(extend_box(box, SHAPE, 20), [0, 0, 50, 70])


def test_derived_points_are_on_the_right_side():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:60, 30:90] = True
    points, labels = mask_to_points(mask)
    assert labels.tolist() == [1, 0, 0, 0, 0]
    assert [bool(mask[tuple(p.astype(int))]) for p in points] == [True, False, False, False, False]
    assert len(mask_to_points(mask, single=True)[0]) == 1


def test_mask_logits_have_the_sign_of_the_mask_and_padding_is_outside():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:60] = True
    logits = mask_to_logits(mask, (768, 1024))[0]
    assert logits.dtype == np.float32
    assert (logits[:94] > 0).all()
    assert (logits[98:] < 0).all()
    assert logits[192:].max() < -6
