"""Iterative prompt training on crops, as in Kirillov et al., "Segment Anything" (2023), section "Training".

Coordinates are (x, y) pixels of the 1024 frame. A crop knows its place in the frame, so that positions are encoded as
they will be in use although only the crop is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

PAD, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass
class Objects:
    """The objects of a batch that are prompted.

    Attributes:
        crop_index: (n,) index of the crop each object lies in.
        masks: (n, s, s) soft target masks at a quarter of the crop's resolution.
        offsets: (n, 2) position (y, x) of the crop in the frame, in pixels.
    """

    crop_index: torch.Tensor
    masks: torch.Tensor
    offsets: torch.Tensor


def choose_objects(labels: torch.Tensor, offsets: torch.Tensor, per_crop: int, min_area: float = 4.0) -> Objects:
    """Pick up to ``per_crop`` objects from every label crop (b, S, S); areas in pixels of the quarter resolution."""
    index, masks = [], []
    for i, crop in enumerate(labels):
        ids, counts = torch.unique(crop, return_counts=True)
        ids = ids[(ids > 0) & (counts >= 16 * min_area)]
        ids = ids[torch.randperm(len(ids))[:per_crop]]
        if len(ids):
            one_hot = (crop[None] == ids[:, None, None]).float()
            masks.append(F.avg_pool2d(one_hot[:, None], 4)[:, 0])
            index += [i] * len(ids)
    if not masks:
        empty = labels.new_zeros((0, labels.shape[-1] // 4, labels.shape[-1] // 4), dtype=torch.float32)
        return Objects(labels.new_zeros(0, dtype=torch.long), empty, offsets[:0])
    crop_index = torch.tensor(index, device=labels.device)
    return Objects(crop_index, torch.cat(masks), offsets[crop_index])


def random_points(region: torch.Tensor) -> torch.Tensor:
    """One random pixel (y, x) of each region (n, s, s) bool; (n, 2). An empty region gives an arbitrary pixel."""
    weights = region.flatten(1).float() + 1e-9
    flat = torch.multinomial(weights, 1)[:, 0]
    return torch.stack([flat // region.shape[-1], flat % region.shape[-1]], dim=-1)


def _interior(masks: torch.Tensor) -> torch.Tensor:
    """The masks (n, s, s) eroded by one pixel, or themselves where nothing would remain."""
    eroded = -F.max_pool2d(-masks[:, None].float(), 3, 1, 1)[:, 0] > 0.5
    return torch.where(eroded.flatten(1).any(1)[:, None, None], eroded, masks)


def _to_frame(points_yx: torch.Tensor, objects: Objects) -> torch.Tensor:
    """Pixels (y, x) of the quarter resolution to (x, y) in the frame."""
    jitter = torch.rand_like(points_yx, dtype=torch.float32)
    return ((points_yx + jitter) * 4 + objects.offsets).flip(-1)


def first_prompts(objects: Objects, box_share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """A jittered box or a positive point for each object: coordinates (n, 2, 2) and labels (n, 2)."""
    masks = objects.masks >= 0.5
    masks = torch.where(masks.flatten(1).any(1)[:, None, None], masks, objects.masks > 0)
    points = _to_frame(random_points(_interior(masks)), objects)
    coords = torch.stack([points, torch.zeros_like(points)], dim=1)
    labels = torch.tensor([[POSITIVE, PAD]], device=masks.device).repeat(len(masks), 1)
    use_box = torch.rand(len(masks), device=masks.device) < box_share
    coords[use_box] = _jittered_boxes(objects)[use_box]
    labels[use_box] = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=masks.device)
    return coords, labels


def _jittered_boxes(objects: Objects) -> torch.Tensor:
    """Corners (n, 2, 2) as (x, y) in the frame, moved by a tenth of the side, at most 20 pixels."""
    masks = objects.masks > 0
    corners = []
    for profile in (masks.any(1), masks.any(2)):  # over x, over y
        position = torch.arange(profile.shape[-1], device=masks.device).float()
        low = torch.where(profile, position, position[-1] + 1).amin(1)
        high = torch.where(profile, position, -1.0).amax(1) + 1
        corners.append(torch.stack([low, high], dim=1) * 4)
    x, y = corners
    boxes = torch.stack([x, y], dim=-1) + objects.offsets.flip(-1)[:, None]
    sides = (boxes[:, 1] - boxes[:, 0])[:, None]
    return boxes + (torch.randn_like(boxes) * 0.1 * sides).clamp(-20, 20)


def correction(objects: Objects, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A point from the region where prediction (n, s, s) and target disagree: coordinates (n, 1, 2), labels (n, 1)."""
    target, predicted = objects.masks >= 0.5, logits > 0
    error = target ^ predicted
    error = torch.where(error.flatten(1).any(1)[:, None, None], _interior(error), target | (objects.masks > 0))
    yx = random_points(error)
    positive = objects.masks[torch.arange(len(yx), device=yx.device), yx[:, 0], yx[:, 1]] >= 0.5
    return _to_frame(yx, objects)[:, None], torch.where(positive, POSITIVE, NEGATIVE)[:, None]


class CropPrompter:
    """SAM's prompt encoder and mask decoder on crops of the frame, many objects of several images at once."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam

    def position_encoding(self, offsets: torch.Tensor, side: int) -> torch.Tensor:
        """(n, 256, side, side) windows of the frame's position encoding."""
        full = self.sam.prompt_encoder.get_dense_pe()[0]
        starts = (offsets // 16).tolist()
        return torch.stack([full[:, y : y + side, x : x + side] for y, x in starts])

    def encode_points(self, coords: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, k, 2) frame coordinates, measured from pixel edges, and (n, k) labels -> (n, k, 256)."""
        encoder = self.sam.prompt_encoder
        encoded = encoder.pe_layer.forward_with_coords(coords.clone(), encoder.input_image_size)
        encoded = encoded * (labels != PAD)[..., None]
        table = torch.cat(
            [encoder.not_a_point_embed.weight, *(e.weight for e in encoder.point_embeddings)]
        )  # rows: pad, negative, positive, top left, bottom right
        return encoded + table[labels + 1]

    def __call__(
        self,
        features: torch.Tensor,
        positions: torch.Tensor,
        coords: torch.Tensor,
        labels: torch.Tensor,
        previous: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks.

        Args:
            features: (n, 256, h, w) image embedding of each object's crop.
            positions: (n, 256, h, w) position encodings.
            coords: (n, k, 2) prompt points and box corners.
            labels: (n, k) their labels.
            previous: (n, 4h, 4w) logits of the last prediction, or None.

        Returns:
            Mask logits (n, 4, 4h, 4w), the single mask first, and IoU predictions (n, 4).
        """
        prompt, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        if previous is None:
            dense = prompt.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            dense = prompt.mask_downscaling(previous[:, None])
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(coords), -1, -1), self.encode_points(coords, labels)], dim=1)
        hidden, image = decoder.transformer(features + dense, positions, tokens)
        image = image.transpose(1, 2).reshape(features.shape)
        upscaled = decoder.output_upscaling(image)
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return masks, decoder.iou_prediction_head(hidden[:, 0])
