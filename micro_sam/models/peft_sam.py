"""Parameter-efficient finetuning of the image encoder: most of its weights stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..errors import ParameterError
from .peft_adapters import (
    AdaptFormer,
    AttentionSurgery,
    BiasSurgery,
    ClassicalSurgery,
    LayerNormSurgery,
    ScaleShiftLayer,
    SelectiveSurgery,
    SSFSurgery,
)
from .peft_blocks import attention_dim, transformer_blocks
from .peft_lora import AttentionLoRA, FacTSurgery, LoRASurgery, MLPLoRA
from .peft_quantize import quantize_linear_layers

__all__ = [
    "AdaptFormer", "AttentionLoRA", "AttentionSurgery", "BiasSurgery", "ClassicalSurgery", "FacTSurgery",
    "LayerNormSurgery", "LoRASurgery", "MLPLoRA", "PEFT_Sam", "SSFSurgery", "ScaleShiftLayer", "SelectiveSurgery",
    "describe_peft", "peft_arguments",
]  # fmt: skip

SURGERIES: Mapping[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        LoRASurgery, FacTSurgery, SSFSurgery, AdaptFormer, AttentionSurgery, BiasSurgery, LayerNormSurgery,
        ClassicalSurgery,
    )
}  # fmt: skip


class PEFT_Sam(nn.Module):
    """Freezes a SAM's image encoder and changes its blocks so that few parameters are trained, in place.

    Args:
        model: The network; `sam` is the same one afterwards.
        rank: Rank of the updates of LoRA and FacT.
        peft_module: Which of the methods of this module, the class or its name.
        attention_layers_to_update: Which blocks, counted from 0 through the encoder; all if None. Negative numbers count
            from the last.
        quantize: Keep the frozen linear layers in 4 bit, as QLoRA does; needs bitsandbytes and LoRA.
        **module_kwargs: Further arguments of the method.

    Raises:
        ParameterError: There is no such method or block, or the quantisation is not possible here.
    """

    def __init__(
        self,
        model: Sam,
        rank: int | None = None,
        peft_module: type[nn.Module] | str = LoRASurgery,
        attention_layers_to_update: Sequence[int] | None = None,
        quantize: bool = False,
        **module_kwargs: Any,
    ) -> None:
        super().__init__()
        method = _method(peft_module)
        blocks = transformer_blocks(model.image_encoder)
        chosen = _choose(blocks, attention_layers_to_update)
        if quantize and not issubclass(method, LoRASurgery | AttentionLoRA):
            raise ParameterError(f"A quantised base is for LoRA, got {method.__name__}: leave quantize out.")
        model.image_encoder.requires_grad_(False)
        if quantize:
            for block in blocks:
                quantize_linear_layers(block)
        self.peft_blocks = nn.ModuleList(_operate(method, chosen, rank, module_kwargs))
        self.sam = model

    def forward(
        self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool
    ) -> list[dict[str, torch.Tensor]]:
        """See segment-anything's ``Sam``."""
        return self.sam(batched_input, multimask_output)


def describe_peft(peft_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments of `PEFT_Sam` as plain values, which can be stored; None if there are none."""
    if not peft_kwargs:
        return None
    described = {k: list(v) if isinstance(v, tuple) else v for k, v in peft_kwargs.items()}
    described["peft_module"] = _method(described.get("peft_module", LoRASurgery)).__name__
    return described


def peft_arguments(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of `PEFT_Sam` that a checkpoint's metadata names, None if it names none."""
    for place in ("settings", "metadata"):
        entry = metadata.get(place)
        if isinstance(entry, dict) and isinstance(entry.get("peft"), dict):
            return dict(entry["peft"])
    return None


def _method(peft_module: type[nn.Module] | str) -> type[nn.Module]:
    if isinstance(peft_module, str):
        if peft_module not in SURGERIES:
            raise ParameterError(f"The method is one of {', '.join(SURGERIES)}, got {peft_module!r}.")
        return SURGERIES[peft_module]
    return peft_module


def _choose(blocks: Sequence[nn.Module], indices: Sequence[int] | None) -> list[nn.Module]:
    if indices is None:
        return list(blocks)
    wrong = [i for i in indices if not -len(blocks) <= i < len(blocks)]
    if wrong or not len(indices):
        raise ParameterError(f"The encoder has the blocks 0 to {len(blocks) - 1}, got {list(indices)}.")
    return [blocks[i] for i in indices]


def _operate(
    method: type[nn.Module], blocks: Sequence[nn.Module], rank: int | None, kwargs: Mapping[str, Any]
) -> list[nn.Module]:
    if issubclass(method, SelectiveSurgery):
        return [method(block, **kwargs) for block in blocks]
    if not issubclass(method, FacTSurgery):
        return [method(rank, block, **kwargs) for block in blocks]
    shared: dict[int, tuple[nn.Linear, nn.Linear]] = {}
    surgeries = []
    for block in blocks:
        dim = attention_dim(block)
        surgeries.append(method(rank, block, shared=shared.get(dim), **kwargs))
        shared[dim] = surgeries[-1].factors
    return surgeries
