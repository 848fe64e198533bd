"""The instance segmentation decoders, computed faster with the same parameters.

What is gained, in channels-last memory and the precision's dtype: 1x1 convolutions run before the upsampling instead of
behind it (both are linear and the interpolation's weights sum to one, so they commute), batch norms are folded into
convolutions, instance norms are folded into the convolution behind them once their statistics are known, concatenated
features are convolved part by part, and the last convolution covers only the image, not what SAM pads around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from micro_sam.models import decoder as plain
from micro_sam.models.derived_weights import DerivedWeights, has_hooks, needs_gradients, state_tensors, structure
from micro_sam.models.fast_layers import Conv, Linear, fold_batch_norm
from micro_sam.models.precision import resolve_precision

_STOCK = (
    plain._Upsample, plain._TransposedUpsample, plain._Conv, plain._Deconv, plain._ConvBlock, plain._UNetPath,
    plain._LightBlock, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.ReLU, nn.Sigmoid,
    nn.ModuleList, nn.Sequential,
)  # fmt: skip
_BLOCK_PIXELS = 8192


@dataclass(frozen=True)
class _Upsampler:
    """Doubles the resolution of (B, H, W, C)."""

    linear: Linear | None
    transposed: tuple[torch.Tensor, torch.Tensor] | None

    @classmethod
    def of(cls, module: nn.Module, dtype: torch.dtype) -> _Upsampler:
        if type(module) is plain._TransposedUpsample:
            return cls(None, (module.block.weight.to(dtype), module.block.bias.to(dtype)))
        return cls(Linear.of(module.conv.weight, module.conv.bias, dtype), None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.transposed is not None:
            return F.conv_transpose2d(x.permute(0, 3, 1, 2), *self.transposed, stride=2).permute(0, 2, 3, 1)
        return _double(self.linear(x))


@dataclass(frozen=True)
class _NormedConv:
    """Instance norm, 3x3 convolution with zero padding, ReLU; keeps the convolution in float32, (out, in, 3, 3)."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, *parts: torch.Tensor, region: tuple[int, int] | None = None) -> torch.Tensor:
        """Convolve (B, H, W, C_i) with the channels of all parts concatenated, one sample after another.

        Args:
            region: Height and width of the upper left part to which the result is limited; norms cover everything.
        """
        region = region or tuple(parts[0].shape[1:3])
        samples = [self._convolve([part[i : i + 1] for part in parts], *region) for i in range(len(parts[0]))]
        return samples[0] if len(samples) == 1 else torch.cat(samples)

    def _convolve(self, parts: list[torch.Tensor], height: int, width: int) -> torch.Tensor:
        mean, scale = zip(*(_statistics(part, self.eps) for part in parts))
        parts = [part[:, : height + 1, : width + 1] for part in parts]
        weights = [
            (weight * factor[:, None, None]).to(part.dtype).contiguous(memory_format=torch.channels_last)
            for weight, factor, part in zip(self.weight.split([len(m) for m in mean], 1), scale, parts)
        ]
        # what the means contribute, with the weights as they were rounded, so that rounding does not shift the result
        shift = sum(torch.einsum("ocyx,c->o", weight.float(), m) for weight, m in zip(weights, mean))
        out = _convolve_parts(parts, weights, self.bias - shift)
        self._convolve_border(out, parts, mean, scale)
        return out[:, :height, :width]

    def _convolve_border(
        self, out: torch.Tensor, parts: list[torch.Tensor], mean: Sequence[torch.Tensor], scale: Sequence[torch.Tensor]
    ) -> None:
        """Overwrite the outermost pixels: zeros are padded behind the norm, so the means do not belong there."""
        conv = Conv(self.weight.to(out.dtype).contiguous(memory_format=torch.channels_last), self.bias.to(out.dtype))
        for axis in (1, 2):
            for last in (0, 1):
                start = last * (out.shape[axis] - 2)
                strips = [part.narrow(axis, start, 2).float() for part in parts]
                strips = [((strip - m) * s).to(out.dtype) for strip, m, s in zip(strips, mean, scale)]
                strip = conv(torch.cat(strips, -1), "relu")
                out.narrow(axis, start + last, 1).copy_(strip.narrow(axis, last, 1))


