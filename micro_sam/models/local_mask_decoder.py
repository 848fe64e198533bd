"""Decode masks of objects whose place is roughly known: the same masks, computed only where they are looked for.

Two thirds of what `FastMaskDecoder` does for a prompt are not needed then. The upsampling (transposed convolutions without
overlap) works on every image token for itself, so only the tokens around the object go through it. A mask prompt, too,
changes only the image tokens it covers (its convolutions do not overlap either), so that the first layer is shared by all
prompts. And the last attention is only for the tokens that give the masks asked for. See also `local_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from micro_sam.models.fast_mask_decoder import FastMaskDecoder, _to_tokens, _Weights
from micro_sam.models.local_attention import Changes, decode_tokens

if TYPE_CHECKING:
    from segment_anything import SamPredictor

_GROUP = 16
_RIM = 3

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class MaskPatch:
    """A mask prompt that is constant outside of a window.

    Attributes:
        logits: float32 (4 * height, 4 * width).
        window: y0, y1, x0, x1 in image tokens, ends exclusive.
    """

    logits: torch.Tensor
    window: Window


@dataclass(frozen=True)
class LocalMasks:
    """What was decoded for one prompt.

    Attributes:
        logits: float32 (n_masks, 4 * height, 4 * width), a window of the low resolution masks.
        window: y0, y1, x0, x1 in image tokens.
        ious: Predicted IoUs (n_masks,).
    """

    logits: torch.Tensor
    window: Window
    ious: torch.Tensor


class _NotLocalError(ValueError):
    """A decoder cannot be used around objects only."""


class LocalMaskDecoder:
    """Decodes prompts for one image.

    Args:
        prompt_encoder: Segment Anything's, for points, boxes and masks.
        mask_decoder: The decoder.
        image: Image embedding (1, C, H, W).
        outside: The logit of mask prompts outside of their windows.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`; the decoder's own by default.

    Raises:
        ValueError: If the decoder cannot be used like this, see `of`.
    """

    def __init__(
        self,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        image: torch.Tensor,
        outside: float,
        precision: str | None = None,
    ) -> None:
        weights = _weights_of(mask_decoder, image, precision)
        if weights is None:
            raise _NotLocalError(
                "Only a FastMaskDecoder of Segment Anything's own parts, not in training, decodes locally."
            )
        self._prompt_encoder, self._decoder, self._outside = prompt_encoder, mask_decoder, outside
        self._weights = weights
        dtype = self._weights.up1.weight.dtype
        self.grid = tuple(image.shape[-2:])
        self._image = _to_tokens(image)[0].to(dtype)
        self._position = mask_decoder.position_tokens(prompt_encoder, dtype)

    @classmethod
    def of(cls, predictor: SamPredictor, outside: float) -> LocalMaskDecoder | None:
        """One for the image that is set in a predictor, as precise as its encoder.

        None where a GPU is used, which is faster with all of the image and all objects at once, and where the decoder is
        none of ours or in training.
        """
        model, image = predictor.model, predictor.features
        if image.device.type != "cpu":
            return None
        precision = getattr(model.image_encoder, "precision", None)
        try:
            return cls(model.prompt_encoder, model.mask_decoder, image, outside, precision)
        except _NotLocalError:
            return None

    @torch.no_grad()
    def __call__(
        self,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        masks: Sequence[MaskPatch] | None,
        windows: Sequence[Window],
        multimask: bool,
        threshold: float = 0.0,
        n_points: Sequence[int] | None = None,
    ) -> list[LocalMasks]:
        """Decode n prompts.

        Args:
            points: Coordinates (n, k, 2) in (x, y) of the encoder's input, and labels (n, k).
            boxes: (n, 4) as [min_x, min_y, max_x, max_y].
            masks: Mask prompts.
            windows: Where to look for each object, in image tokens. A mask above the threshold that reaches the border
                of its window is computed everywhere.
            multimask: Three masks for each prompt instead of one.
            threshold: The logit above which a pixel is in the mask.
            n_points: How many of the k points each prompt has, the first of them; the others must have the label -1.
                All k by default.
        """
        n = len(windows)
        counts, prompts = self._tokens(n, points, boxes, n_points)
        found: list[LocalMasks] = []
        row = 0
        for start in range(0, n, _GROUP):
            part = slice(start, start + _GROUP)
            patches = None if masks is None else masks[part]
            rows = slice(row, row := row + sum(counts[part]))
            found += self._decode_group(prompts[rows], counts[part], patches, windows[part], multimask, threshold)
        return found

    def _tokens(
        self,
        n: int,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        n_points: Sequence[int] | None,
    ) -> tuple[list[int], torch.Tensor]:
        """How many tokens each prompt has, and all of them one below the other."""
        output = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        sparse = torch.zeros(n, 0, self._image.shape[-1], device=self._image.device)
        if points is not None or boxes is not None:
            sparse, _ = self._prompt_encoder(points=points, boxes=boxes, masks=None)
        tokens = torch.cat([output.expand(n, -1, -1), sparse], 1)
        if points is None or n_points is None:
            return [tokens.shape[1]] * n, tokens.flatten(0, 1)
        # after the points comes a box, or one token that stands for none, as all that is filled up
        there = torch.ones(tokens.shape[:2], dtype=torch.bool)
        k = points[0].shape[1]
        there[:, len(output) : len(output) + k] = torch.arange(k) < torch.as_tensor(n_points)[:, None]
        return there.sum(1).tolist(), tokens[there.to(tokens.device)]

    def _decode_group(
        self,
        prompts: torch.Tensor,
        counts: Sequence[int],
        patches: Sequence[MaskPatch] | None,
        windows: Sequence[Window],
        multimask: bool,
        threshold: float,
    ) -> list[LocalMasks]:
        base, changes = self._dense(patches)
        masks = range(1, self._decoder.num_mask_tokens) if multimask else range(1)
        used = [0, *(1 + m for m in masks)]
        tokens, images = decode_tokens(self._weights, base, self._position, prompts, counts, changes, used)
        tokens = self._decoder.transformer.norm_final_attn(tokens)
        networks = self._decoder.output_hypernetworks_mlps
        kernels = torch.stack([networks[m](tokens[:, 1 + i]) for i, m in enumerate(masks)], 1)
        ious = self._decoder.iou_prediction_head(tokens[:, 0])[:, masks.start : masks.stop].float()
        return [self._masks(images[k], kernels[k], ious[k], window, threshold) for k, window in enumerate(windows)]

    def _masks(
        self, image: torch.Tensor, kernels: torch.Tensor, ious: torch.Tensor, window: Window, threshold: float
    ) -> LocalMasks:
        """The masks of one prompt from its image tokens (N, C)."""
        logits = self._upscaled(image, kernels, window)
        if reaches_border(logits, window, self.grid, threshold):
            window = (0, self.grid[0], 0, self.grid[1])
            logits = self._upscaled(image, kernels, window)
        return LocalMasks(logits, window, ious)

    def _upscaled(self, image: torch.Tensor, kernels: torch.Tensor, window: Window) -> torch.Tensor:
        """Masks of a window (n_masks, 4 h, 4 w)."""
        y0, y1, x0, x1 = window
        values = self._weights.upscale(image[None, self._indices(window)])[0]
        logits = kernels.to(values.dtype) @ values.T
        # (masks, y, x, dy, dx, dy, dx) -> (masks, y, dy, dy, x, dx, dx)
        logits = logits.view(len(kernels), y1 - y0, x1 - x0, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return logits.reshape(len(kernels), 4 * (y1 - y0), 4 * (x1 - x0)).float()

    def _dense(self, patches: Sequence[MaskPatch] | None) -> tuple[torch.Tensor, Changes]:
        """The image tokens common to all prompts, and for each prompt the tokens that its mask changes."""
        if patches is None:
            return self._image + self._prompt_encoder.no_mask_embed.weight.to(self._image.dtype), []
        down = self._prompt_encoder.mask_downscaling
        device = self._image.device
        constant = down(torch.full((1, 1, 4, 4), self._outside, device=device)).reshape(1, -1)
        changes = []
        for patch in patches:
            which = self._indices(patch.window)
            embedded = down(patch.logits[None, None].to(device)).flatten(2)[0].T
            changes.append((which, self._image[which] + embedded.to(self._image.dtype)))
        return self._image + constant.to(self._image.dtype), changes

    def _indices(self, window: Window) -> torch.Tensor:
        y0, y1, x0, x1 = window
        rows, columns = (torch.arange(a, b, device=self._image.device) for a, b in ((y0, y1), (x0, x1)))
        return (rows[:, None] * self.grid[1] + columns).flatten()


@torch.no_grad()
def _weights_of(mask_decoder: nn.Module, image: torch.Tensor, precision: str | None) -> _Weights | None:
    """What is computed with; None where a decoder cannot be used locally."""
    if not isinstance(mask_decoder, FastMaskDecoder):
        return None
    return mask_decoder.fast_weights(image, precision=precision)


def reaches_border(logits: torch.Tensor, window: Window, grid: tuple[int, int], threshold: float) -> bool:
    """Whether a mask may go on outside of its window: whether it comes so near that its edge depends on what lies there."""
    y0, y1, x0, x1 = window
    sides = []
    sides += [logits[:, :_RIM]] if y0 > 0 else []
    sides += [logits[:, -_RIM:]] if y1 < grid[0] else []
    sides += [logits[:, :, :_RIM]] if x0 > 0 else []
    sides += [logits[:, :, -_RIM:]] if x1 < grid[1] else []
    return any(bool((side > threshold).any()) for side in sides)
