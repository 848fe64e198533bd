"""Low-rank updates of linear layers: LoRA and FacT.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022); Jie & Deng, "FacT: Factor-Tuning for
Lightweight Adaptation on Vision Transformer" (AAAI 2023); Dettmers et al., "QLoRA" (NeurIPS 2023) for a quantised base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..errors import ParameterError
from .peft_blocks import attention_dim, mlp_parts, qkv_layout, spread

_MATRICES = ("q", "k", "v")


class UpdatedLinear(nn.Module):
    """A frozen linear layer with an update that is trained; seen from outside it has the layer's shape.

    Args:
        linear: The layer.
        rank: Rank of the update.
    """

    def __init__(self, linear: nn.Module, rank: int) -> None:
        super().__init__()
        if not isinstance(rank, int) or rank < 1:
            raise ParameterError(f"The rank of the updates is a whole number of at least 1, got {rank!r}.")
        self.linear = linear.requires_grad_(False)

    @property
    def in_features(self) -> int:
        """Channels that go in."""
        return self.linear.in_features

    @property
    def out_features(self) -> int:
        """Channels that come out."""
        return self.linear.out_features


class LowRankLinear(UpdatedLinear):
    """A linear layer with low-rank updates of some of its outputs, zero to begin with.

    Args:
        linear: The layer, which is frozen.
        rank: Rank of the updates.
        matrices: Which of "q", "k", "v" are updated; None for all outputs together.
        layout: The order of the outputs, see `qkv_layout`.
    """

    def __init__(
        self, linear: nn.Module, rank: int, matrices: Sequence[str] | None = None, layout: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(linear, rank)
        self.matrices, self.layout = matrices, layout
        dim = linear.out_features if matrices is None else linear.out_features // 3
        for name in matrices or ("all",):
            down = nn.Parameter(torch.empty(rank, linear.in_features))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.register_parameter(f"lora_a_{name}", down)
            self.register_parameter(f"lora_b_{name}", nn.Parameter(torch.zeros(dim, rank)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x)
        return out + self._arranged([self._update(x, name) for name in self._names()], out)

    def merge(self) -> nn.Linear:
        """The layer with the updates added to its weights."""
        weight = self.linear.weight
        eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        like = weight.new_zeros(self.in_features, self.out_features)
        with torch.no_grad():
            weight += self._arranged([self._update(eye, name) for name in self._names()], like).T
        return self.linear

    def _names(self) -> tuple[str, ...]:
        return ("all",) if self.matrices is None else _MATRICES

    def _update(self, x: torch.Tensor, name: str) -> torch.Tensor | None:
        if name != "all" and name not in self.matrices:
            return None
        down, up = getattr(self, f"lora_a_{name}"), getattr(self, f"lora_b_{name}")
        return nn.functional.linear(nn.functional.linear(x.to(down.dtype), down), up)

    def _arranged(self, updates: list[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
        return updates[0].to(like.dtype) if self.matrices is None else spread(updates, self.layout, like)


class FactorTunedLinear(UpdatedLinear):
    """``qkv`` with updates of q and v that are products of three factors, of which the outer two may be shared.

    Args:
        linear: The layer, which is frozen.
        rank: Rank of the updates.
        layout: The order of the outputs, see `qkv_layout`.
        dropout: Share of the middle features that are left out in training; None for none.
        shared: The outer factors of another layer of the same width.
    """

    def __init__(
        self,
        linear: nn.Module,
        rank: int,
        layout: tuple[int, ...],
        dropout: float | None = 0.1,
        shared: tuple[nn.Linear, nn.Linear] | None = None,
    ) -> None:
        super().__init__(linear, rank)
        self.layout = layout
        dim = linear.in_features
        self.fact_u, self.fact_v = shared or (nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim, bias=False))
        if shared is None:
            nn.init.zeros_(self.fact_v.weight)
        self.fact_q, self.fact_value = (nn.Linear(rank, rank, bias=False) for _ in range(2))
        self.dropout = nn.Identity() if dropout is None else nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.linear(x)
        inner = self.fact_u(x)
        q, value = (self.fact_v(self.dropout(middle(inner))) for middle in (self.fact_q, self.fact_value))
        return out + spread([q, None, value], self.layout, out)

    def merge(self) -> nn.Linear:
        """The layer with the updates added to its weights."""
        weight = self.linear.weight
        with torch.no_grad():
            inner = self.fact_u.weight.T
            q, value = (self.fact_v(middle(inner)) for middle in (self.fact_q, self.fact_value))
            weight += spread([q, None, value], self.layout, weight.new_zeros(weight.shape[::-1])).T
        return self.linear


class AttentionLoRA(nn.Module):
    """Puts LoRA into a block's attention, in place.

    Args:
        rank: Rank of the updates.
        block: The block.
        update_matrices: Which of "q", "k", "v" are updated.
    """

    def __init__(self, rank: int, block: nn.Module, update_matrices: Sequence[str] = ("q", "v")) -> None:
        super().__init__()
        unknown = sorted(set(update_matrices) - set(_MATRICES))
        if unknown or not update_matrices:
            raise ParameterError(f"LoRA updates some of the matrices q, k, v, got {list(update_matrices)}.")
        block.attn.qkv = LowRankLinear(block.attn.qkv, rank, tuple(update_matrices), qkv_layout(block))
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class MLPLoRA(nn.Module):
    """Puts LoRA into both linear layers of an MLP, in place.

    Args:
        rank: Rank of the updates.
        mlp_layer: The MLP of a block.
    """

    def __init__(self, rank: int, mlp_layer: nn.Module) -> None:
        super().__init__()
        parts = mlp_parts(mlp_layer)
        for name in (parts.first, parts.second):
            setattr(mlp_layer, name, LowRankLinear(getattr(mlp_layer, name), rank))
        self.mlp = mlp_layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


class LoRASurgery(nn.Module):
    """Puts LoRA into a block's attention and, if "mlp" is among the matrices, into its MLP, in place.

    Args:
        rank: Rank of the updates.
        block: The block.
        update_matrices: Some of "q", "k", "v", "mlp".
    """

    def __init__(self, rank: int, block: nn.Module, update_matrices: Sequence[str] = ("q", "v")) -> None:
        super().__init__()
        in_attention = [name for name in update_matrices if name != "mlp"]
        if in_attention or "mlp" not in update_matrices:
            AttentionLoRA(rank, block, in_attention)
        if "mlp" in update_matrices:
            MLPLoRA(rank, block.mlp)
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class FacTSurgery(nn.Module):
    """Puts FacT into a block's attention, in place.

    Args:
        rank: Rank of the updates.
        block: The block.
        dropout: Share of the middle features that are left out in training; None for none.
        shared: The outer factors of another block of the same width; own ones if None.
    """

    def __init__(
        self,
        rank: int,
        block: nn.Module,
        dropout: float | None = 0.1,
        shared: tuple[nn.Linear, nn.Linear] | None = None,
    ) -> None:
        super().__init__()
        qkv = FactorTunedLinear(block.attn.qkv, rank, qkv_layout(block), dropout, shared)
        block.attn.qkv = qkv
        self.block, self.factors, self.dim = block, (qkv.fact_u, qkv.fact_v), attention_dim(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)
