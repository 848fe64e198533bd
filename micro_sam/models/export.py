"""Writing models for other programs: the flat layout of the original SAM, or with the decoder beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, OutputError
from .build_sam import parameter_shapes
from .checkpoint import Checkpoint, check_names_and_shapes, read_checkpoint
from .peft_export import merged_state
from .peft_sam import peft_arguments
from .spec import get_spec


def export_custom_sam_model(
    checkpoint_path: str | os.PathLike,
    model_type: str,
    save_path: str | os.PathLike,
    with_segmentation_decoder: bool = False,
    prefix: str = "sam.",
) -> None:
    """Export a finetuned model from a training checkpoint.

    Without decoder the result is a flat state dict, which the original ``sam_model_registry``, napari-sam, samm and
    SlicerSegmentWithSAM read. With decoder it is ``{"model_state": ..., "decoder_state": ...}``.

    Args:
        checkpoint_path: A training checkpoint, or a model that was exported before.
        model_type: The encoder ("vit_b"), or a registered model with that encoder.
        save_path: The file to write. It gets this name only once it is complete.
        with_segmentation_decoder: Write the instance segmentation decoder, too.
        prefix: What precedes the original parameter names in the checkpoint; found out if the names do not have it.

    Raises:
        MissingInputError: There is no checkpoint.
        CheckpointError: It cannot be read, holds another encoder, or has no decoder although one was asked for.
        OutputError: The file cannot be written.
    """
    checkpoint = read_flat(checkpoint_path, model_type, prefix)
    state = checkpoint.model_state
    content: Mapping[str, Any] = state
    if with_segmentation_decoder:
        if checkpoint.decoder_state is None:
            raise CheckpointError(
                f"{checkpoint_path} holds no instance segmentation decoder: export it without, or use a checkpoint that "
                "was trained with one."
            )
        content = {"model_state": state, "decoder_state": checkpoint.decoder_state}
    save_checkpoint(content, save_path)


def read_flat(checkpoint_path: str | os.PathLike, model_type: str, prefix: str | None = None) -> Checkpoint:
    """Read a checkpoint as weights of the original network; layers that finetuning added are worked into them.

    Args:
        checkpoint_path: A training checkpoint, or an exported model.
        model_type: The encoder it must hold ("vit_b"), or a registered model with that encoder.
        prefix: See `read_checkpoint`.

    Raises:
        MissingInputError: There is no checkpoint.
        CheckpointError: It cannot be read or holds another encoder.
    """
    encoder = get_spec(model_type).encoder
    checkpoint = read_checkpoint(checkpoint_path, prefix)
    if checkpoint.encoder != encoder:
        raise CheckpointError(
            f"{checkpoint_path} holds a {checkpoint.encoder} encoder, but the model type {model_type!r} has a {encoder} "
            f"encoder: pass model_type={checkpoint.encoder!r}."
        )
    state = checkpoint.model_state
    if not set(state) <= set(parameter_shapes(encoder)) and peft_arguments(checkpoint.metadata):
        state = merged_state(checkpoint)
    check_names_and_shapes(state, parameter_shapes(encoder), checkpoint_path, encoder)
    return replace(checkpoint, model_state=state)


def save_checkpoint(content: Mapping[str, Any], save_path: str | os.PathLike) -> None:
    """Write a checkpoint; the file gets its name only once it is complete.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(save_path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        torch.save(dict(content), partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a missing folder and a full disk
        raise OutputError(
            f"The model cannot be written to {path} ({error}): check the folder and free space."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
