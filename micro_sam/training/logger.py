"""What is written down during a training: a file of metrics always, tensorboard where it is installed."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..io.paths import replacing

logger = logging.getLogger(__name__)


class MetricsFile:
    """Losses and scores of every epoch in a JSON file.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs: list[dict[str, float]] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add_losses(self, losses: dict[str, float]) -> None:
        """The losses of a batch."""
        for name, value in losses.items():
            self._sums[name] += value
            self._counts[name] += 1

    def add_epoch(self, epoch: int, iteration: int, learning_rate: float, scores: dict[str, float]) -> None:
        """An epoch is over: keep the mean losses and the validation scores."""
        losses = {f"train_{name}": self._sums[name] / self._counts[name] for name in self._sums}
        row = {"epoch": epoch, "iteration": iteration, "learning_rate": learning_rate, **losses}
        self.epochs.append(row | {f"validation_{name}": value for name, value in scores.items()})
        self._sums.clear()
        self._counts.clear()

    def write(self) -> None:
        """Write what is known."""
        rows = [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in self.epochs]
        write_json(self.path, {"epochs": rows})

    def write_settings(self, path: Path, settings: dict[str, Any]) -> None:
        """Write the settings of the training."""
        write_json(path, settings)

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"epochs": [dict(row) for row in self.epochs], "sums": dict(self._sums), "counts": dict(self._counts)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.epochs = [dict(row) for row in state["epochs"]]
        self._sums = defaultdict(float, state["sums"])
        self._counts = defaultdict(int, state["counts"])


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a JSON file, which has its name only once it is complete."""
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


class TensorboardLog:
    """Curves and pictures for tensorboard; nothing is written if tensorboard is not installed.

    Args:
        trainer: The trainer.
        save_root: The folder in which ``logs/<name>`` is written; the current one if None.
    """

    def __init__(self, trainer: Any, save_root: str | os.PathLike | None, **_: Any) -> None:
        self.trainer = trainer
        self.log_dir = Path(save_root or ".", "logs", trainer.name)
        self.writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("tensorboard is not installed, the metrics are in %s only", trainer.checkpoint_folder)
        else:
            self.writer = SummaryWriter(str(self.log_dir))

    def log_step(self, kind: str, step: int, values: dict[str, float], learning_rate: float | None) -> None:
        """Add a point to the curves of "train" or "validation"."""
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)
        if learning_rate is not None:
            self.writer.add_scalar(f"{kind}/learning_rate", learning_rate, step)

    def wants_pictures(self, step: int) -> bool:
        """Whether it is time for pictures."""
        return self.writer is not None and step % self.trainer.log_image_interval == 0

    def log_pictures(self, kind: str, step: int, **pictures: torch.Tensor) -> None:
        """Add pictures (H, W) or (3, H, W), scaled to their range, in one row."""
        if self.writer is None:
            return
        tiles = [_to_tile(picture) for picture in pictures.values()]
        self.writer.add_image(f"{kind}/{'_'.join(pictures)}", torch.cat(tiles, dim=2), step)
        self.writer.flush()


def _to_tile(picture: torch.Tensor, side: int = 256) -> torch.Tensor:
    """(3, side, side) in [0, 1]."""
    picture = picture.detach().float().cpu()
    picture = picture if picture.ndim == 3 else picture[None]
    low, high = picture.min(), picture.max()
    picture = ((picture - low) / (high - low).clamp(min=1e-6))[:3].expand(3, -1, -1)
    return F.interpolate(picture[None], (side, side), mode="nearest")[0]
