"""Settings of a training by kind of hardware, and finding the one that fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import ParameterError
from ..models.device import get_device
from ..models.spec import training_configurations

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = training_configurations()

_GIB = 2**30
_BY_MEMORY = ((38, "A100"), (26, "V100"), (14, "rtx5000"), (9, "gtx3080"), (0, "gtx1080"))
_CPU_MEMORY, _CPU_CORES = 16, 8
_SAVES_MEMORY = ("gtx1080", "gtx3080")
#: GiB that training a model with decoder takes without activation checkpointing, with room for everything else.
_COMFORTABLE = {"vit_t": 4, "vit_b": 12, "vit_l": 20, "vit_h": 32}


def find_configuration(device: Any = None) -> str:
    """The name of the configuration that fits this computer.

    On a GPU the memory decides, on a CPU cores and memory: a small one gets "Minimal".

    Args:
        device: Where to train; the best device there is by default.
    """
    import torch

    device = get_device(device)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / _GIB
        return next(name for least, name in _BY_MEMORY if memory >= least)
    if device.type == "mps":
        return "CPU"
    is_small = (os.cpu_count() or 1) < _CPU_CORES or _memory() < _CPU_MEMORY
    return "Minimal" if is_small else "CPU"


def configuration(name: str | None, device: Any = None) -> dict[str, Any]:
    """The arguments of `train_sam` that a configuration stands for: ``model_type``, ``n_objects_per_batch`` and others.

    Args:
        name: One of `CONFIGURATIONS`; None finds it from the hardware.
        device: Where to train.

    Raises:
        ParameterError: There is none of that name.
    """
    name = find_configuration(device) if name is None else name
    if name not in CONFIGURATIONS:
        raise ParameterError(f"The configuration is one of {', '.join(CONFIGURATIONS)}, got {name!r}.")
    values = dict(CONFIGURATIONS[name])
    if name in _SAVES_MEMORY:
        values["activation_checkpointing"] = True
    blocks = values.pop("attention_layers_to_update", None)
    if blocks is not None:
        from ..models.peft_sam import ClassicalSurgery

        values["peft_kwargs"] = {"peft_module": ClassicalSurgery, "attention_layers_to_update": list(blocks)}
    return values


def has_little_memory(encoder: str, device: Any = None) -> bool:
    """Whether a device has too little memory to keep all that an encoder computes for the backward pass.

    Args:
        encoder: "vit_t", "vit_b", "vit_l" or "vit_h".
        device: Where to train.
    """
    import torch

    device = get_device(device)
    is_cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory / _GIB if is_cuda else _memory()
    return memory < _COMFORTABLE[encoder]


def _memory() -> float:
    """GiB of main memory; unlimited where that cannot be found out."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    except (ValueError, OSError, AttributeError):
        return float("inf")
