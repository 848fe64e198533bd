"""The TinyViT encoder (vit_t), computed faster with the same parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from micro_sam.models import tiny_vit
from micro_sam.models.derived_weights import DerivedWeights, has_hooks, needs_gradients, state_tensors, structure
from micro_sam.models.fast_attention import biased_attention
from micro_sam.models.fast_layers import (
    Conv,
    Linear,
    Neck,
    fold_batch_norm,
    from_windows,
    gelu_,
    layer_norm,
    to_windows,
)
from micro_sam.models.precision import resolve_precision

_STOCK = (
    tiny_vit.ConvNorm, tiny_vit.PatchEmbed, tiny_vit.MBConv, tiny_vit.PatchMerging, tiny_vit.Attention, tiny_vit.Mlp,
    tiny_vit.TinyViTBlock, tiny_vit.ConvStage, tiny_vit.AttentionStage, tiny_vit.LayerNorm2d, nn.LayerNorm, nn.Linear,
    nn.GELU, nn.Conv2d, nn.BatchNorm2d, nn.ModuleList, nn.Sequential,
)  # fmt: skip
_BAND_BYTES = 12 * 2**20  # the expanded features of the first stage are computed band by band, in the cache


@dataclass(frozen=True)
class _Bottleneck:
    """1x1, depthwise 3x3 and 1x1 convolution with batch norms folded in: `MBConv` and `PatchMerging`."""

    conv1: Linear
    conv2: Conv
    conv3: Linear

    @classmethod
    def of(cls, module: nn.Module, dtype: torch.dtype) -> _Bottleneck:
        conv1, conv3 = (Linear.of(*fold_batch_norm(m.c, m.bn), dtype) for m in (module.conv1, module.conv3))
        return cls(conv1, _conv(module.conv2, dtype), conv3)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """`MBConv` on (B, H, W, C), in bands of rows."""
        batch, height, width, _ = x.shape
        out = torch.empty_like(x)
        rows = max(1, _BAND_BYTES // (batch * width * self.conv1.weight.shape[0] * x.element_size()))
        for top in range(0, height, rows if x.device.type == "cpu" else height):
            bottom = min(height, top + rows) if x.device.type == "cpu" else height
            first, last = max(0, top - 1), min(height, bottom + 1)
            y = self.conv2(self.conv1(x[:, first:last], gelu=True), "gelu")
            y = self.conv3(y[:, top - first : bottom - first])
            out[:, top:bottom] = gelu_(y.add_(x[:, top:bottom]))
        return out

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        """`PatchMerging` on (B, H, W, C)."""
        return self.conv3(self.conv2(self.conv1(x, gelu=True), "gelu"))


@dataclass(frozen=True)
class _Block:
    """`TinyViTBlock` with the attention bias of every pair of positions, (1, heads, N, N)."""

    window_size: int
    num_heads: int
    norm: nn.LayerNorm
    qkv: Linear
    bias: torch.Tensor
    proj: Linear
    local_conv: Conv
    mlp_norm: nn.LayerNorm
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, block: tiny_vit.TinyViTBlock, dtype: torch.dtype) -> _Block:
        attention, mlp = block.attn, block.mlp
        linears = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
        qkv, proj, fc1, fc2 = (Linear.of(linear.weight, linear.bias, dtype) for linear in linears)
        bias = attention.bias()[None].to(dtype).contiguous()
        local_conv = _conv(block.local_conv, dtype)
        return cls(
            block.window_size, attention.num_heads, attention.norm, qkv, bias, proj, local_conv, mlp.norm, fc1, fc2
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.local_conv(self._attend(x).add_(x))
        hidden = self.fc1(layer_norm(x, self.mlp_norm, x.dtype), gelu=True)
        return self.fc2(hidden).add_(x)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        x, layout = to_windows(x, self.window_size)
        n_windows, n_tokens, dim = x.shape[0], self.window_size**2, x.shape[-1]
        qkv = self.qkv(layer_norm(x, self.norm, x.dtype))
        q, k, v = qkv.view(n_windows, n_tokens, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)
        x = biased_attention(q, k, v, self.bias).view(n_windows, self.window_size, self.window_size, dim)
        return self.proj(from_windows(x, layout))


@dataclass(frozen=True)
class _Stage:
    blocks: tuple[_Bottleneck, ...] | tuple[_Block, ...]
    downsample: _Bottleneck | None


@dataclass(frozen=True)
class _Weights:
    patch_embed: tuple[Conv, Conv]
    stages: tuple[_Stage, ...]
    neck: Neck


class FastTinyViT(tiny_vit.TinyViT):
    """Takes over the parts of a `TinyViT` and its parameter names.

    For inference, batch norms are folded into the convolutions and everything but the norms runs in the precision's
    dtype. In training, when gradients may be wanted, with hooks on its parts or when one of them was replaced, it
    computes as `TinyViT` does.

    Args:
        encoder: The encoder whose parts are shared, not copied.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.
    """

    def __init__(self, encoder: tiny_vit.TinyViT, precision: str = "auto") -> None:
        nn.Module.__init__(self)
        self.img_size = encoder.img_size
        for name, part in encoder.named_children():
            self.add_module(name, part)
        self.precision = precision
        self.training = encoder.training
        self._derived: DerivedWeights[_Weights | None] = DerivedWeights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode normalised images (B, 3, H, W), H and W multiples of 16, to float32 (B, 256, H / 16, W / 16)."""
        if self.training or needs_gradients(self, x) or has_hooks(self):
            return super().forward(x)
        dtype = resolve_precision(self.precision, x.device)
        weights = self._derived.get(state_tensors(self), (dtype, structure(self)), lambda: _derive(self, dtype))
        return super().forward(x) if weights is None else _encode(weights, x.to(dtype))


def _conv(module: tiny_vit.ConvNorm, dtype: torch.dtype) -> Conv:
    return Conv.of(module.c, dtype, fold_batch_norm(module.c, module.bn))


def _derive(encoder: FastTinyViT, dtype: torch.dtype) -> _Weights | None:
    """The weights of an encoder made of `tiny_vit`'s own parts, else None."""
    if any(type(part) not in _STOCK for part in encoder.modules() if part is not encoder):
        return None
    stages = []
    for layer in encoder.layers:
        kind = _Bottleneck if type(layer) is tiny_vit.ConvStage else _Block
        downsample = None if layer.downsample is None else _Bottleneck.of(layer.downsample, dtype)
        stages.append(_Stage(tuple(kind.of(block, dtype) for block in layer.blocks), downsample))
    seq = encoder.patch_embed.seq
    return _Weights((_conv(seq[0], dtype), _conv(seq[2], dtype)), tuple(stages), Neck.of(encoder.neck, dtype))


def _encode(weights: _Weights, x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    x = weights.patch_embed[1](weights.patch_embed[0](x, "gelu"))
    for stage in weights.stages:
        for block in stage.blocks:
            x = block.residual(x) if isinstance(block, _Bottleneck) else block(x)
        x = x if stage.downsample is None else stage.downsample.merge(x)
    return weights.neck(x)
