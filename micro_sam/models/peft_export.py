"""From a network finetuned with few parameters back to the plain layout, which opens everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..errors import CheckpointError
from .build_sam import build_sam, load_weights, parameter_shapes
from .checkpoint import Checkpoint, StateDict, read_checkpoint
from .download import models
from .peft_adapters import AdaptedMLP, ScaleShiftLayer
from .peft_lora import FactorTunedLinear, LowRankLinear
from .peft_sam import PEFT_Sam, peft_arguments
from .spec import get_spec

_MERGEABLE = (LowRankLinear, FactorTunedLinear, ScaleShiftLayer)


def is_plain(state: Mapping[str, torch.Tensor], encoder: str) -> bool:
    """Whether weights have the names of the original layout."""
    return set(state) <= set(parameter_shapes(encoder))


def merged_state(checkpoint: Checkpoint, base_checkpoint_path: str | os.PathLike | None = None) -> StateDict:
    """A checkpoint's weights in the original layout, with what finetuning added worked in.

    Args:
        checkpoint: The checkpoint.
        base_checkpoint_path: The original weights, needed where the base was quantised.

    Raises:
        CheckpointError: Layers were added that cannot be worked into the original ones, or nothing says how.
    """
    if is_plain(checkpoint.model_state, checkpoint.encoder):
        return dict(checkpoint.model_state)
    arguments = peft_arguments(checkpoint.metadata)
    if arguments is None:
        raise CheckpointError(
            f"{checkpoint.path} has parameters that do not belong to Segment Anything and does not say how it was "
            "finetuned: use a checkpoint written by this package's training."
        )
    base = None
    if arguments.pop("quantize", False):
        if base_checkpoint_path is None:
            raise CheckpointError(f"{checkpoint.path} has a quantised base: export it with export_custom_qlora_model.")
        base = read_checkpoint(base_checkpoint_path).model_state
    sam = build_sam(checkpoint.encoder)
    if base is not None:
        load_weights(sam, base, source=base_checkpoint_path)
    sam = PEFT_Sam(sam, **arguments).sam
    _load_finetuned(sam, checkpoint, is_quantised=base is not None)
    merge_peft_layers(sam)
    return sam.state_dict()


def merge_peft_layers(sam: Sam) -> None:
    """Work the layers that finetuning added into the original ones, in place.

    Raises:
        CheckpointError: That is not possible for one of them.
    """
    for parent in list(sam.image_encoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _MERGEABLE):
                setattr(parent, name, layer.merge())
            elif isinstance(layer, AdaptedMLP):
                raise CheckpointError(
                    "AdaptFormer's layers cannot be worked into the original ones: other programs cannot use this model, "
                    "micro_sam opens its training checkpoint as it is."
                )


def export_custom_qlora_model(
    checkpoint_path: str | os.PathLike | None,
    finetuned_path: str | os.PathLike,
    model_type: str,
    save_path: str | os.PathLike,
) -> None:
    """Export a model that was finetuned with QLoRA: the updates are added to the original weights in full precision.

    Args:
        checkpoint_path: The weights the training began with; None for the registered model's.
        finetuned_path: The training checkpoint.
        model_type: The model the training began with.
        save_path: The file to write; with the instance segmentation decoder if the checkpoint has one.

    Raises:
        CheckpointError: A file cannot be read, or they do not belong together.
        OutputError: The file cannot be written.
    """
    from .export import save_checkpoint

    base = checkpoint_path if checkpoint_path is not None else models().fetch(get_spec(model_type).name)
    checkpoint = read_checkpoint(finetuned_path, "sam.")
    state = merged_state(checkpoint, base)
    content: dict[str, Any] = {"model_state": state, "decoder_state": checkpoint.decoder_state}
    save_checkpoint(content if checkpoint.decoder_state is not None else state, save_path)


def _load_finetuned(sam: nn.Module, checkpoint: Checkpoint, is_quantised: bool) -> None:
    """Load what was trained; of a quantised base, everything but the quantised weights."""
    state, own = checkpoint.model_state, sam.state_dict()
    if is_quantised:
        state = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape and v.is_floating_point()}
    else:
        wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
        if wrong:
            raise CheckpointError(f"{checkpoint.path} does not fit its own description of finetuning, at {wrong[0]}.")
    sam.load_state_dict(state, strict=False)
