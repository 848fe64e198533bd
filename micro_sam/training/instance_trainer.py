"""Training of automatic instance segmentation only: the encoder and the instance decoder."""

from __future__ import annotations

from typing import Any

import torch

from .joint_sam_trainer import JointSamLogger
from .losses import masked_maps
from .resumable import ResumableTrainer


class InstanceTrainer(ResumableTrainer):
    """Trains a network of encoder and decoder to predict foreground and distances.

    Args:
        train_decoder_norm: Let the decoder's batch norms learn their statistics, for a decoder that starts anew.
        **kwargs: Arguments of `ResumableTrainer`: the model is one that `get_unetr` returned; loss and metric are called
            with predicted and true maps (B, 3, H, W), zero where the labels are unknown.
    """

    def __init__(self, train_decoder_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"logger": JointSamLogger, **kwargs})
        self.train_decoder_norm = train_decoder_norm

    def set_training_mode(self) -> None:
        """See `ResumableTrainer.set_training_mode`."""
        super().set_training_mode()
        if self.train_decoder_norm:
            for name, part in self.model.named_modules():
                if not name.startswith("encoder") and isinstance(part, torch.nn.BatchNorm2d):
                    part.train()

    def training_step(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, float]:
        """See `ResumableTrainer.training_step`."""
        maps, loss = self._maps_and_score(x, y, self.loss)
        self.backward(loss * scale)
        if self.logger is not None and self.logger.wants_pictures(self._iteration):
            self.logger.log_pictures("train", self._iteration, image=x[0], truth=y[0, -3:].clamp(min=0), maps=maps[0])
        return {"instance": loss.item()}

    def validation_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """See `ResumableTrainer.validation_step`."""
        _, metric = self._maps_and_score(x, y, self.metric)
        return {"metric": float(metric)}

    def _maps_and_score(self, x: torch.Tensor, y: torch.Tensor, score: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        with self.autocast():
            maps = self.model(x.float())
        return maps, score(*masked_maps(maps.float(), y[:, -3:], y[:, :1] >= 0))