@dataclass(frozen=True)
class _Deconv:
    """`decoder._Deconv` with its batch norm folded in."""

    upsampler: _Upsampler
    conv: Conv

    @classmethod
    def of(cls, module: nn.Module, dtype: torch.dtype) -> _Deconv:
        upsampler, conv, norm, _ = module.block
        return cls(_Upsampler.of(upsampler, dtype), Conv.of(conv.block, dtype, fold_batch_norm(conv.block, norm)))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.upsampler(x), "relu")


@dataclass(frozen=True)
class _ConvBlock:
    """`decoder._ConvBlock`."""

    first: _NormedConv
    second: _NormedConv

    @classmethod
    def of(cls, module: nn.Module) -> _ConvBlock:
        norm1, conv1, _, norm2, conv2, _ = module.block
        return cls(*(_NormedConv(c.weight.float(), c.bias.float(), n.eps) for n, c in ((norm1, conv1), (norm2, conv2))))

    def __call__(self, *parts: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(*parts))


@dataclass(frozen=True)
class _UnetrWeights:
    deconvs: tuple[_Deconv, ...]
    base: _ConvBlock
    samplers: tuple[_Upsampler, ...]
    blocks: tuple[_ConvBlock, ...]
    deconv_out: _Upsampler
    head: _ConvBlock
    out_conv: Linear

    @classmethod
    def of(cls, module: plain.UNETRDecoder, dtype: torch.dtype) -> _UnetrWeights:
        return cls(
            deconvs=tuple(_Deconv.of(getattr(module, f"deconv{i}"), dtype) for i in (1, 2, 3, 4)),
            base=_ConvBlock.of(module.base),
            samplers=tuple(_Upsampler.of(sampler, dtype) for sampler in module.decoder.samplers),
            blocks=tuple(_ConvBlock.of(block) for block in module.decoder.blocks),
            deconv_out=_Upsampler.of(module.deconv_out, dtype),
            head=_ConvBlock.of(module.decoder_head),
            out_conv=Linear.of(module.out_conv.weight, module.out_conv.bias, dtype),
        )

    def __call__(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, h, w, 256) -> (B, height, width, 3), the upper left part of the maps, before the activation."""
        lateral = [x]
        for deconv in self.deconvs:
            lateral.append(deconv(lateral[-1]))
        z0 = lateral.pop()
        x = self.base(x)
        for sampler, block, features in zip(self.samplers, self.blocks, lateral[1:]):
            x = sampler(x)
            start = (features.shape[-1] - x.shape[-1]) // 2
            x = block(x, features[..., start : start + x.shape[-1]])
        x = self.head.first(self.deconv_out(x), z0)
        return self.out_conv(self.head.second(x, region=(height, width)))


@dataclass(frozen=True)
class _LightWeights:
    stages: tuple[tuple[Conv, ...], ...]
    out_conv: Linear

    @classmethod
    def of(cls, module: plain.LightDecoder, dtype: torch.dtype) -> _LightWeights:
        stages = tuple(
            tuple(Conv.of(stage[i], dtype, fold_batch_norm(stage[i], stage[i + 1])) for i in (0, 3))
            for stage in module.stages
        )
        return cls(stages, Linear.of(module.out_conv.weight, module.out_conv.bias, dtype))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, 256) -> (B, 8h, 8w, 3), before the activation."""
        for i, stage in enumerate(self.stages):
            x = x if i == 0 else _double(x)
            for conv in stage:
                x = conv(x, "relu")
        return self.out_conv(x)


class FastUNETRDecoder(plain.UNETRDecoder):
    """Takes over the parts of a `UNETRDecoder` and its parameter names.

    In training, when gradients may be wanted, with hooks on its parts or when one of them was replaced, it computes as
    `UNETRDecoder` does.

    Args:
        decoder: The decoder whose parts are shared, not copied.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.
    """

    def __init__(self, decoder: plain.UNETRDecoder, precision: str = "auto") -> None:
        nn.Module.__init__(self)
        _adopt(self, decoder, precision)

    def forward(
        self, features: torch.Tensor, input_shape: Sequence[int], original_shape: Sequence[int]
    ) -> torch.Tensor:
        """Predict foreground, centre distance and boundary distance; see `UNETRDecoder.forward`."""
        weights = _weights(self, features, _UnetrWeights)
        if weights is None:
            return super().forward(features, input_shape, original_shape)
        x = features.to(weights.out_conv.weight.dtype).permute(0, 2, 3, 1).contiguous()
        full = tuple(16 * side for side in x.shape[1:3])
        region = input_shape if full == (self.image_size, self.image_size) else full
        maps = weights(x, *region).permute(0, 3, 1, 2).float()
        maps = maps if self.final_activation is None else self.final_activation(maps)
        if region is full:
            return plain.resize_to_original(maps, input_shape, original_shape, self.image_size)
        if tuple(maps.shape[-2:]) == tuple(original_shape):
            return maps.contiguous()
        return F.interpolate(maps.contiguous(), tuple(original_shape), mode="bilinear", align_corners=False)


