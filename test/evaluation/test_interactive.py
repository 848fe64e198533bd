import numpy as np
import pytest
import torch

from micro_sam.errors import ParameterError
from micro_sam.evaluation.interactive import interactive_ious, most_interior_pixel
from micro_sam.sample_data import synthetic_data


class _Transform:
    def apply_coords(self, points, size):
        return points

    def apply_boxes(self, boxes, size):
        return boxes


class DiscPredictor:
    """Answers every prompt with a disc around the positive points, or the filled box; clicks enlarge the disc."""

    transform, device = _Transform(), "cpu"

    def __init__(self, shape, radius):
        self.original_size, self.radius, self.calls = shape, radius, []

    def predict_torch(self, points, labels, boxes=None, mask_input=None, multimask_output=False):
        self.calls.append((None if points is None else points.shape, mask_input is not None))
        y, x = torch.meshgrid(*[torch.arange(s) for s in self.original_size], indexing="ij")
        masks = []
        for i in range(len(boxes if points is None else points)):
            mask = torch.zeros(self.original_size, dtype=torch.bool)
            if boxes is not None:
                x0, y0, x1, y1 = boxes[i]
                mask |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
            for (px, py), positive in zip(
                points[i] if points is not None else [], labels[i] if points is not None else []
            ):
                disc = (x - px) ** 2 + (y - py) ** 2 <= self.radius**2
                mask = mask | disc if positive else mask & ~disc
            masks.append(mask)
        return torch.stack(masks)[:, None], None, torch.zeros(len(masks), 1, 4, 4)


def test_box_and_point_prompts_are_scored_and_corrections_help():
    labels = np.zeros((40, 60), np.uint32)
    labels[5:25, 5:15] = 1
    labels[10:20, 30:55] = 7
    predictor = DiscPredictor(labels.shape, 5)
    box = interactive_ious(predictor, labels, "box", n_corrections=0)
    np.testing.assert_array_equal(box, 1)  # the objects are rectangles
    point = interactive_ious(predictor, labels, "point", n_corrections=4)
    assert point.shape == (2, 5)
    assert (point[:, -1] > point[:, 0] + 0.2).all()


def test_the_previous_mask_goes_in_with_each_correction():
    predictor = DiscPredictor((30, 30), 4)
    labels = np.zeros((30, 30), np.uint32)
    labels[8:20, 8:20] = 3
    interactive_ious(predictor, labels, "point", n_corrections=2)
    assert predictor.calls == [((1, 1, 2), False), ((1, 2, 2), True), ((1, 3, 2), True)]


def test_tiny_objects_are_left_out_and_no_objects_give_no_rows():
    predictor, labels = DiscPredictor((20, 20), 3), np.zeros((20, 20), np.uint32)
    labels[0, :3] = 1
    assert interactive_ious(predictor, labels, min_size=10).shape == (0, 4)


def test_many_objects_can_be_thinned_out():
    labels = np.repeat(np.repeat(np.arange(1, 17, dtype=np.uint32).reshape(4, 4), 5, 0), 5, 1)
    assert len(interactive_ious(DiscPredictor((20, 20), 3), labels, n_corrections=0, max_objects=5)) == 4


def test_wrong_calls_are_refused():
    predictor = DiscPredictor((20, 20), 3)
    with pytest.raises(ParameterError, match="'box' or 'point'"):
        interactive_ious(predictor, np.zeros((20, 20), int), "scribble")
    with pytest.raises(ParameterError, match="do not fit"):
        interactive_ious(predictor, np.zeros((20, 21), int))


def test_the_most_interior_pixel_lies_in_the_middle():
    mask = np.zeros((30, 40), bool)
    mask[10:21, 5:36] = True
    assert most_interior_pixel(mask)[0] == 15
    assert most_interior_pixel(np.zeros((5, 5), bool)) == (0, 0)
    labels = synthetic_data((64, 64), seed=2)[1]
    for i in range(1, labels.max() + 1):
        assert labels[most_interior_pixel(labels == i)] == i
