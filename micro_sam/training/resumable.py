"""The training loop: epochs, checkpoints, early stopping, and going on after an interruption as if there was none."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch_em.trainer import DefaultTrainer

from ..errors import ParameterError
from ..progress import Progress, drain
from .annealing import Annealing
from .logger import MetricsFile
from .modes import evaluating, fix_batch_norm, training_precision
from .progress import TrainingProgress
from .reproducible import kept_random_state, seed_everything, set_random_state
from .stored import StoredTraining

__all__ = ["ResumableTrainer", "evaluating", "fix_batch_norm"]

logger = logging.getLogger(__name__)

_SCHEDULERS_WITH_METRIC = (torch.optim.lr_scheduler.ReduceLROnPlateau,)


class ResumableTrainer(StoredTraining, DefaultTrainer):
    """torch-em's trainer with a loop that can be stopped anywhere and gone on with, with the same result.

    What happens in an epoch follows from the seed, the epoch's number and the state at its beginning; a checkpoint in
    the middle of an epoch keeps the random number generators, too. Checkpoints hold tensors and plain values only.
    A loader with ``persistent_workers`` is the exception: its workers' random numbers cannot be kept.

    Args:
        seed: What random numbers start from.
        gradient_accumulation: Batches per step of the optimizer.
        save_interval: Seconds after which ``latest.pt`` is written within an epoch, too; None for never.
        clip_gradients: Largest norm of the gradients; None for no limit.
        freeze_batch_norm: Keep the statistics of batch norms, as befits small batches and finetuning.
        settings: Plain values that are stored in the checkpoints and beside them.
        stop: Ends the training when it is set; the epoch that runs is cut short and validated.
        time_limit: Seconds after which it ends in the same way; None for no limit.
        anneal: Raise the learning rate at first and lower it to nothing until the last iteration or the time limit, see
            `Annealing`; in the place of a scheduler.
        **kwargs: Arguments of torch-em's ``DefaultTrainer``. ``mixed_precision_dtype`` is bfloat16 by default where the
            device computes it natively, float16 on other GPUs; on other CPUs ``mixed_precision`` has no effect.
    """

    def __init__(
        self,
        seed: int = 0,
        gradient_accumulation: int = 1,
        save_interval: float | None = 300.0,
        clip_gradients: float | None = None,
        freeze_batch_norm: bool = True,
        settings: dict[str, Any] | None = None,
        stop: threading.Event | None = None,
        time_limit: float | None = None,
        anneal: bool = False,
        **kwargs: Any,
    ) -> None:
        if gradient_accumulation < 1:
            raise ParameterError(f"gradient_accumulation is at least 1, got {gradient_accumulation}.")
        kwargs["mixed_precision"], kwargs["mixed_precision_dtype"] = training_precision(
            kwargs["device"], kwargs.get("mixed_precision", True), kwargs.get("mixed_precision_dtype")
        )
        kwargs.setdefault("logger", None)
        super().__init__(**kwargs)
        self.annealing = Annealing(self.optimizer) if anneal else None
        self.seed, self.gradient_accumulation = seed, gradient_accumulation
        self.save_interval, self.clip_gradients = save_interval, clip_gradients
        self.freeze_batch_norm, self.settings = freeze_batch_norm, dict(settings or {})
        self.stop, self.time_limit = stop or threading.Event(), time_limit
        self.logger: Any = None
        self.best_metric = math.inf
        self.current_metric = math.inf
        self._step_in_epoch = 0
        self._resume_state: dict[str, Any] | None = None
        self._started = 0.0
        self._share_at_start = 0.0
        self._losses: dict[str, float] = {}

    # -- what a kind of training has to say

    def training_step(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, float]:
        """Compute the losses of a batch, call `backward` with `scale` times their sum, and return them by name."""
        raise NotImplementedError

    def validation_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """The scores of a batch by name; "metric" is the one that decides, smaller is better."""
        raise NotImplementedError

    # -- tools for the steps

    def autocast(self) -> AbstractContextManager:
        """Computes in the precision of the training."""
        if not self.mixed_precision:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.mixed_precision_dtype))

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    # -- the loop

    def fit(
        self,
        iterations: int | None = None,
        load_from_checkpoint: str | os.PathLike | None = None,
        epochs: int | None = None,
        save_every_kth_epoch: int | None = None,
        progress: Any = None,
        overwrite_training: bool = True,
        verbose: bool = True,
    ) -> None:
        """Train, see `steps`.

        Args:
            iterations: See `steps`.
            load_from_checkpoint: See `steps`.
            epochs: See `steps`.
            save_every_kth_epoch: See `steps`.
            progress: An object with ``total``, ``update`` and ``set_description``, such as a tqdm bar.
            overwrite_training: See `steps`.
            verbose: Show a tqdm bar if there is no `progress`.
        """
        work = self.steps(iterations, epochs, load_from_checkpoint, save_every_kth_epoch, overwrite_training)
        if progress is None:
            drain(work, verbose)
            return
        done = 0
        for step in work:
            progress.total = step.total
            progress.set_description(step.text)
            progress.update(step.done - done)
            done = step.done

    def steps(
        self,
        iterations: int | None = None,
        epochs: int | None = None,
        load_from_checkpoint: str | os.PathLike | None = None,
        save_every_kth_epoch: int | None = None,
        overwrite_training: bool = True,
    ) -> Generator[Progress, None, None]:
        """Train, as a generator. Closing it writes ``latest.pt``, from which the training can go on.

        Args:
            iterations: How many batches to train in all, or:
            epochs: How many epochs to train in all.
            load_from_checkpoint: A checkpoint to go on from.
            save_every_kth_epoch: Keep a checkpoint ``epoch-<n>.pt`` after every k-th epoch.
            overwrite_training: Begin anew although there are checkpoints; if not, go on from ``latest.pt``, and do
                nothing if the training is complete.

        Yields:
            The batches trained so far, of all.
        """
        self._prepare(iterations, epochs)
        start = Path(self.checkpoint_folder, "latest.pt") if not overwrite_training else None
        start = Path(load_from_checkpoint) if load_from_checkpoint is not None else start
        if start is not None and (load_from_checkpoint is not None or start.exists()):
            self.load_checkpoint(start)
        self._started = time.monotonic()
        self._share_at_start = 0.0 if self.annealing is None else self.annealing.share
        try:
            while self._iteration < self.max_iteration and not self._is_stopped():
                yield from self._epoch_steps()
                scores = self._finish_epoch(save_every_kth_epoch)
                text = f"Epoch {self._epoch}: validation {self.current_metric:.4f}, best {self.best_metric:.4f}"
                is_best = self._best_epoch == self._epoch - 1
                yield TrainingProgress(self._iteration, self.max_iteration, text, scores=scores, is_best=is_best)
        except GeneratorExit:
            self.save_checkpoint("latest")
            raise
        finally:
            self._metrics.write()

    def _prepare(self, iterations: int | None, epochs: int | None) -> None:
        if (iterations is None) == (epochs is None):
            raise ParameterError("Say how long to train by either iterations or epochs.")
        if len(self.train_loader) == 0 or len(self.val_loader) == 0:
            raise ParameterError("The loaders for training and validation must have at least one batch each.")
        self.max_iteration = iterations if epochs is None else epochs * len(self.train_loader)
        self.max_epoch = math.ceil(self.max_iteration / len(self.train_loader))
        for part in self._modules_on_device():
            part.to(self.device)
        folder = Path(self.checkpoint_folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = MetricsFile(folder / "metrics.json")
        self._metrics.write_settings(folder / "settings.json", self.settings)
        if self.logger is None:
            self.logger = None if self.logger_class is None else self.logger_class(self, self.save_root)

    def _modules_on_device(self) -> list[torch.nn.Module]:
        return [part for part in (self.model, self.loss) if isinstance(part, torch.nn.Module)]

    def _is_stopped(self) -> bool:
        is_patient = self.early_stopping is None or self._epoch - self._best_epoch <= self.early_stopping
        return not is_patient or self._is_called_off()

    def _is_called_off(self) -> bool:
        is_late = self.time_limit is not None and time.monotonic() - self._started > self.time_limit
        return is_late or self.stop.is_set()

    def _epoch_steps(self) -> Iterator[Progress]:
        batches = self._batches()
        self.set_training_mode()
        last_saved = time.monotonic()
        for x, y in batches:
            self._train_on(x, y)
            text = f"Epoch {self._epoch + 1}, loss {sum(self._losses.values()):.3f}"
            yield TrainingProgress(self._iteration, self.max_iteration, text, losses=dict(self._losses))
            if self._iteration >= self.max_iteration or self._is_called_off():
                return
            if self.save_interval is not None and time.monotonic() - last_saved > self.save_interval:
                self.save_checkpoint("latest")
                last_saved = time.monotonic()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The epoch's batches, without those that were trained on before the interruption."""
        seed_everything(self.seed, self._epoch)
        batches = iter(self.train_loader)
        if self._resume_state is not None:
            for _ in range(self._step_in_epoch):
                next(batches, None)
            set_random_state(self._resume_state)
            self._resume_state = None
        return batches

    def set_training_mode(self) -> None:
        """Put the networks into training mode, batch norms aside."""
        self.model.train()
        if self.freeze_batch_norm:
            fix_batch_norm(self.model)
        encoder = getattr(getattr(self.model, "sam", self.model), "image_encoder", None)
        if encoder is not None and not any(p.requires_grad for p in encoder.parameters()):
            encoder.eval()

    def _train_on(self, x: torch.Tensor, y: torch.Tensor) -> None:
        is_last = self._iteration + 1 >= self.max_iteration or self._step_in_epoch + 1 == len(self.train_loader)
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        if self._step_in_epoch % self.gradient_accumulation == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self._losses = self.training_step(x, y, 1 / self.gradient_accumulation)
        self._iteration += 1
        self._step_in_epoch += 1
        if self._step_in_epoch % self.gradient_accumulation == 0 or is_last:
            self._step_optimizer()
        self._metrics.add_losses(self._losses)
        if self.logger is not None:
            self.logger.log_step("train", self._iteration, self._losses, self.optimizer.param_groups[0]["lr"])

    def _anneal(self) -> None:
        if self.annealing is None:
            return
        share = self._iteration / self.max_iteration
        if self.time_limit is not None:
            spent = (time.monotonic() - self._started) / self.time_limit
            share = max(share, self._share_at_start + (1 - self._share_at_start) * spent)
        self.annealing.step(share)

    def _step_optimizer(self) -> None:
        self._anneal()
        parameters = self.trained_parameters()
        if self.scaler is None:
            if self.clip_gradients is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_gradients)
            self.optimizer.step()
            return
        if all(p.grad is None for p in parameters):
            return
        self.scaler.unscale_(self.optimizer)
        if self.clip_gradients is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _finish_epoch(self, save_every_kth_epoch: int | None) -> dict[str, float]:
        scores = self.validate()
        self.current_metric = scores["metric"]
        if self.lr_scheduler is not None:
            with_metric = isinstance(self.lr_scheduler, _SCHEDULERS_WITH_METRIC)
            self.lr_scheduler.step(*([self.current_metric] if with_metric else []))
        is_best = self.current_metric < self.best_metric
        if is_best:
            self.best_metric, self._best_epoch = self.current_metric, self._epoch
        rate = self.optimizer.param_groups[0]["lr"]
        self._metrics.add_epoch(self._epoch + 1, self._iteration, rate, scores)
        self._epoch += 1
        self._step_in_epoch = 0
        names = ["best"] if is_best else []
        if save_every_kth_epoch is not None and self._epoch % save_every_kth_epoch == 0:
            names.append(f"epoch-{self._epoch}")
        for name in (*names, "latest"):
            self.save_checkpoint(name)
        self._metrics.write()
        return scores

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Scores on the validation data, the same patches and prompts every time; the means by name."""
        self.model.eval()
        rows = []
        with kept_random_state():
            seed_everything(self.seed, "validation")
            for x, y in self.val_loader:
                rows.append(self.validation_step(x.to(self.device), y.to(self.device)))
        names = {name for row in rows for name in row}
        scores = {n: _mean([row[n] for row in rows if n in row]) for n in sorted(names)}
        scores.setdefault("metric", math.inf)
        if self.logger is not None:
            self.logger.log_step("validation", self._iteration, scores, None)
        return scores


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
