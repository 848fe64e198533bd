"""Objects are followed through time, with a model of their motion."""

from __future__ import annotations

import numpy as np
from segmentation_toys import toy_predictor
from volume_toys import discs, tube, volume_embeddings

from micro_sam.labels import compute_iou
from micro_sam.multi_dimensional_segmentation import (
    PropagationSettings,
    iter_track_masks,
    propagate,
    track_mask_through_time,
)
from micro_sam.progress import drain

SHAPE = (8, 96, 200)
FAST = discs(SHAPE, tube(range(8), 48, 20, 10, (0, 14)), tube(range(6), 20, 150, 9))


def _ious(found, label):
    return [compute_iou(a == label, b == label) for a, b in zip(found, FAST)]


def test_a_fast_object_is_lost_without_and_kept_with_its_motion():
    start = {1: {0: FAST[0] == 1, 1: FAST[1] == 1}}
    embeddings = volume_embeddings(FAST)
    settings = PropagationSettings("mask", iou_threshold=0.3)
    still = propagate(start, toy_predictor(), embeddings, settings)
    assert still.z_range(1)[1] < 7
    settings = PropagationSettings("box", iou_threshold=0.1, box_extension=0.5)
    moving = drain(iter_track_masks(start, toy_predictor(), embeddings, settings))
    assert moving.z_range(1) == (0, 7) and min(_ious(moving.segmentation, 1)) > 0.8
    assert moving.scores[1][7].overlap > 0.8  # with the moved mask


def test_stop_frames_and_labels_as_input():
    labels = np.zeros(SHAPE, np.uint32)
    labels[0] = FAST[0]
    settings = PropagationSettings("box", iou_threshold=0.05, box_extension=0.5)
    result = drain(iter_track_masks(labels, toy_predictor(), volume_embeddings(FAST), settings, stop_frames={2: 4}))
    assert result.z_range(2) == (0, 3)
    assert result.z_range(1)[0] == 0


def test_one_call_gives_the_track_and_its_frames():
    start = np.zeros(SHAPE, np.uint32)
    start[2] = FAST[2] == 2
    found, frames = track_mask_through_time(start, toy_predictor(), volume_embeddings(FAST), [2])
    assert frames == (2, 5)  # and nothing before the first annotated frame
    assert min(compute_iou(found[t] > 0, FAST[t] == 2) for t in range(2, 6)) > 0.85
    found, frames = track_mask_through_time(
        start, toy_predictor(), volume_embeddings(FAST), [2], motion_smoothing=0.9, stop_frame=4
    )
    assert frames == (2, 3)
