"""From a training checkpoint to one file that holds everything: weights, decoder, name, normalisation, defaults, scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models.build_sam import parameter_shapes
from ..models.checkpoint import StateDict, check_names_and_shapes, read_checkpoint
from ..models.checkpoint_files import open_checkpoint
from ..models.download import models
from ..models.export import save_checkpoint
from ..models.spec import get_spec

FORMAT = "micro_sam model 1"


def export_trained_model(
    checkpoint_path: str | os.PathLike,
    output_path: str | os.PathLike,
    name: str | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    scores: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    base_checkpoint_path: str | os.PathLike | None = None,
) -> None:
    """Write one file that ``get_sam_model(checkpoint_path=...)`` and every command open with no further argument.

    Layers of parameter-efficient finetuning are merged into the weights they belong to.

    Args:
        checkpoint_path: A checkpoint of `train_sam`, ``best.pt`` for example.
        output_path: The file to write.
        name: What the model is called; the output's file name by default.
        defaults: Parameters of post-processing by mode ("ais", "apg", "amg").
        scores: Scores to keep with the model.
        settings: The settings of the training.
        base_checkpoint_path: The original weights, needed after QLoRA, whose base is quantised.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        OutputError: The file cannot be written.
    """
    from ..models.peft_export import merged_state

    checkpoint = read_checkpoint(checkpoint_path, "sam.")
    state = merged_state(checkpoint, base_checkpoint_path)
    encoder = checkpoint.encoder
    check_names_and_shapes(state, parameter_shapes(encoder), checkpoint_path, encoder)
    content: dict[str, Any] = {"model_state": state}
    if checkpoint.decoder_state is not None:
        content["decoder_state"] = checkpoint.decoder_state
    content["metadata"] = describe(name or Path(output_path).stem, encoder, defaults, scores, settings)
    save_checkpoint(content, output_path)


def describe(
    name: str,
    encoder: str,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    scores: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is stored beside the weights, plain values only."""
    return {
        "format": FORMAT,
        "name": name,
        "encoder": encoder,
        "normalization": (settings or {}).get("preprocess") or "minmax",
        "defaults": {mode: dict(values) for mode, values in (defaults or {}).items()},
        "scores": dict(scores or {}),
        "training": dict(settings or {}),
    }


def export_instance_segmentation_model(
    trained_model_path: str | os.PathLike,
    output_path: str | os.PathLike,
    model_type: str,
    initial_checkpoint_path: str | os.PathLike | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write a model from a checkpoint of `train_instance_segmentation`, which has no parts for prompts.

    Prompt encoder and mask decoder are those of the model the training began with; they were not trained together with
    the encoder.

    Args:
        trained_model_path: The checkpoint.
        output_path: The file to write.
        model_type: The model the training began with.
        initial_checkpoint_path: Its file if it was not a registered one.
        defaults: Parameters of post-processing by mode ("ais", "apg", "amg").
        scores: Scores to keep with the model.

    Raises:
        CheckpointError: A file cannot be read, or they do not belong together.
    """
    spec = get_spec(model_type)
    initial = read_checkpoint(initial_checkpoint_path or models().fetch(spec.name))
    encoder_state, decoder_state = _read_unetr(trained_model_path)
    state = {k: v for k, v in initial.model_state.items() if not k.startswith("image_encoder.")}
    state |= {f"image_encoder.{name}": value for name, value in encoder_state.items()}
    check_names_and_shapes(state, parameter_shapes(spec.encoder), trained_model_path, spec.encoder)
    metadata = describe(Path(output_path).stem, spec.encoder, defaults, scores)
    save_checkpoint({"model_state": state, "decoder_state": decoder_state, "metadata": metadata}, output_path)


def _read_unetr(path: str | os.PathLike) -> tuple[StateDict, StateDict]:
    """The weights of the encoder and of the decoder in the checkpoint of a network that holds both."""
    with open_checkpoint(path) as tree:
        records = tree.get("model_state", tree) if isinstance(tree, dict) else {}
        if not any(str(name).startswith("encoder.") for name in records) or "out_conv.weight" not in records:
            raise CheckpointError(
                "it is not a checkpoint of train_instance_segmentation, which has encoder and decoder."
            )
        state: dict[str, torch.Tensor] = {name: record.load() for name, record in records.items()}
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    return encoder, {k: v for k, v in state.items() if not k.startswith("encoder.")}
