"""Decoders for automatic instance segmentation: image embeddings -> foreground, centre and boundary distances.

`UNETRDecoder` is the one of the published microscopy models (the part behind the encoder of torch-em's ``UNETR``
without skip connections, after Hatamizadeh et al., "UNETR", WACV 2022); its parameter names and shapes are theirs.
`LightDecoder` is the narrow one of the model that ships with the package. Both return the same three channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

EMBED_DIM = 256
UNETR_WIDTHS = (512, 256, 128, 64)
LIGHT_WIDTHS = (128, 96, 64, 32)


def resize_to_original(
    maps: torch.Tensor, input_shape: Sequence[int], original_shape: Sequence[int], image_size: int = 1024
) -> torch.Tensor:
    """Undo SAM's resizing and padding.

    Args:
        maps: (B, C, h, w), covering the padded square image at any resolution.
        input_shape: (height, width) of the image after resizing its longest side, before padding.
        original_shape: (height, width) of the image.
        image_size: Side of the padded square.

    Returns:
        (B, C, height, width) of the original image.
    """
    size = (image_size, image_size)
    if maps.shape[-2:] != size:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    maps = maps[..., : input_shape[0], : input_shape[1]]
    if tuple(maps.shape[-2:]) == tuple(original_shape):
        return maps
    return F.interpolate(maps, tuple(original_shape), mode="bilinear", align_corners=False)


class _Upsample(nn.Module):
    """Bilinear interpolation by two, then a 1x1 convolution named ``conv``.

    The two commute up to rounding; in training the convolution comes first, which is a quarter of its work.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x) if self.training else x
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x if self.training else self.conv(x)


class _TransposedUpsample(nn.Module):
    """A transposed 2x2 convolution named ``block``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def _upsample(in_channels: int, out_channels: int, transposed: bool) -> nn.Module:
    return (_TransposedUpsample if transposed else _Upsample)(in_channels, out_channels)


class _Conv(nn.Module):
    """A 3x3 convolution named ``block``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class _Deconv(nn.Module):
    """Upsampling by two, 3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, transposed: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _upsample(in_channels, out_channels, transposed),
            _Conv(out_channels),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class _ConvBlock(nn.Module):
    """Twice: instance norm, 3x3 convolution, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.InstanceNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.InstanceNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class _UNetPath(nn.Module):
    """The upsampling path of a U-Net: sampler, concatenation with the lateral features, convolution block."""

    def __init__(self, widths: Sequence[int], transposed: bool) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.blocks = nn.ModuleList(_ConvBlock(inc, outc) for inc, outc in pairs)
        self.samplers = nn.ModuleList(_upsample(inc, outc, transposed) for inc, outc in pairs)

    def forward(self, x: torch.Tensor, lateral: Sequence[torch.Tensor]) -> torch.Tensor:
        for block, sampler, features in zip(self.blocks, self.samplers, lateral):
            x = sampler(x)
            x = block(torch.cat([x, _centre_channels(features, x.shape[1])], dim=1))
        return x


def _centre_channels(x: torch.Tensor, n_channels: int) -> torch.Tensor:
    """The middle channels: torch-em crops lateral features to the sampler's output in the channel axis, too."""
    start = (x.shape[1] - n_channels) // 2
    return x[:, start : start + n_channels]


class _MapDecoder(nn.Module):
    """What the decoders share: the activation, and maps that cover the image instead of the padded square."""

    def __init__(self, image_size: int, final_activation: str | None) -> None:
        super().__init__()
        if final_activation not in ("Sigmoid", None):
            raise ValueError(f"final_activation is 'Sigmoid' or None, got {final_activation!r}.")
        self.image_size = image_size
        self.final_activation = nn.Sigmoid() if final_activation else None

    def forward(
        self, features: torch.Tensor, input_shape: Sequence[int], original_shape: Sequence[int]
    ) -> torch.Tensor:
        """Predict foreground, centre distance and boundary distance.

        Args:
            features: Image embeddings (B, 256, 64, 64).
            input_shape: (height, width) of the image after resizing its longest side, before padding.
            original_shape: (height, width) of the image.

        Returns:
            (B, 3, height, width), in [0, 1].
        """
        maps = self.maps(features)
        if self.final_activation is not None:
            maps = self.final_activation(maps)
        return resize_to_original(maps, input_shape, original_shape, self.image_size)


class UNETRDecoder(_MapDecoder):
    """The decoder of the published microscopy models.

    Args:
        widths: Channels at 1/8, 1/4, 1/2 and full resolution of the padded image.
        conv_transpose: Upsample by transposed convolutions instead of bilinear interpolation.
        out_channels: Number of output maps.
        image_size: Side of the padded square image in pixels.
        final_activation: "Sigmoid" or None.
    """

    def __init__(
        self,
        widths: Sequence[int] = UNETR_WIDTHS,
        conv_transpose: bool = False,
        out_channels: int = 3,
        image_size: int = 1024,
        final_activation: str | None = "Sigmoid",
    ) -> None:
        super().__init__(image_size, final_activation)
        inputs = (EMBED_DIM, *widths[:-1])
        for i, (inc, outc) in enumerate(zip(inputs, widths), start=1):
            self.add_module(f"deconv{i}", _Deconv(inc, outc, conv_transpose))
        self.base = _ConvBlock(EMBED_DIM, widths[0])
        self.decoder = _UNetPath(widths, conv_transpose)
        self.deconv_out = _upsample(widths[-1], widths[-1], conv_transpose)
        self.decoder_head = _ConvBlock(2 * widths[-1], widths[-1])
        self.out_conv = nn.Conv2d(widths[-1], out_channels, 1)

    def maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 256, 64, 64) embeddings -> (B, 3, 1024, 1024) maps of the padded image, before the activation."""
        z9 = self.deconv1(features)
        z6 = self.deconv2(z9)
        z3 = self.deconv3(z6)
        z0 = self.deconv4(z3)
        x = self.decoder(self.base(features), (z9, z6, z3))
        x = self.decoder_head(torch.cat([self.deconv_out(x), z0], dim=1))
        return self.out_conv(x)


class _LightBlock(nn.Sequential):
    """Twice: 3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers = []
        for inc in (in_channels, out_channels):
            layers += [nn.Conv2d(inc, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
        super().__init__(*layers)


class LightDecoder(_MapDecoder):
    """A narrow decoder: 36 GFLOP an image where `UNETRDecoder` takes 822.

    A block of two convolutions at 1/16, 1/8, 1/4 and 1/2 of the padded image, bilinear upsampling between them. Batch
    norm everywhere, so that an empty tile stays empty and tiles of one image agree.

    Args:
        widths: Channels of the blocks, from 1/16 on.
        out_channels: Number of output maps.
        image_size: Side of the padded square image in pixels.
        final_activation: "Sigmoid" or None.
    """

    def __init__(
        self,
        widths: Sequence[int] = LIGHT_WIDTHS,
        out_channels: int = 3,
        image_size: int = 1024,
        final_activation: str | None = "Sigmoid",
    ) -> None:
        super().__init__(image_size, final_activation)
        self.stages = nn.ModuleList(_LightBlock(inc, outc) for inc, outc in zip((EMBED_DIM, *widths[:-1]), widths))
        self.out_conv = nn.Conv2d(widths[-1], out_channels, 1)

    def maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 256, h, w) embeddings -> (B, 3, 8h, 8w) maps of the padded image, before the activation."""
        x = self.stages[0](features)
        for stage in self.stages[1:]:
            x = stage(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return self.out_conv(x)
