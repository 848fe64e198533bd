"""Muon for the matrices, AdamW for the rest.

Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update is scaled as in Liu et
al., "Muon is scalable for LLM training" (2025), so that one learning rate fits both optimizers.
"""

from __future__ import annotations

import torch
from torch import nn


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push the singular values of (..., m, n) towards one by a quintic Newton-Schulz iteration in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; convolution kernels are flattened to (out, in * h * w)."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.02) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                update = orthogonalize(update) * (0.2 * max(update.shape) ** 0.5)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"])


def split_parameters(modules: dict[str, nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices for Muon; embeddings, biases, norms, depthwise kernels, first and last layers for AdamW."""
    last = ("out_conv", "output_hypernetworks_mlps", "iou_prediction_head", "patch_embed", "head.", "embed", "token")
    matrices, others = [], []
    for module in modules.values():
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            flat = p.flatten(1) if p.ndim > 1 else p
            hidden = p.ndim > 1 and min(flat.shape) >= 32 and not any(key in name for key in last)
            (matrices if hidden else others).append(p)
    return matrices, others
