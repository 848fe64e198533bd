"""Losses of masks, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro_sam.training.losses import MaskLoss, mask_ious


def _case():
    target = torch.zeros(1, 8, 8)
    target[:, :4] = 1
    logits = torch.full((1, 2, 8, 8), -20.0)
    logits[:, 0, :4] = 20  # the truth, and half of it
    logits[:, 1, :2] = 20
    return logits, target


def test_dice_of_masks_that_are_right_and_half_right():
    logits, target = _case()
    right, half = MaskLoss()(logits, target, torch.ones(1, 8, 8))[0].tolist()
    assert right == pytest.approx(0, abs=1e-6)
    assert half == pytest.approx(1 - (2 * 16 + 1) / (16 + 32 + 1), abs=1e-6)


def test_focal_loss_is_added_where_it_is_asked_for():
    logits, target = _case()
    logits = logits / 20
    valid = torch.ones(1, 8, 8)
    p = 1 / (1 + np.exp(-1))
    focal = -np.log(p) * (1 - p) ** 2  # every pixel of the right mask is as sure as the others
    [[with_focal, _]], [[without, _]] = MaskLoss(3.0)(logits, target, valid), MaskLoss()(logits, target, valid)
    assert float(with_focal - without) == pytest.approx(3 * focal, rel=1e-4)


def test_unlabelled_area_counts_in_nothing():
    logits, target = _case()
    valid = torch.ones(1, 8, 8)
    valid[:, 2:4] = 0  # where the second mask is wrong
    losses = MaskLoss(1.0)(logits, target, valid)[0]
    assert losses.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert mask_ious(logits, target, valid).tolist() == [[1, 1]]
