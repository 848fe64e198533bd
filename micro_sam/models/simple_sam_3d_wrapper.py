"""Semantic segmentation of volumes by a Segment Anything encoder, slice by slice, and a small 3d decoder."""

from __future__ import annotations

import itertools
import os

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from .decoder_adapter import preprocess
from .sam_3d_wrapper import load_for_volumes, to_slices

_WIDTHS = (128, 64, 32)


def get_simple_sam_3d_model(
    device: str | torch.device,
    n_classes: int,
    image_size: int,
    lora_rank: int | None = None,
    freeze_encoder: bool = False,
    model_type: str = "vit_b",
    checkpoint_path: str | os.PathLike | None = None,
) -> SimpleSam3DWrapper:
    """Build a network that segments volumes into classes, see `get_sam_3d_model` for the arguments."""
    sam = load_for_volumes(device, n_classes, image_size, lora_rank, model_type, checkpoint_path)
    return SimpleSam3DWrapper(sam, n_classes, freeze_encoder).to(device)


class BasicBlock(nn.Module):
    """3d convolution, instance norm, leaky ReLU, then twice the height and width.

    Args:
        in_channels: Channels that go in.
        out_channels: Channels that come out.
        kernel_size: Of the convolution.
        stride: Of the convolution.
        padding: Of the convolution.
        bias: Whether the convolution has a bias.
        mode: How the result is enlarged, "nearest" or "trilinear".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (1, 1, 1),
        bias: bool = True,
        mode: str = "nearest",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.norm, self.mode = nn.InstanceNorm3d(out_channels), mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> (B, C', D, 2H, 2W)."""
        x = F.leaky_relu(self.norm(self.conv(x)))
        return F.interpolate(x, scale_factor=(1, 2, 2), mode=self.mode)


class SegmentationHead(nn.Module):
    """3d convolution, instance norm, leaky ReLU, and a convolution to the classes.

    Args:
        in_channels: Channels that go in.
        out_channels: Number of classes.
        kernel_size: Of the first convolution.
        stride: Of the first convolution.
        padding: Of the first convolution.
        bias: Whether the convolutions have a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (1, 1, 1),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, in_channels, kernel_size, stride, padding, bias=bias)
        self.norm = nn.InstanceNorm3d(in_channels)
        self.out_conv = nn.Conv3d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> (B, classes, D, H, W)."""
        return self.out_conv(F.leaky_relu(self.norm(self.conv(x))))


class SimpleSam3DWrapper(nn.Module):
    """Predicts classes of volumes: features of the slices, then a decoder that sees them together.

    Args:
        sam: The SAM, of which the image encoder is used.
        num_classes: Number of classes with background.
        freeze_encoder: Do not train the encoder.
    """

    def __init__(self, sam: Sam, num_classes: int, freeze_encoder: bool) -> None:
        super().__init__()
        self.sam, self.freeze_encoder = sam, freeze_encoder
        sam.prompt_encoder.requires_grad_(False)
        sam.mask_decoder.requires_grad_(False)
        if freeze_encoder:
            sam.image_encoder.requires_grad_(False)
        widths = (256, *_WIDTHS)
        self.decoders = nn.ModuleList(BasicBlock(inc, outc) for inc, outc in itertools.pairwise(widths))
        self.out_conv = SegmentationHead(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment volumes (B, 1 or 3, D, H, W) with values in [0, 255]: logits (B, classes, D, H, W)."""
        slices, (batch, depth) = to_slices(x)
        inputs, input_shape = preprocess(slices, self.sam.image_encoder.img_size)
        features = self.sam.image_encoder(inputs)
        x3d = features.unflatten(0, (batch, depth)).movedim(1, 2)
        for decoder in self.decoders:
            x3d = decoder(x3d)
        maps = self.out_conv(x3d).float().movedim(2, 1).flatten(0, 1)
        masks = self.sam.postprocess_masks(maps, input_shape, tuple(slices.shape[-2:]))
        return masks.unflatten(0, (batch, depth)).movedim(1, 2)
