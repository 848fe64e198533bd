"""The parts of an encoder's blocks that parameter-efficient finetuning changes, for ViT and TinyViT alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.image_encoder import Block, ImageEncoderViT
from torch import nn

from ..errors import ParameterError
from .tiny_vit import TinyViT, TinyViTBlock


@dataclass(frozen=True)
class MlpParts:
    """The names of the two linear layers of a block's MLP, and how many channels go in."""

    first: str
    second: str
    dim: int


def transformer_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The blocks with attention, from the first to the last.

    Raises:
        ParameterError: The encoder has none that are known here.
    """
    if isinstance(encoder, ImageEncoderViT):
        return list(encoder.blocks)
    if isinstance(encoder, TinyViT):
        return [block for layer in encoder.layers for block in layer.blocks if isinstance(block, TinyViTBlock)]
    raise ParameterError(
        f"Parameter-efficient finetuning needs a ViT or TinyViT encoder, got {type(encoder).__name__}."
    )


def attention_dim(block: nn.Module) -> int:
    """Channels of a block."""
    return block.attn.qkv.in_features


def mlp_parts(mlp: nn.Module) -> MlpParts:
    """The linear layers of a block's MLP, under the names either encoder gives them."""
    first, second = ("lin1", "lin2") if hasattr(mlp, "lin1") else ("fc1", "fc2")
    return MlpParts(first, second, getattr(mlp, first).in_features)


def norms(block: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Name -> (owner, attribute) of a block's layer norms."""
    if isinstance(block, Block):
        return {"norm1": (block, "norm1"), "norm2": (block, "norm2")}
    return {"attn.norm": (block.attn, "norm"), "mlp.norm": (block.mlp, "norm")}


def qkv_layout(block: nn.Module) -> tuple[int, ...]:
    """How the outputs of ``qkv`` are ordered: (3, C) in ViT, (heads, 3, C / heads) in TinyViT; 3 stands for q, k, v."""
    dim = attention_dim(block)
    if isinstance(block, TinyViTBlock):
        heads = block.attn.num_heads
        return (heads, 3, dim // heads)
    return (3, dim)


def spread(parts: list[torch.Tensor | None], layout: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Put what belongs to q, k and v, each (..., C), in the order of ``qkv``'s outputs (..., 3 * C); None is zero."""
    dim = like.shape[-1] // 3
    zero = like.new_zeros(()).expand(*like.shape[:-1], dim)
    filled = [zero if part is None else part.to(like.dtype) for part in parts]
    if len(layout) == 3:
        filled = [part.unflatten(-1, (layout[0], layout[2])) for part in filled]
    return torch.stack(filled, -2).flatten(-len(layout))
