"""Small networks with weights that make every part matter."""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import nn

from micro_sam.models.decoder import LightDecoder, UNETRDecoder
from micro_sam.models.tiny_vit import TinyViT


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all parameters and running statistics, none with zeros or ones; returns the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                values = 0.5 + values.abs()
            elif tensor.ndim <= 1:
                values = 0.2 * values + (1.0 if name.endswith("weight") else 0.0)
            elif "rel_pos" not in name and "attention_biases" not in name:
                values = values / math.sqrt(tensor[0].numel())
            tensor.copy_(values)
    return module.eval()


def toy_vit(seed: int = 0, **kwargs: object) -> ImageEncoderViT:
    """A ViT on 128 x 128 pixels with windowed and global attention; windows do not divide the 8 x 8 grid."""
    arguments = {
        "img_size": 128,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "out_chans": 32,
        "use_rel_pos": True,
        "window_size": 3,
        "global_attn_indexes": (1,),
    }
    arguments.update(kwargs)
    return randomise(ImageEncoderViT(**arguments), seed)


def toy_tiny_vit(seed: int = 0) -> TinyViT:
    """A shallow TinyViT; its windows of 7 and 14 do not divide the 16 x 16, 8 x 8 features of 128 x 128 pixels."""
    return randomise(TinyViT(img_size=128, num_classes=4, depths=(1, 1, 1, 1)), seed)


def toy_unetr(seed: int = 0, conv_transpose: bool = False) -> UNETRDecoder:
    """A narrow UNETR decoder for 256 x 256 pixels."""
    return randomise(UNETRDecoder((64, 32, 16, 8), conv_transpose=conv_transpose, image_size=256), seed)


def toy_light(seed: int = 0) -> LightDecoder:
    """A narrow light decoder for 256 x 256 pixels."""
    return randomise(LightDecoder((16, 12, 8, 8), image_size=256), seed)


def image(size: int = 128, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def embeddings(batch: int = 1, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, 256, 16, 16, generator=torch.Generator().manual_seed(seed))


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return ((result - expected).norm() / expected.norm()).item()
