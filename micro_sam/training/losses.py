"""Losses for masks, predicted IoUs and the maps of the instance decoder; unlabelled area counts in none of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class MaskLoss(nn.Module):
    """Dice loss, with focal loss where it is asked for.

    Segment Anything was trained with focal and Dice loss in the proportion 20 : 1 (Kirillov et al., 2023). In short
    finetunings focal loss, which counts every pixel of the image, first drives masks of unfamiliar objects to nothing.

    Args:
        focal_weight: Weight of the focal loss (Lin et al., 2017; gamma 2).
        dice_weight: Weight of the Dice loss.
    """

    def __init__(self, focal_weight: float = 0.0, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.focal_weight, self.dice_weight = focal_weight, dice_weight

    def forward(self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The loss of every mask.

        Args:
            logits: (n, m, s, s).
            target: (n, s, s), soft.
            valid: (n, s, s), 0 where the target is unknown.

        Returns:
            (n, m).
        """
        target, valid = target[:, None], valid[:, None]
        probability = logits.sigmoid()
        focal = _focal(logits, probability, target, valid) if self.focal_weight else 0.0
        probability, target = probability * valid, target * valid
        overlap = 2 * (probability * target).flatten(2).sum(-1) + 1
        dice = 1 - overlap / ((probability.square() + target.square()).flatten(2).sum(-1) + 1)
        return self.focal_weight * focal + self.dice_weight * dice


def _focal(logits: torch.Tensor, probability: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    focal = entropy * (probability - target).square() * valid
    return focal.flatten(2).sum(-1) / valid.flatten(2).sum(-1).clamp(min=1)


class EachMask(nn.Module):
    """Applies a loss of torch-em's kind to every mask by itself.

    Args:
        loss: Called with probabilities and targets of shape (1, 1, s, s), zero where the target is unknown.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """See `MaskLoss.forward`."""
        probability = logits.sigmoid() * valid[:, None]
        target = target * valid
        rows = [
            torch.stack([self.loss(p[None, None], t[None, None]) for p in masks])
            for masks, t in zip(probability, target)
        ]
        return torch.stack(rows)


def mask_ious(logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """IoU of thresholded logits (n, m, s, s) with targets (n, s, s), where valid (n, s, s): (n, m)."""
    known = (valid > 0.5)[:, None]
    predicted, target = (logits > 0) & known, (target >= 0.5)[:, None] & known
    intersection = (predicted & target).flatten(2).sum(-1)
    union = (predicted | target).flatten(2).sum(-1)
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def masked_maps(
    prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target (B, 3, H, W) of the decoder with zeros where valid (B, 1, H, W) is 0."""
    valid = valid.to(prediction.dtype)
    return prediction * valid, target.clamp(min=0) * valid
