"""Parameter-efficient finetuning without low-rank updates: scale and shift, adapters, and training parts of blocks.

Lian et al., "Scaling & Shifting Your Features" (SSF, NeurIPS 2022); Chen et al., "AdaptFormer" (NeurIPS 2022); Ben Zaken
et al., "BitFit" (ACL 2022) for biases.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import ParameterError
from .peft_blocks import mlp_parts, norms


class ScaleShiftLayer(nn.Module):
    """A layer whose outputs are scaled and shifted, channel by channel; one and zero to begin with.

    Args:
        layer: A linear layer or layer norm, which is frozen.
        dim: Channels of its output.
    """

    def __init__(self, layer: nn.Module, dim: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    @property
    def in_features(self) -> int:
        """Channels that go in."""
        return self.layer.in_features

    @property
    def out_features(self) -> int:
        """Channels that come out."""
        return self.layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out * self.scale.to(out.dtype) + self.shift.to(out.dtype)

    def merge(self) -> nn.Module:
        """The layer with scale and shift worked into its weights."""
        weight, bias = self.layer.weight, self.layer.bias
        with torch.no_grad():
            weight *= self.scale if weight.ndim == 1 else self.scale[:, None]
            bias *= self.scale
            bias += self.shift
        return self.layer


class SSFSurgery(nn.Module):
    """Scales and shifts after every linear layer and layer norm of a block, in place.

    Args:
        rank: Not used; all surgeries are called alike.
        block: The block.
    """

    def __init__(self, rank: int | None, block: nn.Module) -> None:
        super().__init__()
        mlp = mlp_parts(block.mlp)
        places = [(block.attn, "qkv"), (block.attn, "proj"), (block.mlp, mlp.first), (block.mlp, mlp.second)]
        for owner, name in (*places, *norms(block).values()):
            layer = getattr(owner, name)
            setattr(owner, name, ScaleShiftLayer(layer, layer.weight.shape[0]))
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class AdaptedMLP(nn.Module):
    """An MLP with a bottleneck beside it.

    Args:
        mlp: The MLP, which is frozen.
        alpha: Weight of the bottleneck: a number, or "learnable_scalar" to learn it.
        dropout: Share of the bottleneck's features that are left out in training; None for none.
        projection_size: Channels in the bottleneck.
    """

    def __init__(self, mlp: nn.Module, alpha: str | float, dropout: float | None, projection_size: int) -> None:
        super().__init__()
        if isinstance(alpha, str) and alpha != "learnable_scalar":
            raise ParameterError(f"alpha is a number or 'learnable_scalar', got {alpha!r}.")
        dim = mlp_parts(mlp).dim
        self.mlp = mlp.requires_grad_(False)
        self.down, self.up = nn.Linear(dim, projection_size), nn.Linear(projection_size, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        self.alpha = nn.Parameter(torch.ones(1)) if isinstance(alpha, str) else float(alpha)
        self.dropout = nn.Identity() if dropout is None else nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.mlp(x)
        return out + (self.alpha * self.up(self.dropout(torch.relu(self.down(x))))).to(out.dtype)


class AdaptFormer(nn.Module):
    """Puts a bottleneck beside a block's MLP, in place.

    Args:
        rank: Not used; all surgeries are called alike.
        block: The block.
        alpha: Weight of the bottleneck: a number, or "learnable_scalar" to learn it.
        dropout: Share of the bottleneck's features that are left out in training; None for none.
        projection_size: Channels in the bottleneck.
    """

    def __init__(
        self,
        rank: int | None,
        block: nn.Module,
        alpha: str | float | None = "learnable_scalar",
        dropout: float | None = None,
        projection_size: int = 64,
    ) -> None:
        super().__init__()
        block.mlp = AdaptedMLP(block.mlp, 1.0 if alpha is None else alpha, dropout, projection_size)
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class SelectiveSurgery(nn.Module):
    """Trains some of a block's own parameters; the children say which.

    Args:
        block: The block, whose parameters are frozen.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def allow_gradient_update(self, wanted: Callable[[str], bool]) -> None:
        """Train the parameters whose name is wanted."""
        for name, parameter in self.block.named_parameters():
            if wanted(name):
                parameter.requires_grad_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class AttentionSurgery(SelectiveSurgery):
    """Trains the attention of a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.allow_gradient_update(lambda name: name.startswith("attn."))


class BiasSurgery(SelectiveSurgery):
    """Trains the biases of a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.allow_gradient_update(lambda name: name.endswith("bias"))


class LayerNormSurgery(SelectiveSurgery):
    """Trains the layer norms of a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        names = tuple(f"{name}." for name in norms(block))
        self.allow_gradient_update(lambda name: name.startswith(names))


class ClassicalSurgery(SelectiveSurgery):
    """Trains whole blocks, usually the last ones."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.allow_gradient_update(lambda name: True)
