"""The objects of a batch that are prompted, the prompts they get, and the corrections of what was predicted for them.

As in Kirillov et al., "Segment Anything" (2023), section "Training": a first prompt, then points from where the last
prediction is wrong. Everything happens for all objects at once, at the resolution of the mask logits, a quarter of the
encoder's frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..prompt_generators import IterativePromptGenerator, PromptGeneratorBase
from .trainable_sam import BOTTOM_RIGHT, NEGATIVE, PAD, POSITIVE, TOP_LEFT, Encoded, low_resolution

_STRIDE = 4  # frame pixels per pixel of the mask logits


@dataclass
class Objects:
    """Objects of several images.

    Attributes:
        image_index: (n,) which image each object lies in.
        masks: (n, s, s) soft masks at the resolution of the mask logits.
        valid: (n, s, s) 1 where the labels are known, 0 in the padding and where they are to be ignored.
    """

    image_index: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, part: slice | torch.Tensor) -> Objects:
        return Objects(self.image_index[part], self.masks[part], self.valid[part])


def gather_objects(labels: torch.Tensor, ids: list[torch.Tensor], encoded: Encoded, side: int) -> Objects:
    """The chosen objects of every image.

    Args:
        labels: (B, H, W) object ids; negative where the labels are unknown.
        ids: The chosen ids of every image.
        encoded: The encoded images.
        side: Side of the mask logits.
    """
    index, masks, valid = [], [], []
    known = low_resolution((labels >= 0).float()[:, None], encoded, side, "nearest-exact")[:, 0]
    for i, chosen in enumerate(ids):
        if len(chosen):
            one_hot = (labels[i][None] == chosen.to(labels)[:, None, None]).float()
            masks.append(low_resolution(one_hot[:, None], encoded, side)[:, 0])
            valid.append(known[i].expand(len(chosen), -1, -1))
            index += [i] * len(chosen)
    if not masks:
        empty = known.new_zeros(0, side, side)
        return Objects(torch.zeros(0, dtype=torch.long, device=labels.device), empty, empty)
    return Objects(torch.tensor(index, device=labels.device), torch.cat(masks), torch.cat(valid))


def box_or_point(coords: torch.Tensor, labels: torch.Tensor, box_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of prompts that hold one point and one box, keep the box or the point, by chance.

    Args:
        coords: (n, 3, 2): a point, then the two corners of a box.
        labels: (n, 3).
        box_share: How many of the objects keep the box.

    Returns:
        Coordinates (n, 2, 2) and labels (n, 2): two corners, or a point and a padding token.
    """
    use_box = torch.rand(len(coords), device=coords.device) < box_share
    points = torch.stack([coords[:, 0], torch.zeros_like(coords[:, 0])], 1)
    coords = torch.where(use_box[:, None, None], coords[:, 1:], points)
    as_box = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=coords.device)
    as_point = torch.tensor([POSITIVE, PAD], device=coords.device)
    return coords, torch.where(use_box[:, None], as_box, as_point)


def is_single_point(labels: torch.Tensor) -> torch.Tensor:
    """(n,) whether the prompt is one positive point, which may mean several things."""
    return (labels == POSITIVE).sum(1).eq(1) & ((labels == POSITIVE) | (labels == PAD)).all(1)


def corrections(
    objects: Objects, logits: torch.Tensor, generator: PromptGeneratorBase
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points that correct a prediction.

    Args:
        objects: The objects.
        logits: (n, s, s) what was predicted.
        generator: An `IterativePromptGenerator` stands for one point in the region that is wrong; any other generator
            is called with the true and the predicted masks.

    Returns:
        Coordinates (n, k, 2) in the frame and labels (n, k).
    """
    if type(generator) is IterativePromptGenerator:
        return _one_correction(objects, logits)
    true, predicted = objects.masks >= 0.5, logits > 0
    empty = ~true.flatten(1).any(1)
    true = torch.where(empty[:, None, None], objects.masks > 0, true)
    points, labels, _, _ = generator(true[:, None].float().cpu(), predicted[:, None].float().cpu())
    return (points.to(logits.device).float() + 0.5) * _STRIDE - 0.5, labels.to(logits.device).long()


def _one_correction(objects: Objects, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A point (n, 1, 2) from the region where prediction and target disagree, labels (n, 1)."""
    target, known = objects.masks >= 0.5, objects.valid > 0.5
    error = (target ^ (logits > 0)) & known
    wrong = error.flatten(1).any(1)[:, None, None]
    error = torch.where(wrong, interior(error), target | (objects.masks > 0))
    yx = random_pixels(error)
    positive = objects.masks[torch.arange(len(yx), device=yx.device), yx[:, 0], yx[:, 1]] >= 0.5
    positive = positive | ~wrong.flatten()
    return to_frame(yx)[:, None], torch.where(positive, POSITIVE, NEGATIVE)[:, None]


def interior(regions: torch.Tensor) -> torch.Tensor:
    """The regions (n, s, s) eroded by one pixel, or themselves where nothing would remain."""
    eroded = -F.max_pool2d(-regions[:, None].float(), 3, 1, 1)[:, 0] > 0.5
    return torch.where(eroded.flatten(1).any(1)[:, None, None], eroded, regions)


def random_pixels(regions: torch.Tensor) -> torch.Tensor:
    """One random pixel (y, x) of each region (n, s, s), (n, 2); an empty region gives an arbitrary pixel."""
    flat = torch.multinomial(regions.flatten(1).float() + 1e-9, 1)[:, 0]
    return torch.stack([flat // regions.shape[-1], flat % regions.shape[-1]], dim=-1)


def to_frame(pixels_yx: torch.Tensor) -> torch.Tensor:
    """Pixels (y, x) of the mask logits -> a place (x, y) inside each of them, in frame pixels."""
    jitter = torch.rand(pixels_yx.shape, device=pixels_yx.device)
    return ((pixels_yx + jitter) * _STRIDE - 0.5).flip(-1)
