"""Decode masks of objects whose place is roughly known: the same masks, computed only where they are looked for.

Two thirds of what `FastMaskDecoder` does for a prompt are not needed then. The upsampling (transposed convolutions without
overlap) works on every image token for itself, so only the tokens around the object go through it. A mask prompt, too,
changes only the image tokens it covers (its convolutions do not overlap either), so that the first layer's projections of
the image are shared by all prompts. And the last attention is only for the tokens that give the masks asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from segment_anything.modeling.transformer import Attention
from torch import nn

from micro_sam.models.fast_layers import layer_norm
from micro_sam.models.fast_mask_decoder import FastMaskDecoder, _Layer, _to_tokens, _Weights

_SHARED_FROM = 4  # prompts from which on it pays to project the image once for all
_GROUP = 16
_RIM = 3

Window = tuple[int, int, int, int]
Changes = Sequence[tuple[torch.Tensor, torch.Tensor]]
Changed = Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


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


class LocalMaskDecoder:
    """Decodes prompts for one image.

    Args:
        prompt_encoder: Segment Anything's, for points, boxes and masks.
        mask_decoder: The decoder.
        image: Image embedding (1, C, H, W).
        outside: The logit of mask prompts outside of their windows.
    """

    def __init__(
        self, prompt_encoder: nn.Module, mask_decoder: FastMaskDecoder, image: torch.Tensor, outside: float
    ) -> None:
        self._prompt_encoder, self._decoder, self._outside = prompt_encoder, mask_decoder, outside
        self._weights = self.weights_of(mask_decoder, image)
        dtype = self._weights.up1.weight.dtype
        self.grid = tuple(image.shape[-2:])
        self._image = _to_tokens(image)[0].to(dtype)
        self._position = _to_tokens(prompt_encoder.get_dense_pe())[0].to(dtype)

    @staticmethod
    @torch.no_grad()
    def weights_of(mask_decoder: nn.Module, image: torch.Tensor) -> _Weights | None:
        """What it computes with; None where a decoder cannot be used like this: it is none of ours, or it is trained."""
        return mask_decoder.fast_weights(image) if isinstance(mask_decoder, FastMaskDecoder) else None

    @torch.no_grad()
    def __call__(
        self,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        masks: Sequence[MaskPatch] | None,
        windows: Sequence[Window],
        multimask: bool,
        threshold: float = 0.0,
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
        """
        n = len(windows)
        sparse = torch.zeros(n, 0, self._image.shape[-1], device=self._image.device)
        if points is not None or boxes is not None:
            sparse, _ = self._prompt_encoder(points=points, boxes=boxes, masks=None)
        output = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        prompts = torch.cat([output.expand(n, -1, -1), sparse], 1)
        found: list[LocalMasks] = []
        for start in range(0, n, _GROUP):
            part = slice(start, start + _GROUP)
            patches = None if masks is None else masks[part]
            found += self._decode_group(prompts[part], patches, windows[part], multimask, threshold)
        return found

    def _decode_group(
        self,
        prompts: torch.Tensor,
        patches: Sequence[MaskPatch] | None,
        windows: Sequence[Window],
        multimask: bool,
        threshold: float,
    ) -> list[LocalMasks]:
        base, changes = self._dense(patches)
        first = self._weights.layers[0]
        shared = _SharedLayer(first, base, self._position, changes, prompts) if len(prompts) >= _SHARED_FROM else None
        found = []
        for k, window in enumerate(windows):  # one by one, so that the image tokens stay in the cache
            part = slice(k, k + 1)
            if shared is not None:
                tokens, image = shared(part)
            else:
                image = _changed(base, changes[part])
                tokens, image = first(prompts[part], image, prompts[part], self._position[None])
            tokens, image = self._attend(tokens, image, prompts[part], multimask)
            found.append(self._masks(tokens, image[0], window, multimask, threshold))
        return found

    def _attend(
        self, tokens: torch.Tensor, image: torch.Tensor, prompts: torch.Tensor, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All layers but the first; the tokens for the IoU and the masks asked for, and the image's."""
        position = self._position[None]
        for layer in self._weights.layers[1:]:
            tokens, image = layer(tokens, image, prompts, position)
        used = [0, *(1 + m for m in self._asked_for(multimask))]
        query = (tokens + prompts)[:, used]
        return tokens[:, used] + self._weights.final(query, image + position, image), image

    def _asked_for(self, multimask: bool) -> range:
        return range(1, self._decoder.num_mask_tokens) if multimask else range(1)

    def _masks(
        self, tokens: torch.Tensor, image: torch.Tensor, window: Window, multimask: bool, threshold: float
    ) -> LocalMasks:
        """The masks of one prompt from its tokens and the image's (N, C)."""
        masks, networks = self._asked_for(multimask), self._decoder.output_hypernetworks_mlps
        tokens = self._decoder.transformer.norm_final_attn(tokens)[0]
        kernels = torch.stack([networks[m](tokens[1 + i]) for i, m in enumerate(masks)])
        ious = self._decoder.iou_prediction_head(tokens[0])[masks.start : masks.stop].float()
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


def _changed(base: torch.Tensor, changes: Changes) -> torch.Tensor:
    """The image tokens of one prompt, (1, N, C)."""
    image = base[None]
    if changes:
        which, values = changes[0]
        image = image.clone()
        image[0, which] = values
    return image


class _SharedLayer:
    """The first layer, with the image's projections made once for all prompts and corrected where a mask changes them.

    Args:
        layer: The layer.
        base: Image tokens common to all prompts (N, C).
        position: Their positions (N, C).
        changes: For each prompt which image tokens differ, and their values.
        prompts: Tokens (n, T, C).
    """

    def __init__(
        self, layer: _Layer, base: torch.Tensor, position: torch.Tensor, changes: Changes, prompts: torch.Tensor
    ) -> None:
        self._block, self._base = layer.block, base
        block, located = layer.block, base + position
        if block.skip_first_layer_pe:
            tokens = block.self_attn(prompts, prompts, prompts)
        else:
            tokens = prompts + block.self_attn(prompts + prompts, prompts + prompts, prompts)
        tokens = block.norm1(tokens)
        self._changed = [(which, values, values + position[which]) for which, values in changes]
        found = _tokens_to_shared(block.cross_attn_token_to_image, tokens + prompts, base, located, self._changed)
        tokens = block.norm2(tokens + found)
        self._tokens = block.norm3(tokens + block.mlp(tokens))
        self._weights, self._values = _shared_to_tokens(
            layer, self._tokens + prompts, self._tokens, located, self._changed
        )

    def __call__(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (n, T, C) and image tokens (n, N, C) of some of the prompts."""
        weights, values = self._weights[part], self._values[part]
        image = torch.baddbmm(self._base.expand(len(values), -1, -1), weights.transpose(1, 2), values)
        for k, (which, new, _) in enumerate(self._changed[part]):
            image[k].index_add_(0, which, new - self._base[which])
        return self._tokens[part], layer_norm(image, self._block.norm4, image.dtype)


def _tokens_to_shared(
    attention: Attention, q: torch.Tensor, base: torch.Tensor, located: torch.Tensor, changed: Changed
) -> torch.Tensor:
    """Tokens q (n, T, C) attend to the image."""
    n, n_tokens, _ = q.shape
    heads, dtype = attention.num_heads, base.dtype
    q = _in_heads(attention.q_proj(q).flatten(0, 1), heads).to(dtype)
    q = q * q.shape[-1] ** -0.5
    keys, values = (
        _in_heads(_project(linear, x), heads) for linear, x in ((attention.k_proj, located), (attention.v_proj, base))
    )
    scores = (q @ keys.transpose(1, 2)).unflatten(1, (n, n_tokens))
    news = []
    for k, (which, new, new_located) in enumerate(changed):
        new_keys, new_values = (
            _in_heads(_project(linear, x), heads)
            for linear, x in ((attention.k_proj, new_located), (attention.v_proj, new))
        )
        rows = q[:, k * n_tokens : (k + 1) * n_tokens]
        scores[:, k].index_copy_(2, which, rows @ new_keys.transpose(1, 2))
        news.append(new_values)
    weights = scores.flatten(1, 2).softmax(-1)
    x = (weights @ values).unflatten(1, (n, n_tokens))
    weights = weights.unflatten(1, (n, n_tokens))
    for k, (which, _, _) in enumerate(changed):
        x[:, k] += weights[:, k].index_select(2, which) @ (news[k] - values[:, which])
    return attention.out_proj(x.permute(1, 2, 0, 3).flatten(2).float())


def _shared_to_tokens(
    layer: _Layer, k: torch.Tensor, v: torch.Tensor, located: torch.Tensor, changed: Changed
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image attends to tokens: weights (n, heads * T, N), and what each token gives (n, heads * T, C)."""
    attention, reverse = layer.block.cross_attn_image_to_token, layer.image_to_tokens
    n, n_tokens, _ = k.shape
    heads, dtype = attention.num_heads, located.dtype
    keys = _in_heads(attention.k_proj(k).flatten(0, 1), heads)
    keys = (keys * keys.shape[-1] ** -0.5).to(dtype)
    queries = _in_heads(_project(attention.q_proj, located), heads)
    scores = (keys @ queries.transpose(1, 2)).unflatten(1, (n, n_tokens))
    for index, (which, _, new_located) in enumerate(changed):
        rows = keys[:, index * n_tokens : (index + 1) * n_tokens]
        new_queries = _in_heads(_project(attention.q_proj, new_located), heads)
        scores[:, index].index_copy_(2, which, rows @ new_queries.transpose(1, 2))
    weights = scores.softmax(2).transpose(0, 1).flatten(1, 2)
    v = attention.v_proj(v).unflatten(-1, (heads, -1))
    values = torch.einsum("bthd,chd->bhtc", v, reverse.out) + attention.out_proj.bias / heads
    return weights, values.flatten(1, 2).to(dtype)


def _in_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, C) -> (heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _project(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))


def reaches_border(logits: torch.Tensor, window: Window, grid: tuple[int, int], threshold: float) -> bool:
    """Whether a mask may go on outside of its window: whether it comes so near that its edge depends on what lies there."""
    y0, y1, x0, x1 = window
    sides = []
    sides += [logits[:, :_RIM]] if y0 > 0 else []
    sides += [logits[:, -_RIM:]] if y1 < grid[0] else []
    sides += [logits[:, :, :_RIM]] if x0 > 0 else []
    sides += [logits[:, :, -_RIM:]] if x1 < grid[1] else []
    return any(bool((side > threshold).any()) for side in sides)
