"""Layers with weights already converted to the dtype of the computation, on channels-last (B, H, W, C) tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Linear:
    """A matrix product over the last axis, also for 1x1 convolutions."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """From a linear layer's or a 1x1 convolution's weight, (out, in) or (out, in, 1, 1)."""
        return cls(weight.flatten(1).to(dtype), None if bias is None else bias.to(dtype))

    def __call__(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """Multiply; with ``gelu``, apply the exact GELU to the result."""
        if x.device.type == "cpu" and _HAS_FUSED and self._fused_is_faster:
            # F.linear copies the bias into the result before it multiplies
            attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, attribute, [], algorithm)
        x = F.linear(x, self.weight, self.bias)
        return gelu_(x) if gelu else x

    @property
    def _fused_is_faster(self) -> bool:
        return self.weight.dtype == torch.bfloat16 or self.weight.shape[1] <= 256


@dataclass(frozen=True)
class Conv:
    """A convolution; takes and returns (B, H, W, C)."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: int = 1
    padding: int = 1
    groups: int = 1

    @classmethod
    def of(cls, conv: nn.Conv2d, dtype: torch.dtype, folded: tuple[torch.Tensor, torch.Tensor] | None = None) -> Conv:
        """From a convolution with square strides and padding, or from its weight and bias with a norm folded in."""
        weight, bias = folded or (conv.weight, conv.bias)
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        bias = None if bias is None else bias.to(dtype)
        return cls(weight, bias, conv.stride[0], conv.padding[0], conv.groups)

    def __call__(
        self, x: torch.Tensor, activation: str | None = None, add_to: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convolve (B, H, W, C).

        Args:
            activation: "relu", "gelu" (the exact one) or None.
            add_to: Add the convolution to this tensor in place, before the activation.
        """
        x = x.permute(0, 3, 1, 2)
        if x.device.type == "cpu" and _HAS_FUSED and (activation or add_to is not None):
            return self._fused(x, activation, add_to).permute(0, 2, 3, 1)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups).permute(0, 2, 3, 1)
        x = x if add_to is None else add_to.add_(x)
        return {None: lambda y: y, "relu": torch.relu_, "gelu": gelu_}[activation](x)

    def _fused(self, x: torch.Tensor, activation: str | None, add_to: torch.Tensor | None) -> torch.Tensor:
        """Convolution, sum and activation in one pass over the memory, by oneDNN, on (B, C, H, W)."""
        geometry = [self.padding] * 2, [self.stride] * 2, [1, 1], self.groups
        algorithm = "none" if activation == "gelu" else ""
        if add_to is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *geometry, activation, [], algorithm
            )
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            add_to.permute(0, 3, 1, 2), x, self.weight, self.bias, *geometry, "add", 1.0, activation, [], algorithm
        )


_HAS_FUSED = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name)
    for name in ("_linear_pointwise", "_convolution_pointwise", "_convolution_pointwise_")
)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, float32, of the convolution that does the work of a convolution and a batch norm behind it."""
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    bias = 0.0 if conv.bias is None else conv.bias.float()
    return conv.weight.float() * scale[:, None, None, None], (bias - norm.running_mean.float()) * scale + norm.bias


def layer_norm(x: torch.Tensor, norm: nn.LayerNorm, dtype: torch.dtype) -> torch.Tensor:
    """Layer norm over the last axis with float32 arithmetic and float32 weights; returns ``dtype``."""
    if x.device.type != "cpu":  # there, kernels also take float32 weights for bfloat16 values
        x = x.float()
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps).to(dtype)


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """Exact GELU in place."""
    return torch.ops.aten.gelu_(x)


def to_windows(x: torch.Tensor, size: int) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Cut (B, H, W, C) into (B * windows, size, size, C), filled up with zeros at the right and the bottom.

    A size of 0 changes nothing. The second value is for `from_windows`.
    """
    batch, height, width, dim = x.shape
    if size == 0:
        return x, (batch, height, width, 0)
    rows, cols = -(-height // size), -(-width // size)
    x = F.pad(x, (0, 0, 0, cols * size - width, 0, rows * size - height))
    x = x.view(batch, rows, size, cols, size, dim).transpose(2, 3)
    return x.reshape(-1, size, size, dim), (batch, height, width, size)


def from_windows(x: torch.Tensor, layout: tuple[int, ...]) -> torch.Tensor:
    """Put windows together again and cut off what was filled up."""
    batch, height, width, size = layout
    if size == 0:
        return x
    rows, cols = -(-height // size), -(-width // size)
    x = x.view(batch, rows, cols, size, size, -1).transpose(2, 3)
    return x.reshape(batch, rows * size, cols * size, -1)[:, :height, :width]


@dataclass(frozen=True)
class Neck:
    """SAM's neck: 1x1 convolution, channel norm, 3x3 convolution, channel norm."""

    conv1: Linear
    norm1: nn.Module
    conv2: Conv
    norm2: nn.Module

    @classmethod
    def of(cls, neck: nn.Sequential, dtype: torch.dtype) -> Neck:
        """From the encoder's ``neck``."""
        return cls(Linear.of(neck[0].weight, neck[0].bias, dtype), neck[1], Conv.of(neck[2], dtype), neck[3])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> float32 (B, 256, H, W), contiguous."""
        dtype = self.conv1.weight.dtype
        x = layer_norm(self.conv1(x.to(dtype)), self.norm1, dtype)
        x = layer_norm(self.conv2(x).float(), self.norm2, torch.float32)
        return x.permute(0, 3, 1, 2).contiguous()
