"""Training and evaluation mode of networks, and the precision that suits a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..models.precision import has_native_bfloat16


def fix_batch_norm(module: torch.nn.Module) -> None:
    """Let batch norms normalise with the statistics they have, and not change them."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()


@contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, the modules are in evaluation mode and no gradients are computed."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes):
            module.train(mode)


def training_precision(device: Any, mixed: bool, dtype: str | None) -> tuple[bool, str]:
    """Whether to compute in mixed precision on a device, and in which type; `dtype` is taken if it is given."""
    device = torch.device(device)
    if dtype is not None:
        return mixed, dtype
    if has_native_bfloat16(device):
        return mixed, "bfloat16"
    return mixed and device.type == "cuda", "float16"
