"""TinyViT image encoder, as MobileSAM uses it for Segment Anything.

Architecture: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (ECCV 2022), in the
5M configuration that Zhang et al., "Faster Segment Anything" (MobileSAM, 2023) put in the place of SAM's ViT.
Parameter names and shapes are those of the published checkpoints.

Attention biases are gathered from the parameters in every forward pass. Nothing derived from weights is cached here,
so loading weights after ``eval()`` takes effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)
STRIDES = (2, 2, 1)  # of the downsampling behind stages 0, 1, 2: the last stage stays at 1/16 for SAM


class ConvNorm(nn.Sequential):
    """A convolution without bias followed by batch norm; parameters are named ``c`` and ``bn``."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out_dim))


class PatchEmbed(nn.Module):
    """Two strided convolutions from an RGB image to features at a quarter of its resolution."""

    def __init__(self, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(in_chans, embed_dim // 2, 3, 2), nn.GELU(), ConvNorm(embed_dim // 2, embed_dim, 3, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, 3x3 depthwise, 1x1 projection, residual."""

    def __init__(self, dim: int, expand_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * expand_ratio)
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """Changes the channel count and, with stride 2, halves the resolution."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Multi-head attention in a square window with a learned bias for every absolute offset (|dy|, |dx|)."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        self.register_buffer("offset_index", _offset_index(window_size), persistent=False)

    def bias(self) -> torch.Tensor:
        """The bias of every pair of positions in the window, (heads, N, N) with N = window_size ** 2."""
        return self.attention_biases[:, self.offset_index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend within windows: (windows, N, C) -> (windows, N, C)."""
        n_windows, n_tokens, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(n_windows, n_tokens, self.num_heads, 3, dim // self.num_heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias().to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(n_windows, n_tokens, dim))


def _offset_index(window_size: int) -> torch.Tensor:
    """(N, N) index |dy| * window_size + |dx| of every pair of window positions, N = window_size ** 2."""
    y, x = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window_size)] * 2, indexing="ij"))
    dy, dx = (y[:, None] - y[None]).abs(), (x[:, None] - x[None]).abs()
    return dy * window_size + dx


class Mlp(nn.Module):
    """Layer norm, linear expansion, GELU, linear projection."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Windowed attention, a depthwise 3x3 convolution across window borders, and an MLP."""

    def __init__(self, dim: int, num_heads: int, window_size: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = Attention(dim, num_heads, window_size)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self._window_attention(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)

    def _window_attention(self, x: torch.Tensor) -> torch.Tensor:
        """Windows at the right and bottom are filled up with zeros, which take part in the attention."""
        batch, height, width, dim = x.shape
        size = self.window_size
        rows, cols = (height + size - 1) // size, (width + size - 1) // size  # no negative numbers: exporters truncate
        x = F.pad(x, (0, 0, 0, cols * size - width, 0, rows * size - height))
        x = x.view(batch, rows, size, cols, size, dim).transpose(2, 3).reshape(-1, size * size, dim)
        x = self.attn(x).view(batch, rows, cols, size, size, dim).transpose(2, 3)
        return x.reshape(batch, rows * size, cols * size, dim)[:, :height, :width]


class ConvStage(nn.Module):
    """The first stage: inverted bottlenecks on (B, C, H, W)."""

    def __init__(self, dim: int, depth: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(dim) for _ in range(depth))
        self.downsample = PatchMerging(dim, out_dim, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class AttentionStage(nn.Module):
    """A stage of transformer blocks; takes and returns (B, C, H, W), channels last in memory."""

    def __init__(
        self, dim: int, depth: int, num_heads: int, window_size: int, out_dim: int | None, stride: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyViTBlock(dim, num_heads, window_size) for _ in range(depth))
        self.downsample = None if out_dim is None else PatchMerging(dim, out_dim, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        return x if self.downsample is None else self.downsample(x)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class TinyViT(nn.Module):
    """TinyViT 5M with SAM's neck.

    Args:
        img_size: Side length in pixels of the padded square image SAM feeds in. The network itself is fully
            convolutional and windowed: it accepts other sizes that are multiples of 16.
        num_classes: Width of the ImageNet classification head, which is part of the published checkpoints and unused.
    """

    def __init__(
        self,
        img_size: int = 1024,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = EMBED_DIMS,
        depths: Sequence[int] = DEPTHS,
        num_heads: Sequence[int] = NUM_HEADS,
        window_sizes: Sequence[int] = WINDOW_SIZES,
        out_chans: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(in_chans, embed_dims[0])
        self.layers = nn.ModuleList([ConvStage(embed_dims[0], depths[0], embed_dims[1], STRIDES[0])])
        for i in range(1, len(embed_dims)):
            last = i == len(embed_dims) - 1
            out_dim, stride = (None, 1) if last else (embed_dims[i + 1], STRIDES[i])
            self.layers.append(AttentionStage(embed_dims[i], depths[i], num_heads[i], window_sizes[i], out_dim, stride))
        self.norm_head = nn.LayerNorm(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[-1], out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            x: Normalised images (B, 3, H, W), H and W multiples of 16; (B, 3, 1024, 1024) in SAM.

        Returns:
            Image embeddings (B, 256, H / 16, W / 16).
        """
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


def build_tiny_vit(img_size: int = 1024) -> TinyViT:
    """The image encoder of MobileSAM (``vit_t``) with initial weights."""
    return TinyViT(img_size=img_size)
