"""The model of a training: where it begins, what trains it, how good it is, and the file it ends in."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import ParameterError
from ..models.build_sam import IMAGE_SIZE
from ..models.cache import checkpoint_location
from ..models.checkpoint import read_checkpoint
from ..models.decoder_adapter import build_decoder
from ..models.device import get_device
from ..models.predictor import get_sam_model
from ..models.spec import get_spec
from .assess import Assessment, Sample, assess
from .configuration import configuration, find_configuration, has_little_memory
from .export import export_instance_segmentation_model, export_trained_model
from .resumable import ResumableTrainer
from .settings import TrainingSettings
from .trainers import distance_loss, make_instance_trainer, make_sam_trainer


@dataclass(frozen=True)
class StartingPoint:
    """The model a training begins with, and how it is trained.

    Attributes:
        model_type: A registered model; with `checkpoint_path` the encoder, which is recognised where none was said.
        checkpoint_path: A model file of one's own.
        device: Where to train.
        model_kwargs: ``image_size``, see `get_sam_model`.
        values: What the configuration says, with what the settings say on top.
    """

    model_type: str
    checkpoint_path: str | None
    device: torch.device
    model_kwargs: dict[str, Any]
    values: dict[str, Any]


def starting_point(
    settings: TrainingSettings,
    checkpoint_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    model_kwargs: dict[str, Any] | None = None,
) -> StartingPoint:
    """What settings and hardware say; see `run_training` for the arguments."""
    if checkpoint_path is not None and settings.model_type is None:
        settings = replace(settings, model_type=read_checkpoint(checkpoint_path).encoder)
    values = _values(settings, device)
    model_kwargs = {**(model_kwargs or {}), **_frame(settings.frame, values["model_type"])}
    checkpoint = None if checkpoint_path is None else os.fspath(checkpoint_path)
    return StartingPoint(values["model_type"], checkpoint, get_device(device), model_kwargs, values)


def _frame(side: int | None, model_type: str) -> dict[str, Any]:
    """The size of the encoder's frame; only networks without position embedding are the same in every frame."""
    if side is None:
        return {}
    encoder = get_spec(model_type).encoder
    if side % 64 or (encoder != "vit_t" and side != IMAGE_SIZE):
        raise ParameterError(
            f"frame is a multiple of 64, and {IMAGE_SIZE} for all encoders but vit_t, got {side} for {model_type} ({encoder})."
        )
    return {"image_size": side}


def _values(settings: TrainingSettings, device: Any) -> dict[str, Any]:
    """What the configuration says, with what the settings say on top."""
    values = configuration(settings.configuration or find_configuration(device))
    if settings.peft != "none":
        values["peft_kwargs"] = settings.peft_kwargs()
    for name in ("model_type", "n_objects_per_batch", "n_sub_iteration", "activation_checkpointing"):
        if getattr(settings, name) is not None:
            values[name] = getattr(settings, name)
    if "image_encoder" in settings.freeze:
        values.pop("peft_kwargs", None)
    values.setdefault("activation_checkpointing", has_little_memory(get_spec(values["model_type"]).encoder, device))
    return values


def make_trainer(
    settings: TrainingSettings,
    start: StartingPoint,
    loaders: tuple[DataLoader, DataLoader],
    save_root: str | os.PathLike | None,
    stop: threading.Event | None = None,
) -> ResumableTrainer:
    """The trainer that settings ask for."""
    values = start.values
    common = {
        "name": settings.name, "model_type": start.model_type, "train_loader": loaders[0], "val_loader": loaders[1],
        "checkpoint_path": start.checkpoint_path, "device": start.device, "lr": settings.learning_rate,
        "early_stopping": settings.early_stopping, "save_root": save_root, "freeze": list(settings.freeze) or None,
        "peft_kwargs": values.get("peft_kwargs"), "seed": settings.seed,
        "gradient_accumulation": settings.gradient_accumulation, "mixed_precision": settings.mixed_precision,
        "activation_checkpointing": values["activation_checkpointing"], "settings": {"run": settings.as_dict()},
        "decoder": "light" if get_spec(start.model_type).encoder == "vit_t" else "unetr", "stop": stop,
        "time_limit": None if settings.max_minutes is None else 60 * settings.max_minutes, **start.model_kwargs,
    }  # fmt: skip
    if settings.is_annealed():
        common |= {"anneal": True, "scheduler_class": None}
    if settings.segmentation_decoder == "only":
        loss = distance_loss()
        return make_instance_trainer(**common, loss=loss, metric=loss)
    prompts = {k: values[k] for k in ("n_objects_per_batch", "n_sub_iteration") if k in values}
    return make_sam_trainer(
        **common, **prompts, with_segmentation_decoder=settings.segmentation_decoder == "instances",
        n_gradient_rounds=settings.n_gradient_rounds, objects_per_pass=settings.objects_per_pass,
    )  # fmt: skip


def score(
    start: StartingPoint,
    model_type: str,
    path: str | os.PathLike | None,
    samples: Sequence[Sample],
    tune: bool,
    with_decoder: bool = True,
) -> Assessment:
    """How good a model is on held-out images; without its decoder if the training does not keep it."""
    if not samples:
        return Assessment()
    predictor, sam = get_sam_model(model_type, start.device, path, return_sam=True, **start.model_kwargs)
    decoder = None
    if with_decoder and predictor.decoder_state is not None:
        decoder = build_decoder(predictor.decoder_state, sam.image_encoder.img_size).to(start.device)
    return assess(sam, decoder, samples, tune)


def export_run(
    best: Path,
    output: Path,
    settings: TrainingSettings,
    start: StartingPoint,
    defaults: dict[str, Any],
    scores: dict[str, Any],
) -> None:
    """Write the file of the model from a checkpoint of its training."""
    if settings.segmentation_decoder == "only":
        export_instance_segmentation_model(best, output, start.model_type, start.checkpoint_path, defaults, scores)
        return
    base = start.checkpoint_path or checkpoint_location(start.model_type)
    export_trained_model(best, output, settings.name, defaults, scores, settings.as_dict(), base)
