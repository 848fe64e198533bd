"""Segment Anything's ViT encoder (vit_b, vit_l, vit_h), computed faster with the same parameters.

Encoder: Kirillov et al., "Segment Anything" (ICCV 2023), after Li et al., "Exploring Plain Vision Transformer
Backbones for Object Detection" (ECCV 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT, PatchEmbed
from torch import nn

from micro_sam.models.derived_weights import DerivedWeights, has_hooks, needs_gradients, state_tensors, structure
from micro_sam.models.fast_attention import relative_position_attention, relative_position_table
from micro_sam.models.fast_layers import Linear, Neck, from_windows, layer_norm, to_windows
from micro_sam.models.precision import resolve_precision

_STOCK = (
    Attention, Block, PatchEmbed, MLPBlock, LayerNorm2d, nn.LayerNorm, nn.Linear, nn.GELU, nn.Conv2d, nn.ModuleList,
    nn.Sequential,
)  # fmt: skip
_MLP_BYTES = 24 * 2**20  # larger hidden layers are computed in parts: big blocks of memory are slow to come by


@dataclass(frozen=True)
class _BlockWeights:
    norm1: nn.LayerNorm
    qkv: Linear
    tables: tuple[torch.Tensor, torch.Tensor]
    proj: Linear
    norm2: nn.LayerNorm
    lin1: Linear
    lin2: Linear


@dataclass(frozen=True)
class _Weights:
    patch: Linear
    blocks: tuple[_BlockWeights, ...]
    neck: Neck


class FastViT(ImageEncoderViT):
    """Takes over the parts of an ``ImageEncoderViT`` and its parameter names.

    For inference, matrix products run in the precision's dtype while the residual stream and layer norms stay in
    float32. In training, when gradients may be wanted, with hooks on its parts, or when one of them was replaced (as
    LoRA does), the parts are called as they are, still with fused attention.

    Args:
        encoder: The encoder whose parts are shared, not copied.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.
    """

    def __init__(self, encoder: ImageEncoderViT, precision: str = "auto") -> None:
        nn.Module.__init__(self)
        self.img_size = encoder.img_size
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = encoder.blocks
        self.neck = encoder.neck
        self.precision = precision
        self.training = encoder.training
        self._derived: DerivedWeights[_Weights | None] = DerivedWeights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode normalised and padded images (B, 3, 1024, 1024) to (B, 256, 64, 64)."""
        if self.training or needs_gradients(self, x) or has_hooks(self):
            return self._forward_parts(x)
        dtype = resolve_precision(self.precision, x.device)
        weights = self._derived.get(state_tensors(self), (dtype, structure(self)), lambda: _derive(self, dtype))
        return self._forward_parts(x) if weights is None else _encode(self, weights, x)

    def _forward_parts(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = apply_block(block, x) if type(block) is Block else block(x)
        return self.neck(x.permute(0, 3, 1, 2))


def apply_block(block: Block, x: torch.Tensor) -> torch.Tensor:
    """A block on (B, H, W, C), calling its parts."""
    attention = block.attn
    if type(attention) is not Attention or attention._forward_hooks or attention._forward_pre_hooks:
        return block(x)
    y, layout = to_windows(block.norm1(x), block.window_size)
    y = _attend(attention.qkv(y), attention.num_heads, _tables(attention, y.shape[1:3]))
    x = x + attention.proj(from_windows(y, layout))
    return x + block.mlp(block.norm2(x))


def _attend(qkv: torch.Tensor, num_heads: int, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, Y, X, 3 * C) -> (B, Y, X, C)."""
    batch, n_y, n_x, _ = qkv.shape
    q, k, v = qkv.view(batch, n_y * n_x, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return relative_position_attention(q, k, v, *tables).view(batch, n_y, n_x, -1)


def _tables(attention: Attention, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Relative position tables; zeros for an attention without relative positions."""
    if not attention.use_rel_pos:
        dim = attention.qkv.in_features // attention.num_heads
        return tuple(attention.qkv.weight.new_zeros(n, n, dim) for n in size)
    return relative_position_table(attention.rel_pos_h, size[0]), relative_position_table(attention.rel_pos_w, size[1])


def _derive(encoder: FastViT, dtype: torch.dtype) -> _Weights | None:
    """The weights of an encoder made of segment-anything's own parts, else None."""
    if any(type(part) not in _STOCK for part in encoder.modules() if part is not encoder):
        return None
    patch = encoder.patch_embed.proj
    if patch.stride != patch.kernel_size:
        return None
    grid = encoder.img_size // patch.kernel_size[0]
    return _Weights(
        patch=Linear.of(patch.weight.permute(0, 2, 3, 1), patch.bias, dtype),
        blocks=tuple(_derive_block(block, grid, dtype) for block in encoder.blocks),
        neck=Neck.of(encoder.neck, dtype),
    )


def _derive_block(block: Block, grid: int, dtype: torch.dtype) -> _BlockWeights:
    size = block.window_size or grid
    linears = (block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2)
    qkv, proj, lin1, lin2 = (Linear.of(linear.weight, linear.bias, dtype) for linear in linears)
    tables = tuple(table.to(dtype).contiguous() for table in _tables(block.attn, (size, size)))
    return _BlockWeights(block.norm1, qkv, tables, proj, block.norm2, lin1, lin2)


def _encode(encoder: FastViT, weights: _Weights, x: torch.Tensor) -> torch.Tensor:
    """Inference: a float32 residual stream (B, H, W, C), updated in place."""
    dtype = weights.patch.weight.dtype
    x = _embed_patches(x.to(dtype), weights.patch, encoder.patch_embed.proj.kernel_size).float()
    if encoder.pos_embed is not None:
        x += encoder.pos_embed
    for block, part in zip(encoder.blocks, weights.blocks):
        y, layout = to_windows(layer_norm(x, part.norm1, dtype), block.window_size)
        y = _attend(part.qkv(y), block.attn.num_heads, part.tables)
        x += part.proj(from_windows(y, layout))
        _add_mlp(x, part, dtype)
    return weights.neck(x)


def _embed_patches(x: torch.Tensor, linear: Linear, patch: tuple[int, int]) -> torch.Tensor:
    """Non-overlapping patches of (B, C, H, W) as one matrix product -> (B, H / p, W / p, dim)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // patch[0], patch[0], width // patch[1], patch[1])
    return linear(x.permute(0, 2, 4, 3, 5, 1).flatten(3))


def _add_mlp(x: torch.Tensor, part: _BlockWeights, dtype: torch.dtype) -> None:
    """Add the MLP's output to x (B, H, W, C) in place."""
    tokens = x.view(-1, x.shape[-1])
    n_tokens = max(1, _MLP_BYTES // (part.lin1.weight.shape[0] * part.lin1.weight.element_size()))
    for chunk in tokens.split(n_tokens if x.device.type == "cpu" else len(tokens)):
        chunk += part.lin2(part.lin1(layer_norm(chunk, part.norm2, dtype), gelu=True))
