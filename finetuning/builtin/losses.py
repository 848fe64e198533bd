"""Losses of the bundled model: masks as in Segment Anything, maps for the instance decoder."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def soft_iou_targets(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """IoU of thresholded predictions (n, m, s, s) with the targets (n, s, s): (n, m)."""
    predicted, target = logits > 0, (target >= 0.5)[:, None]
    intersection = (predicted & target).flatten(2).sum(-1)
    union = (predicted | target).flatten(2).sum(-1)
    return intersection / union.clamp(min=1)


FOCAL_WEIGHT = 5.0
"""Segment Anything takes 20; large, unfamiliar objects then tend to nothing before they are learnt."""


def mask_losses(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Focal and Dice loss of every mask (n, m, s, s) against soft targets (n, s, s): (n, m)."""
    target = target[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    focal = (entropy * (probability - target).abs() ** 2).flatten(2).mean(-1)
    numerator = 2 * (probability * target).flatten(2).sum(-1) + 1
    dice = 1 - numerator / ((probability**2).flatten(2).sum(-1) + (target**2).flatten(2).sum(-1) + 1)
    return FOCAL_WEIGHT * focal + dice


def prompt_loss(logits: torch.Tensor, iou: torch.Tensor, target: torch.Tensor, ambiguous: torch.Tensor) -> torch.Tensor:
    """The single mask's loss; where one point may mean several things, the best of the three others too.

    Args:
        logits: (n, 4, s, s).
        iou: (n, 4) predicted IoU.
        target: (n, s, s).
        ambiguous: (n,) bool.
    """
    each = mask_losses(logits, target)
    best = each[:, 1:].amin(1)
    loss = each[:, 0] + torch.where(ambiguous, best, 0.1 * best)
    return loss.mean() + (iou - soft_iou_targets(logits.detach(), target)).square().mean()


def map_loss(logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Foreground: cross entropy and Dice; distances: L1 inside objects, weakly outside, where they are 1.

    Args:
        logits: (b, 3, s, s) before the sigmoid.
        target: (b, 3, s, s).
        valid: (b, 1, s, s), 0 in the padding.
    """
    foreground, probability = target[:, :1], logits[:, :1].sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits[:, :1], foreground, reduction="none")
    entropy = (entropy * valid).sum() / valid.sum().clamp(min=1)
    overlap = 2 * (probability * foreground * valid).sum() + 1
    dice = 1 - overlap / (((probability**2 + foreground**2) * valid).sum() + 1)
    weight = valid * (foreground + 0.1)
    distance = (logits[:, 1:].sigmoid() - target[:, 1:]).abs()
    distance = (distance * weight).sum() / weight.sum().clamp(min=1)
    return entropy + dice + 3 * distance
