"""Finetuning in one call: `train_sam`, `train_instance_segmentation`, `train_sam_for_configuration`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import ParameterError
from ..progress import Progress, drain
from .configuration import configuration as configuration_values
from .dataset import default_sam_dataset, default_sam_loader
from .export import export_instance_segmentation_model
from .resumable import ResumableTrainer
from .trainers import distance_loss, make_instance_trainer, make_sam_trainer

__all__ = [
    "default_sam_dataset",
    "default_sam_loader",
    "export_instance_segmentation_model",
    "train_instance_segmentation",
    "train_sam",
    "train_sam_for_configuration",
]

logger = logging.getLogger(__name__)


def train_sam(
    name: str,
    model_type: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    n_epochs: int = 100,
    early_stopping: int | None = 10,
    n_objects_per_batch: int | None = 25,
    checkpoint_path: str | os.PathLike | None = None,
    with_segmentation_decoder: bool = True,
    freeze: list[str] | None = None,
    device: str | torch.device | None = None,
    lr: float = 1e-5,
    n_sub_iteration: int = 8,
    save_root: str | os.PathLike | None = None,
    mask_prob: float = 0.5,
    n_iterations: int | None = None,
    scheduler_class: Any = torch.optim.lr_scheduler.ReduceLROnPlateau,
    scheduler_kwargs: dict[str, Any] | None = None,
    save_every_kth_epoch: int | None = None,
    pbar_signals: Any = None,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    peft_kwargs: dict[str, Any] | None = None,
    ignore_warnings: bool = True,
    verify_n_labels_in_loader: int | None = 50,
    box_distortion_factor: float | None = 0.025,
    overwrite_training: bool = True,
    strict_decoder_loading: bool = True,
    verbose: bool = True,
    **model_kwargs: Any,
) -> None:
    """Finetune Segment Anything for interactive and, with the decoder, automatic segmentation.

    Writes ``<save_root>/checkpoints/<name>/`` with ``best.pt``, ``latest.pt``, ``settings.json`` and ``metrics.json``.
    A run that was interrupted goes on with the same arguments and ``overwrite_training=False``, with the same result
    as an unbroken one.

    Args:
        name: What the checkpoint folder is called.
        model_type: A registered model to start from; with `checkpoint_path` it names the encoder.
        train_loader: Images (B, 1 or 3, H, W) in [0, 255] and targets, as `default_sam_loader` gives them.
        val_loader: The same for validation.
        n_epochs: How many epochs to train.
        early_stopping: Stop after this many epochs without a better validation metric; None for never.
        n_objects_per_batch: At most this many objects are prompted in each image.
        checkpoint_path: A model file of your own to start from.
        with_segmentation_decoder: Train the decoder for automatic instance segmentation, too.
        freeze: Parts that are not trained: "image_encoder", "prompt_encoder", "mask_decoder".
        device: Where to train; the best device there is by default.
        lr: Learning rate.
        n_sub_iteration: Rounds of prompts for each batch.
        save_root: The folder for checkpoints and logs; the current one by default.
        mask_prob: How often the last mask is fed back as a prompt.
        n_iterations: How many batches to train, in the place of `n_epochs`.
        scheduler_class: Makes the scheduler of the learning rate, which is stepped after each epoch; None for none.
        scheduler_kwargs: Its arguments.
        save_every_kth_epoch: Keep a checkpoint after every k-th epoch.
        pbar_signals: An object with the signals ``pbar_total``, ``pbar_update`` and ``pbar_description``.
        optimizer_class: Makes the optimizer.
        peft_kwargs: Arguments of `PEFT_Sam` for parameter-efficient finetuning.
        ignore_warnings: Do not show warnings of other libraries.
        verify_n_labels_in_loader: Look for objects in at most this many batches first; None does not look.
        box_distortion_factor: How far corners of box prompts are moved, as a share of the box's side.
        overwrite_training: Begin anew although there are checkpoints. If not, go on from the last one; nothing is done
            if the training is complete.
        strict_decoder_loading: Refuse a decoder that does not fit instead of taking over what fits.
        verbose: Show a progress bar.
        **model_kwargs: ``image_size`` and others, see `get_trainable_sam_model`; and options of the trainers, such as
            ``gradient_accumulation``, ``activation_checkpointing``, ``seed``, ``n_gradient_rounds``, ``decoder`` ("unetr"
            or "light": the kind of decoder to begin with where the model has none).

    Raises:
        ParameterError: The loaders do not give what is needed, or arguments do not fit each other.
        MicroSamError: The model cannot be loaded.
    """
    trainer = make_sam_trainer(
        name=name, model_type=model_type, train_loader=train_loader, val_loader=val_loader,
        early_stopping=early_stopping, n_objects_per_batch=n_objects_per_batch, checkpoint_path=checkpoint_path,
        with_segmentation_decoder=with_segmentation_decoder, freeze=freeze, device=device, lr=lr,
        n_sub_iteration=n_sub_iteration, save_root=save_root, mask_prob=mask_prob, scheduler_class=scheduler_class,
        scheduler_kwargs=scheduler_kwargs, optimizer_class=optimizer_class, peft_kwargs=peft_kwargs,
        box_distortion_factor=box_distortion_factor, strict_decoder_loading=strict_decoder_loading, **model_kwargs,
    )  # fmt: skip
    if verify_n_labels_in_loader is not None:
        check_loaders(train_loader, val_loader, verify_n_labels_in_loader, 4 if with_segmentation_decoder else 1)
    work = _start(trainer, n_epochs, n_iterations, save_every_kth_epoch, overwrite_training)
    _drive(work, verbose, pbar_signals, ignore_warnings)


def train_instance_segmentation(
    name: str,
    model_type: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    n_epochs: int = 100,
    early_stopping: int | None = 10,
    loss: torch.nn.Module | None = None,
    metric: torch.nn.Module | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    freeze: list[str] | None = None,
    device: str | torch.device | None = None,
    lr: float = 1e-5,
    save_root: str | os.PathLike | None = None,
    n_iterations: int | None = None,
    scheduler_class: Any = torch.optim.lr_scheduler.ReduceLROnPlateau,
    scheduler_kwargs: dict[str, Any] | None = None,
    save_every_kth_epoch: int | None = None,
    pbar_signals: Any = None,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    peft_kwargs: dict[str, Any] | None = None,
    ignore_warnings: bool = True,
    overwrite_training: bool = True,
    strict_decoder_loading: bool = True,
    verbose: bool = True,
    **model_kwargs: Any,
) -> None:
    """Finetune for automatic instance segmentation only, which is several times faster than `train_sam`.

    The result cannot be prompted as it is; `export_instance_segmentation_model` adds the parts for prompts.

    Args:
        name: See `train_sam`, as for all arguments that are not listed here.
        model_type: See `train_sam`.
        train_loader: Images (B, 1 or 3, H, W) in [0, 255] and maps (B, 3, H, W), as `default_sam_loader` gives them with
            ``train_instance_segmentation_only=True``.
        val_loader: The same for validation.
        n_epochs: See `train_sam`.
        early_stopping: See `train_sam`.
        loss: Called with predicted and true maps; Dice losses of all three maps by default, the distances inside
            objects only (torch-em's ``DiceBasedDistanceLoss``).
        metric: The same for validation; the loss by default.
        checkpoint_path: See `train_sam`.
        freeze: "image_encoder", or nothing.
        device: See `train_sam`.
        lr: See `train_sam`.
        save_root: See `train_sam`.
        n_iterations: See `train_sam`.
        scheduler_class: See `train_sam`.
        scheduler_kwargs: See `train_sam`.
        save_every_kth_epoch: See `train_sam`.
        pbar_signals: See `train_sam`.
        optimizer_class: See `train_sam`.
        peft_kwargs: See `train_sam`.
        ignore_warnings: See `train_sam`.
        overwrite_training: See `train_sam`.
        strict_decoder_loading: See `train_sam`.
        verbose: See `train_sam`.
        **model_kwargs: See `train_sam`.
    """
    loss = distance_loss() if loss is None else loss
    trainer = make_instance_trainer(
        name=name, model_type=model_type, train_loader=train_loader, val_loader=val_loader,
        early_stopping=early_stopping, loss=loss, metric=loss if metric is None else metric,
        checkpoint_path=checkpoint_path, freeze=freeze, device=device, lr=lr, save_root=save_root,
        scheduler_class=scheduler_class, scheduler_kwargs=scheduler_kwargs, optimizer_class=optimizer_class,
        peft_kwargs=peft_kwargs, strict_decoder_loading=strict_decoder_loading, **model_kwargs,
    )  # fmt: skip
    check_loaders(train_loader, val_loader, 1, 3)
    work = _start(trainer, n_epochs, n_iterations, save_every_kth_epoch, overwrite_training)
    _drive(work, verbose, pbar_signals, ignore_warnings)


def train_sam_for_configuration(
    name: str,
    train_loader: DataLoader,
    val_loader: DataLoader,
    configuration: str | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    with_segmentation_decoder: bool = True,
    train_instance_segmentation_only: bool = False,
    model_type: str | None = None,
    **kwargs: Any,
) -> None:
    """Finetune with settings that suit the hardware.

    Args:
        name: What the checkpoint folder is called.
        train_loader: See `train_sam`.
        val_loader: See `train_sam`.
        configuration: One of `CONFIGURATIONS`; found from the hardware if None.
        checkpoint_path: A model file of your own to start from.
        with_segmentation_decoder: Train the decoder, too.
        train_instance_segmentation_only: Train it only, with `train_instance_segmentation`.
        model_type: The model to start from; by default the configuration's.
        **kwargs: Further arguments of `train_sam` or `train_instance_segmentation`; they win over the configuration.
    """
    values = configuration_values(configuration, kwargs.get("device"))
    if model_type is not None:
        values["model_type"] = model_type
    values |= kwargs
    common = {"name": name, "train_loader": train_loader, "val_loader": val_loader, "checkpoint_path": checkpoint_path}
    if train_instance_segmentation_only:
        for key in ("n_objects_per_batch", "n_sub_iteration"):
            values.pop(key, None)
        train_instance_segmentation(**common, **values)
    else:
        train_sam(**common, with_segmentation_decoder=with_segmentation_decoder, **values)


def check_loaders(train_loader: DataLoader, val_loader: DataLoader, n_batches: int, n_channels: int) -> None:
    """Look into both loaders before anything is computed.

    Raises:
        ParameterError: Shapes are wrong, or there is no object in the first batches.
    """
    for name, loader in (("training", train_loader), ("validation", val_loader)):
        found = False
        for i, (x, y) in enumerate(loader):
            if x.ndim != 4 or x.shape[1] not in (1, 3) or y.ndim != 4 or x.shape[-2:] != y.shape[-2:]:
                raise ParameterError(
                    f"The {name} loader must give images (B, 1 or 3, H, W) and targets (B, channels, H, W), it gives "
                    f"{tuple(x.shape)} and {tuple(y.shape)}: use default_sam_loader."
                )
            if y.shape[1] < n_channels:
                raise ParameterError(
                    f"The {name} loader gives {y.shape[1]} target channels, {n_channels} are needed: make it with "
                    "default_sam_loader and the same settings for the decoder."
                )
            found = found or bool((y[:, 0] > 0).any())
            if found or i + 1 >= n_batches:
                break
        if not found:
            raise ParameterError(f"There is no object in the first {n_batches} batches of the {name} loader.")


def _start(
    trainer: ResumableTrainer, n_epochs: int, n_iterations: int | None, every_kth: int | None, overwrite: bool
) -> Generator[Progress, None, None]:
    epochs = n_epochs if n_iterations is None else None
    return trainer.steps(n_iterations, epochs, save_every_kth_epoch=every_kth, overwrite_training=overwrite)


def _drive(work: Generator[Progress, None, None], verbose: bool, signals: Any, ignore_warnings: bool) -> None:
    with warnings.catch_warnings() if ignore_warnings else nullcontext():
        if ignore_warnings:
            warnings.simplefilter("ignore")
        if signals is None:
            drain(work, verbose)
        else:
            total = getattr(signals, "pbar_total", None)
            text, update = getattr(signals, "pbar_description", None), getattr(signals, "pbar_update", None)
            drain(work, False, lambda n, t: _emit((total, n), (text, t)), lambda n: _emit((update, n)))


def _emit(*pairs: tuple[Any, Any]) -> None:
    for signal, value in pairs:
        if signal is not None:
            signal.emit(value)
