"""Trainers put together from a model, loaders and settings: what `train_sam` and its siblings run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import ParameterError
from ..models.decoder import LightDecoder
from ..models.decoder_adapter import LightUNETR, get_unetr
from ..models.device import get_device
from ..models.peft_sam import describe_peft
from .instance_trainer import InstanceTrainer
from .joint_sam_trainer import JointSamTrainer
from .resumable import ResumableTrainer
from .sam_trainer import SamTrainer
from .util import ConvertToSamInputs, get_trainable_sam_model

_TRAINER_OPTIONS = (
    "seed", "gradient_accumulation", "save_interval", "clip_gradients", "freeze_batch_norm", "mixed_precision",
    "mixed_precision_dtype", "log_image_interval", "settings", "stop", "time_limit", "anneal",
)  # fmt: skip
_SAM_OPTIONS = ("n_gradient_rounds", "objects_per_pass", "mask_loss")
_RUN_OPTIONS = (
    "lr", "early_stopping", "save_root", "scheduler_class", "scheduler_kwargs", "optimizer_class",
)  # fmt: skip


def distance_loss() -> torch.nn.Module:
    """Dice losses of all three maps, the distances inside objects only."""
    from torch_em.loss import DiceBasedDistanceLoss

    return DiceBasedDistanceLoss(mask_distances_in_bg=True)


def make_sam_trainer(
    name: str,
    model_type: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    n_objects_per_batch: int | None = 25,
    checkpoint_path: str | os.PathLike | None = None,
    with_segmentation_decoder: bool = True,
    freeze: list[str] | None = None,
    device: str | torch.device | None = None,
    n_sub_iteration: int = 8,
    mask_prob: float = 0.5,
    peft_kwargs: dict[str, Any] | None = None,
    box_distortion_factor: float | None = 0.025,
    strict_decoder_loading: bool = True,
    decoder: str = "unetr",
    **kwargs: Any,
) -> SamTrainer:
    """The trainer that `train_sam` runs; see there for the arguments."""
    device = get_device(device)
    options, model_kwargs = _split_options(kwargs, (*_TRAINER_OPTIONS, *_SAM_OPTIONS))
    common, model_kwargs = _split_options(model_kwargs, _RUN_OPTIONS)
    model, state = get_trainable_sam_model(
        model_type, device, checkpoint_path, freeze, return_state=True, peft_kwargs=peft_kwargs, **model_kwargs
    )
    arguments: dict[str, Any] = {
        "convert_inputs": ConvertToSamInputs(model.transform, box_distortion_factor=box_distortion_factor),
        "n_sub_iteration": n_sub_iteration,
        "n_objects_per_batch": n_objects_per_batch,
        "mask_prob": mask_prob,
        "model": model,
        **options,
    }
    parameters = list(model.parameters())
    kind = SamTrainer
    if with_segmentation_decoder:
        unetr, is_new = _build_decoder(model.sam.image_encoder, state, device, strict_decoder_loading, decoder)
        loss = distance_loss()
        arguments |= {"unetr": unetr, "instance_loss": loss, "instance_metric": loss, "train_decoder_norm": is_new}
        parameters += [p for n, p in unetr.named_parameters() if not n.startswith("encoder.")]
        kind = JointSamTrainer
    settings = {
        "model_type": model_type, "checkpoint_path": checkpoint_path, "n_objects_per_batch": n_objects_per_batch,
        "with_segmentation_decoder": with_segmentation_decoder, "freeze": freeze, "n_sub_iteration": n_sub_iteration,
        "mask_prob": mask_prob, "peft": describe_peft(peft_kwargs), **model_kwargs,
    }  # fmt: skip
    return _make(kind, name, train_loader, val_loader, device, parameters, settings, arguments, **common)


def make_instance_trainer(
    name: str,
    model_type: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    loss: torch.nn.Module,
    metric: torch.nn.Module,
    checkpoint_path: str | os.PathLike | None = None,
    freeze: list[str] | None = None,
    device: str | torch.device | None = None,
    peft_kwargs: dict[str, Any] | None = None,
    strict_decoder_loading: bool = True,
    decoder: str = "unetr",
    **kwargs: Any,
) -> InstanceTrainer:
    """The trainer that `train_instance_segmentation` runs; see there for the arguments."""
    device = get_device(device)
    options, model_kwargs = _split_options(kwargs, _TRAINER_OPTIONS)
    common, model_kwargs = _split_options(model_kwargs, _RUN_OPTIONS)
    model, state = get_trainable_sam_model(
        model_type, device, checkpoint_path, freeze, return_state=True, peft_kwargs=peft_kwargs, **model_kwargs
    )
    unetr, is_new = _build_decoder(model.sam.image_encoder, state, device, strict_decoder_loading, decoder)
    arguments = {"model": unetr, "loss": loss, "metric": metric, "train_decoder_norm": is_new, **options}
    settings = {
        "model_type": model_type, "checkpoint_path": checkpoint_path, "freeze": freeze,
        "train_instance_segmentation_only": True, "peft": describe_peft(peft_kwargs), **model_kwargs,
    }  # fmt: skip
    return _make(
        InstanceTrainer, name, train_loader, val_loader, device, unetr.parameters(), settings, arguments, **common
    )


def _make(
    kind: type[ResumableTrainer],
    name: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    device: torch.device,
    parameters: Any,
    settings: dict[str, Any],
    arguments: dict[str, Any],
    lr: float = 1e-5,
    early_stopping: int | None = 10,
    save_root: str | os.PathLike | None = None,
    scheduler_class: Any = torch.optim.lr_scheduler.ReduceLROnPlateau,
    scheduler_kwargs: dict[str, Any] | None = None,
    optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
) -> Any:
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise ParameterError("Nothing would be trained: freeze names all parts of the model; leave one out.")
    fused = {"fused": True} if optimizer_class in (torch.optim.Adam, torch.optim.AdamW) and device.type != "mps" else {}
    optimizer = optimizer_class(trained, lr=lr, **fused)
    if scheduler_kwargs is None:
        is_plateau = scheduler_class is torch.optim.lr_scheduler.ReduceLROnPlateau
        scheduler_kwargs = {"mode": "min", "factor": 0.9, "patience": 3} if is_plateau else {}
    scheduler = None if scheduler_class is None else scheduler_class(optimizer, **scheduler_kwargs)
    settings |= {"name": name, "lr": lr, "early_stopping": early_stopping, "device": str(device)}
    settings |= {"n_parameters": sum(p.numel() for p in trained), **arguments.pop("settings", {})}
    return kind(
        name=name, train_loader=train_loader, val_loader=val_loader, device=device, optimizer=optimizer,
        lr_scheduler=scheduler, early_stopping=early_stopping, settings=settings,
        save_root=None if save_root is None else os.fspath(save_root), **arguments,
    )  # fmt: skip


def _build_decoder(
    encoder: torch.nn.Module, state: dict[str, Any], device: torch.device, strict: bool, kind: str
) -> tuple[torch.nn.Module, bool]:
    """The network of encoder and instance decoder, and whether the decoder starts anew."""
    if kind not in ("unetr", "light"):
        raise ParameterError(f"The decoder is 'unetr' or 'light', got {kind!r}.")
    decoder_state = state.get("decoder_state")
    if decoder_state is None and kind == "light":
        return LightUNETR(encoder).to(device), True
    unetr = get_unetr(encoder, decoder_state, device, flexible_load_checkpoint=not strict)
    if isinstance(unetr, LightDecoder):
        unetr.to(memory_format=torch.channels_last)
    return unetr, decoder_state is None


def _split_options(kwargs: dict[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {k: v for k, v in kwargs.items() if k in names}, {k: v for k, v in kwargs.items() if k not in names}
