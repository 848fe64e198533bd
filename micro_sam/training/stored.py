"""The checkpoints of a training: everything it needs to go on as if it had never stopped, in tensors and plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models.export import save_checkpoint
from .annealing import Annealing
from .logger import MetricsFile
from .reproducible import random_state

_PLAIN = (bool, int, float, str, type(None))


class StoredTraining:
    """Writes and reads the state of a trainer; a part of `ResumableTrainer`."""

    checkpoint_folder: str | os.PathLike
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    scaler: Any
    lr_scheduler: Any
    annealing: Annealing | None
    gradient_accumulation: int
    settings: dict[str, Any]
    best_metric: float
    current_metric: float
    _iteration: int
    _epoch: int
    _best_epoch: int
    _step_in_epoch: int
    _resume_state: dict[str, Any] | None
    _metrics: MetricsFile

    def extra_state(self) -> dict[str, Any]:
        """Further entries of the checkpoints."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `extra_state` gave."""

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

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
        if self.annealing is not None:
            state["annealed_share"] = self.annealing.share
        if self._step_in_epoch % self.gradient_accumulation:
            state["gradients"] = [p.grad for p in self.trained_parameters()]
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
            if self.annealing is not None:
                self.annealing.resume(state.get("annealed_share", 0.0))
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
            for p, g in zip(self.trained_parameters(), gradients):
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
