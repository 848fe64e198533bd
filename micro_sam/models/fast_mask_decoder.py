"""Segment Anything's mask decoder, computed faster with the same parameters.

Its two-way transformer (Kirillov et al., "Segment Anything", ICCV 2023) lets a handful of tokens T per prompt exchange
with N = 4096 image tokens. Nearly all its time goes into projections of the image tokens, once per prompt. They are
linear, so they can be moved to the side of the few tokens: ``q . (W x) = (W' q) . x``, and a weighted mean of projected
values is the projection of their weighted mean. With h heads, h * T rows are multiplied with the image tokens as they
are, which no longer depend on a prompt in the first layer. The upsampling runs in the order of the matrix products'
memory, and only the finished masks are brought into image order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import nn

from micro_sam.models.derived_weights import DerivedWeights, has_hooks, needs_gradients, state_tensors, structure
from micro_sam.models.fast_attention import unscaled_attention
from micro_sam.models.fast_layers import Linear, gelu_, layer_norm
from micro_sam.models.precision import resolve_precision

_STOCK = (
    TwoWayTransformer, TwoWayAttentionBlock, Attention, MLPBlock, MLP, LayerNorm2d, nn.LayerNorm, nn.Linear,
    nn.ConvTranspose2d, nn.Embedding, nn.GELU, nn.ReLU, nn.ModuleList, nn.Sequential,
)  # fmt: skip
_CHUNK_BYTES = 8 * 2**20  # of image tokens: prompts are decoded in groups whose memory is used again


class _TokensToImage:
    """Tokens attend to the image: the keys' and values' projections act on the tokens."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.heads = attention.num_heads
        self.key, self.value = (
            linear.weight.float().unflatten(0, (self.heads, -1)) for linear in (attention.k_proj, attention.v_proj)
        )

    def __call__(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attend from q (B, T, C), float32, to keys and values (B, N, C) or, for all prompts, (1, N, C)."""
        batch, n_tokens, channels = q.shape
        q = self.rows(q).to(keys.dtype).reshape(len(keys), -1, channels)
        x = unscaled_attention(q, keys, values)
        return self.finish(x.reshape(batch, self.heads, n_tokens, channels).float())

    def rows(self, q: torch.Tensor) -> torch.Tensor:
        """Tokens (..., T, C) as rows (..., heads, T, C) that are multiplied with the image tokens as they are."""
        q = self.attention.q_proj(q).unflatten(-1, (self.heads, -1))
        # the keys' bias adds the same to all scores of a token, which the softmax ignores
        return torch.einsum("...thd,hdc->...htc", q * q.shape[-1] ** -0.5, self.key)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """From the weighted means of image tokens (..., heads, T, C) to the output (..., T, C)."""
        x = torch.einsum("...htc,hdc->...thd", x, self.value).flatten(-2)
        return self.attention.out_proj(x + self.attention.v_proj.bias)


class _ImageToTokens:
    """The image attends to the tokens: the queries' and the output projection act on the tokens."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.heads = attention.num_heads
        self.query = attention.q_proj.weight.float().unflatten(0, (self.heads, -1))
        self.query_bias = attention.q_proj.bias.float().unflatten(0, (self.heads, -1))
        self.out = attention.out_proj.weight.float().unflatten(1, (self.heads, -1))

    def __call__(self, image: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """``image`` plus what its tokens q (B, N, C) find among k and v (B, T, C), float32."""
        batch, n_tokens, _ = k.shape
        rows, bias = (x.flatten(1, 2).to(image.dtype) for x in self.rows(k))
        scores = torch.matmul(rows, q.transpose(1, 2)).add_(bias[..., None])
        weights = scores.unflatten(1, (self.heads, n_tokens)).softmax(2).flatten(1, 2)
        values = self.values(v).flatten(1, 2).to(image.dtype)
        return torch.baddbmm(image.expand(batch, -1, -1), weights.transpose(1, 2), values)

    def rows(self, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (..., T, C) as rows (..., heads, T, C) that are multiplied with the image, and what is added (..., heads, T)."""
        k = self.attention.k_proj(k).unflatten(-1, (self.heads, -1))
        k = k * k.shape[-1] ** -0.5
        return torch.einsum("...thd,hdc->...htc", k, self.query), torch.einsum("...thd,hd->...ht", k, self.query_bias)

    def values(self, v: torch.Tensor) -> torch.Tensor:
        """What each token (..., T, C) gives to the image, (..., heads, T, C)."""
        v = self.attention.v_proj(v).unflatten(-1, (self.heads, -1))
        # every head's weights sum to one, so each carries its share of the bias
        return torch.einsum("...thd,chd->...htc", v, self.out) + self.attention.out_proj.bias / self.heads


@dataclass(frozen=True)
class _Layer:
    block: TwoWayAttentionBlock
    tokens_to_image: _TokensToImage
    image_to_tokens: _ImageToTokens

    @classmethod
    def of(cls, block: TwoWayAttentionBlock) -> _Layer:
        to_image, to_tokens = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        return cls(block, _TokensToImage(to_image), _ImageToTokens(to_tokens))

    def __call__(
        self, tokens: torch.Tensor, image: torch.Tensor, prompt: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`TwoWayAttentionBlock`: tokens and prompt (B, T, C), image (B or 1, N, C), position (1, N, C)."""
        block = self.block
        if block.skip_first_layer_pe:
            tokens = block.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + prompt
            tokens = tokens + block.self_attn(q, q, tokens)
        tokens = block.norm1(tokens)
        located = image + position
        tokens = block.norm2(tokens + self.tokens_to_image(tokens + prompt, located, image))
        tokens = block.norm3(tokens + block.mlp(tokens))
        image = self.image_to_tokens(image, located, tokens + prompt, tokens)
        return tokens, layer_norm(image, block.norm4, image.dtype)


@dataclass(frozen=True)
class _Weights:
    """The layers, and the transposed convolutions as matrix products, their outputs ordered (dy, dx, channel)."""

    layers: tuple[_Layer, ...]
    final: _TokensToImage
    up1: Linear
    up_norm: nn.Module
    up2: Linear

    @classmethod
    def of(cls, decoder: MaskDecoder, dtype: torch.dtype) -> _Weights:
        conv1, norm, _, conv2, _ = decoder.output_upscaling
        up1, up2 = (
            Linear.of(conv.weight.permute(2, 3, 1, 0).flatten(0, 2), conv.bias.repeat(4), dtype)
            for conv in (conv1, conv2)
        )
        layers = tuple(_Layer.of(block) for block in decoder.transformer.layers)
        return cls(layers, _TokensToImage(decoder.transformer.final_attn_token_to_image), up1, norm, up2)

    def upscale(self, image: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N * 16, C / 8), the 4 x 4 pixels of an image token one after another."""
        x = self.up1(image).unflatten(-1, (4, -1))
        x = gelu_(layer_norm(x, self.up_norm, x.dtype))
        return self.up2(x, gelu=True).view(len(image), -1, self.up2.weight.shape[0] // 4)


class FastMaskDecoder(MaskDecoder):
    """Takes over the parts of a ``MaskDecoder`` and its parameter names.

    In training, when gradients may be wanted, with hooks on its parts or when one of them was replaced, it computes as
    ``MaskDecoder`` does; `predict_masks` always does.

    Args:
        decoder: The decoder whose parts are shared, not copied.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`: how image tokens are computed with. The
            tokens of the prompts stay in float32.
    """

    def __init__(self, decoder: MaskDecoder, precision: str = "auto") -> None:
        nn.Module.__init__(self)
        for name, part in decoder.named_children():
            self.add_module(name, part)
        self.transformer_dim = decoder.transformer_dim
        self.num_multimask_outputs = decoder.num_multimask_outputs
        self.num_mask_tokens = decoder.num_mask_tokens
        self.precision = precision
        self.training = decoder.training
        self._derived: DerivedWeights[_Weights | None] = DerivedWeights()
        self._position: DerivedWeights[torch.Tensor] = DerivedWeights()

    def forward(
        self,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks of prompts for one image.

        Args:
            image_embeddings: (1, C, H, W).
            image_pe: Positions of the image tokens, (1, C, H, W).
            sparse_prompt_embeddings: Points and boxes, (B, T, C).
            dense_prompt_embeddings: Masks, (B, C, H, W); a batch stride of 0 says that all are the same.
            multimask_output: Return three masks per prompt instead of one.

        Returns:
            Float32 logits (B, 3 or 1, 4H, 4W) and predicted IoUs (B, 3 or 1).
        """
        inputs = image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        masks = range(1, self.num_mask_tokens) if multimask_output else range(1)
        if len(sparse_prompt_embeddings) == 0:  # segment-anything cannot reshape nothing
            side = [4 * n for n in image_embeddings.shape[-2:]]
            return image_embeddings.new_zeros(0, len(masks), *side), image_embeddings.new_zeros(0, len(masks))
        weights = None if len(image_embeddings) != 1 else self.fast_weights(*inputs)
        if weights is None:
            return super().forward(*inputs, multimask_output)
        return _decode(self, weights, *inputs, masks)

    def fast_weights(self, *inputs: torch.Tensor, precision: str | None = None) -> _Weights | None:
        """The parameters in the form they are computed with; None where it has to compute as ``MaskDecoder`` does.

        Another ``precision`` than the decoder's own can be asked for.
        """
        if self.training or needs_gradients(self, *inputs) or has_hooks(self):
            return None
        dtype = resolve_precision(precision or self.precision, inputs[0].device)
        key = dtype, structure(self)
        return self._derived.get(state_tensors(self), key, lambda: _derive(self, dtype))

    def position_tokens(self, prompt_encoder: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        """The positions of the image tokens, (N, C)."""
        tensors, key = state_tensors(prompt_encoder.pe_layer), (dtype, prompt_encoder.image_embedding_size)
        return self._position.get(tensors, key, lambda: _to_tokens(prompt_encoder.get_dense_pe())[0].to(dtype))


def _derive(decoder: FastMaskDecoder, dtype: torch.dtype) -> _Weights | None:
    """The weights of a decoder made of segment-anything's own parts, else None."""
    if any(type(part) not in _STOCK for part in decoder.modules() if part is not decoder):
        return None
    return _Weights.of(decoder, dtype)


def _decode(
    decoder: FastMaskDecoder,
    weights: _Weights,
    image: torch.Tensor,
    image_pe: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    masks: range,
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype, (height, width) = weights.up1.weight.dtype, image.shape[-2:]
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    prompts = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse], 1)
    shared = len(dense) == 1 or dense.stride(0) == 0
    position = _to_tokens(image_pe).to(dtype)
    common = _to_tokens(image + dense[:1]).to(dtype) if shared else None
    logits = image.new_empty(len(sparse), len(masks), 4 * height, 4 * width, dtype=torch.float32)
    scores = image.new_empty(len(sparse), len(masks), dtype=torch.float32)
    group = max(1, _CHUNK_BYTES // (position.numel() * position.element_size()))
    for i in range(0, len(sparse), group):
        part = slice(i, i + group)
        tokens = common if shared else _to_tokens(image + dense[part]).to(dtype)
        logits[part], scores[part] = _decode_group(decoder, weights, tokens, position, prompts[part], masks, height)
    return logits, scores


def _decode_group(
    decoder: FastMaskDecoder,
    weights: _Weights,
    image: torch.Tensor,
    position: torch.Tensor,
    prompts: torch.Tensor,
    masks: range,
    height: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and scores of a group of prompts (B, T, C) on image tokens (B or 1, N, C)."""
    tokens = prompts
    for layer in weights.layers:
        tokens, image = layer(tokens, image, prompts, position)
    tokens = tokens + weights.final(tokens + prompts, image + position, image)
    tokens = decoder.transformer.norm_final_attn(tokens)
    kernels = torch.stack([decoder.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in masks], 1)
    logits = kernels.to(image.dtype) @ weights.upscale(image).transpose(1, 2)
    # (masks, y, x, dy, dx, dy, dx) -> (masks, y, dy, dy, x, dx, dx)
    logits = logits.view(len(prompts), len(masks), height, -1, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    scores = decoder.iou_prediction_head(tokens[:, 0])[:, masks.start : masks.stop]
    return logits.reshape(len(prompts), len(masks), 4 * height, -1), scores


def _to_tokens(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H * W, C), contiguous."""
    return x.flatten(2).transpose(1, 2).contiguous()
