"""Simulated prompts lie where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro_sam.errors import ParameterError, PromptError
from micro_sam.prompt_generators import IterativePromptGenerator, PointAndBoxPromptGenerator


@pytest.fixture
def objects():
    masks = torch.zeros(2, 1, 50, 60)
    masks[0, 0, 10:20, 15:35] = 1
    masks[1, 0, 30:45, 5:12] = 1
    return masks


BOXES = [(10, 15, 20, 35), (30, 5, 45, 12)]


def values(masks, points):
    """What lies under points (n, k, 2) given as (x, y)."""
    return torch.stack([mask[0][points_yx[:, 1], points_yx[:, 0]] for mask, points_yx in zip(masks, points)])


def test_positive_points_lie_inside_and_negative_ones_around(objects):
    generator = PointAndBoxPromptGenerator(3, 4, dilation_strength=3, get_box_prompts=True)
    points, labels, boxes, masks = generator(objects, BOXES)
    assert points.shape == (2, 7, 2)
    assert masks is None
    np.testing.assert_array_equal(values(objects, points), labels)
    np.testing.assert_array_equal(labels[0], [1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(boxes, [[15, 10, 35, 20], [5, 30, 12, 45]])
    for (y0, x0, y1, x1), negative in zip(BOXES, points[:, 3:].numpy()):
        assert (negative >= [x0 - 6, y0 - 6]).all() and (negative < [x1 + 6, y1 + 6]).all()
        near = (negative >= [x0 - 3, y0 - 3]).all(axis=1) & (negative < [x1 + 3, y1 + 3]).all(axis=1)
        assert not near.any()


def test_the_first_positive_point_is_the_centre(objects):
    points, labels, boxes, _ = PointAndBoxPromptGenerator(1, 0, 3)(
        objects, BOXES, [np.array([15.2, 25.0]), np.array([37, 8])]
    )
    np.testing.assert_array_equal(points[:, 0], [[25, 15], [8, 37]])
    assert labels.tolist() == [[1], [1]]
    assert boxes is None


def test_only_boxes(objects):
    points, labels, boxes, _ = PointAndBoxPromptGenerator(0, 0, 3, get_point_prompts=False, get_box_prompts=True)(
        objects, BOXES
    )
    assert points is None and labels is None
    assert len(boxes) == 2


def test_wrong_use_is_told(objects):
    with pytest.raises(ParameterError, match="neither"):
        PointAndBoxPromptGenerator(1, 1, 3, get_point_prompts=False)
    with pytest.raises(ParameterError, match="at least one"):
        PointAndBoxPromptGenerator(0, 0, 3)
    with pytest.raises(PromptError, match="one box for each"):
        PointAndBoxPromptGenerator(1, 1, 3)(objects, BOXES[:1])
    with pytest.raises(PromptError, match="empty"):
        PointAndBoxPromptGenerator(1, 1, 3)(torch.zeros_like(objects), BOXES)
    with pytest.raises(PromptError, match="fills the image"):
        PointAndBoxPromptGenerator(1, 1, 3)(torch.ones(1, 1, 9, 9), [(0, 0, 9, 9)])
    with pytest.raises(PromptError, match="same shape"):
        IterativePromptGenerator()(objects, objects[:1])


def test_corrections_come_from_the_errors(objects):
    predicted = objects.clone()
    predicted[0, 0, 10:12] = 0
    predicted[0, 0, 40:44, 50:55] = 1
    points, labels, boxes, masks = IterativePromptGenerator()(objects, predicted)
    assert boxes is None and masks is None
    assert points.shape == (2, 2, 2)
    assert labels.tolist() == [[1, 0], [1, 0]]
    (x, y), (nx, ny) = points[0].tolist()
    assert y in (10, 11) and 15 <= x < 35
    assert 40 <= ny < 44 and 50 <= nx < 55
    np.testing.assert_array_equal(values(objects, points), labels)


def test_an_object_that_fills_the_image_gets_positive_points_only():
    full = torch.ones(1, 1, 8, 8)
    _, labels, _, _ = IterativePromptGenerator()(full, torch.zeros_like(full))
    assert labels.tolist() == [[1, 1]]
