"""The training loop: epochs, checkpoints, early stopping, and going on after an interruption as if there was none."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch_em.trainer import DefaultTrainer

from ..errors import CheckpointError, ParameterError
from ..models.export import save_checkpoint
from ..models.precision import has_native_bfloat16
from ..progress import Progress, drain
from .logger import MetricsFile
from .reproducible import kept_random_state, random_state, seed_everything, set_random_state

logger = logging.getLogger(__name__)

_SCHEDULERS_WITH_METRIC = (torch.optim.lr_scheduler.ReduceLROnPlateau,)
_PLAIN = (bool, int, float, str, type(None))


class ResumableTrainer(DefaultTrainer):
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
        **kwargs: Any,
    ) -> None:
        if gradient_accumulation < 1:
            raise ParameterError(f"gradient_accumulation is at least 1, got {gradient_accumulation}.")
        kwargs["mixed_precision"], kwargs["mixed_precision_dtype"] = _precision(
            kwargs["device"], kwargs.get("mixed_precision", True), kwargs.get("mixed_precision_dtype")
        )
        kwargs.setdefault("logger", None)
        super().__init__(**kwargs)
        self.seed, self.gradient_accumulation = seed, gradient_accumulation
        self.save_interval, self.clip_gradients = save_interval, clip_gradients
        self.freeze_batch_norm, self.settings = freeze_batch_norm, dict(settings or {})
        self.logger: Any = None
        self.best_metric = math.inf
        self.current_metric = math.inf
        self._step_in_epoch = 0
        self._resume_state: dict[str, Any] | None = None
        self._losses: dict[str, float] = {}

    # -- what a kind of training has to say

    def training_step(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, float]:
        """Compute the losses of a batch, call `backward` with `scale` times their sum, and return them by name."""
        raise NotImplementedError

    def validation_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """The scores of a batch by name; "metric" is the one that decides, smaller is better."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """Further entries of the checkpoints."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `extra_state` gave."""

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
        try:
            while self._iteration < self.max_iteration and not self._is_stopped():
                yield from self._epoch_steps()
                self._finish_epoch(save_every_kth_epoch)
                text = f"Epoch {self._epoch}: validation {self.current_metric:.4f}, best {self.best_metric:.4f}"
                yield Progress(self._iteration, self.max_iteration, text)
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
        return self.early_stopping is not None and self._epoch - self._best_epoch > self.early_stopping

    def _epoch_steps(self) -> Iterator[Progress]:
        batches = self._batches()
        self.set_training_mode()
        last_saved = time.monotonic()
        for x, y in batches:
            self._train_on(x, y)
            text = f"Epoch {self._epoch + 1}, loss {sum(self._losses.values()):.3f}"
            yield Progress(self._iteration, self.max_iteration, text)
            if self._iteration >= self.max_iteration:
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

    def _step_optimizer(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
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

    def _finish_epoch(self, save_every_kth_epoch: int | None) -> None:
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

    # -- checkpoints

    def save_checkpoint(self, name: str, *_: Any, **__: Any) -> None:
        """Write ``<name>.pt`` into the checkpoint folder; it has this name only once it is complete."""
        state: dict[str, Any] = {
            "model_state": self.model.state_dict(),
            **self.extra_state(),
            "optimizer_state": self.optimizer.state_dict(),
            "iteration": self._iteration,
            "epoch": self._epoch,
            "step_in_epoch": self._step_in_epoch,
            "best_epoch": self._best_epoch,
            "best_metric": self.best_metric,
            "current_metric": self.current_metric,
            "random_state": random_state(),
            "metrics": self._metrics.state(),
            "settings": _plain(self.settings),
        }
        if self.scaler is not None:
            state["scaler_state"] = self.scaler.state_dict()
        if self.lr_scheduler is not None:
            state["scheduler_state"] = _scheduler_state(self.lr_scheduler)
        if self._step_in_epoch % self.gradient_accumulation:
            state["gradients"] = [p.grad for group in self.optimizer.param_groups for p in group["params"]]
        save_checkpoint(state, Path(self.checkpoint_folder, f"{name}.pt"))

    def load_checkpoint(self, checkpoint: str | os.PathLike | dict[str, Any] = "best") -> dict[str, Any]:
        """Go on from a checkpoint of this class.

        Args:
            checkpoint: "best", "latest", or a path.

        Raises:
            CheckpointError: It cannot be read, or belongs to another network.
        """
        state = checkpoint if isinstance(checkpoint, dict) else self._read(checkpoint)
        try:
            self.model.load_state_dict(state["model_state"])
            self.load_extra_state(state)
            self.optimizer.load_state_dict(state["optimizer_state"])
            if self.scaler is not None and state.get("scaler_state"):
                self.scaler.load_state_dict(state["scaler_state"])
            if self.lr_scheduler is not None and "scheduler_state" in state:
                self.lr_scheduler.load_state_dict(state["scheduler_state"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"The training in {self.checkpoint_folder} cannot go on, it was made with other settings ({reason}): "
                "use the same ones, another name, or overwrite it."
            ) from error
        for name in ("iteration", "epoch", "best_epoch", "step_in_epoch"):
            setattr(self, f"_{name}", state[name])
        self.best_metric, self.current_metric = state["best_metric"], state["current_metric"]
        self._resume_state = state["random_state"] if self._step_in_epoch else None
        self._metrics.set_state(state["metrics"])
        gradients = state.get("gradients")
        if gradients is not None:
            for p, g in zip((p for group in self.optimizer.param_groups for p in group["params"]), gradients):
                p.grad = g
        return state

    def _read(self, checkpoint: str | os.PathLike) -> dict[str, Any]:
        path = Path(checkpoint)
        if str(checkpoint) in ("best", "latest"):
            path = Path(self.checkpoint_folder, f"{checkpoint}.pt")
        try:
            return torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} is not a checkpoint that a training can go on from ({type(error).__name__}): start it anew."
            ) from error


def fix_batch_norm(module: torch.nn.Module) -> None:
    """Let batch norms normalise with the statistics they have, and not change them."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()


@contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, the modules are in evaluation mode and no gradients are computed."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes):
            module.train(mode)


def _precision(device: Any, mixed: bool, dtype: str | None) -> tuple[bool, str]:
    device = torch.device(device)
    if dtype is not None:
        return mixed, dtype
    if has_native_bfloat16(device):
        return mixed, "bfloat16"
    return mixed and device.type == "cuda", "float16"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _scheduler_state(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.state_dict().items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value if _is_plain(value) else str(value) for key, value in settings.items()}
