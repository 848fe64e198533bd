"""Linear layers in 4 bit, by bitsandbytes."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ParameterError


def quantize_linear_layers(module: nn.Module) -> None:
    """Put 4 bit layers (NF4) in the places of a module's linear ones, in place; frozen, for inference and for LoRA.

    Raises:
        ParameterError: bitsandbytes is not installed or does not work here.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except Exception as error:  # it fails in many ways where it does not support the computer
        raise ParameterError(
            f"A quantised base needs the library bitsandbytes, which cannot be used here ({type(error).__name__}): install "
            "it (pip install bitsandbytes), or leave quantize out."
        ) from error
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                compute = torch.bfloat16
                small = Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    layer.bias is not None,
                    compute_dtype=compute,
                    quant_type="nf4",
                )
                small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
                if layer.bias is not None:
                    small.bias = nn.Parameter(layer.bias.data, requires_grad=False)
                setattr(parent, name, small)