class FastLightDecoder(plain.LightDecoder):
    """Takes over the parts of a `LightDecoder` and its parameter names; see `FastUNETRDecoder`."""

    def __init__(self, decoder: plain.LightDecoder, precision: str = "auto") -> None:
        nn.Module.__init__(self)
        _adopt(self, decoder, precision)

    def maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 256, h, w) embeddings -> (B, 3, 8h, 8w) maps of the padded image, before the activation."""
        weights = _weights(self, features, _LightWeights)
        if weights is None:
            return super().maps(features)
        x = features.to(weights.out_conv.weight.dtype).permute(0, 2, 3, 1).contiguous()
        return weights(x).permute(0, 3, 1, 2).float().contiguous()


def _adopt(fast: nn.Module, decoder: nn.Module, precision: str) -> None:
    for name, part in decoder.named_children():
        fast.add_module(name, part)
    fast.image_size = decoder.image_size
    if decoder.final_activation is None:
        fast.final_activation = None
    fast.precision = precision
    fast.training = decoder.training
    fast._derived = DerivedWeights()


def _weights(fast: nn.Module, features: torch.Tensor, kind: type) -> _UnetrWeights | _LightWeights | None:
    """The derived weights, or None where the parts themselves have to be called."""
    if fast.training or needs_gradients(fast, features) or has_hooks(fast):
        return None
    dtype = resolve_precision(fast.precision, features.device)
    key = dtype, structure(fast)
    return fast._derived.get(state_tensors(fast), key, lambda: kind.of(fast, dtype) if _is_stock(fast) else None)


def _is_stock(fast: nn.Module) -> bool:
    parts = [part for part in fast.modules() if part is not fast]
    plain_norms = all(
        not (part.affine or part.track_running_stats) for part in parts if type(part) is nn.InstanceNorm2d
    )
    return plain_norms and all(type(part) in _STOCK for part in parts)


def _double(x: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation by two of (B, H, W, C)."""
    x = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


def _statistics(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and reciprocal standard deviation, float32, of every channel of (1, H, W, C).

    Blocks of rows are put together in float64 on a CPU: torch's sums over a million pixels are off by 1e-4.
    """
    if x.device.type == "mps":
        var, mean = torch.var_mean(x.float(), (0, 1, 2), correction=0)
        return mean, torch.rsqrt(var + eps)
    # float32 running values, which are not wanted here, make the statistics of bfloat16 values float32
    unused = x.new_zeros(x.shape[-1], dtype=torch.float32), x.new_ones(x.shape[-1], dtype=torch.float32)
    blocks = x.split(max(1, _BLOCK_PIXELS // x.shape[2]) if x.device.type == "cpu" else x.shape[1], 1)
    pairs = [torch.batch_norm_update_stats(block.permute(0, 3, 1, 2), *unused, 0.0) for block in blocks]
    means, variances = (torch.stack(values).double() for values in zip(*pairs))
    share = torch.tensor([block.shape[1] / x.shape[1] for block in blocks], dtype=torch.float64, device=x.device)
    mean = share @ means
    var = share @ (variances + (means - mean).square())
    return mean.float(), torch.rsqrt(var + eps).float()


def _convolve_parts(parts: list[torch.Tensor], weights: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """The sum of the parts' 3x3 convolutions, plus the bias, through a ReLU."""
    last = len(parts) - 1
    out = None
    for i, (part, weight) in enumerate(zip(parts, weights)):
        conv = Conv(weight, bias.to(part.dtype) if i == 0 else None)
        out = conv(part, "relu" if i == last else None, add_to=out)
    return out
