"""Training of interactive and automatic segmentation together: one encoder, prompts and the instance decoder."""

from __future__ import annotations

from typing import Any

import torch

from .losses import masked_maps
from .resumable import fix_batch_norm
from .sam_trainer import SamLogger, SamTrainer
from .trainable_sam import Encoded


class JointSamLogger(SamLogger):
    """Tensorboard curves and pictures of `JointSamTrainer`."""


class JointSamTrainer(SamTrainer):
    """`SamTrainer` with a decoder for automatic instance segmentation on the same embeddings.

    Args:
        unetr: The decoder behind the model's encoder, from `get_unetr`.
        instance_loss: Called with predicted and true maps (B, 3, H, W), zero where the labels are unknown.
        instance_metric: The same for validation.
        train_decoder_norm: Let the decoder's batch norms learn their statistics, for a decoder that starts anew.
        **kwargs: Arguments of `SamTrainer`.
    """

    def __init__(
        self,
        unetr: torch.nn.Module,
        instance_loss: torch.nn.Module,
        instance_metric: torch.nn.Module,
        train_decoder_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"logger": JointSamLogger, **kwargs})
        self.unetr, self.instance_loss, self.instance_metric = unetr, instance_loss, instance_metric
        self.train_decoder_norm = train_decoder_norm

    def _modules_on_device(self) -> list[torch.nn.Module]:
        return [*super()._modules_on_device(), self.unetr]

    def set_training_mode(self) -> None:
        """See `ResumableTrainer.set_training_mode`."""
        self.unetr.train()
        super().set_training_mode()
        if self.freeze_batch_norm and not self.train_decoder_norm:
            fix_batch_norm(self.unetr)

    def extra_state(self) -> dict[str, Any]:
        """The decoder's weights, as ``decoder_state``."""
        state = {k: v for k, v in self.unetr.state_dict().items() if not k.startswith("encoder.")}
        return {"decoder_state": state}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the decoder's weights."""
        missing, unexpected = self.unetr.load_state_dict(state["decoder_state"], strict=False)
        if unexpected or any(not name.startswith("encoder.") for name in missing):
            raise ValueError("its instance decoder has another architecture")

    def other_losses(
        self, features: torch.Tensor, encoded: Encoded, x: torch.Tensor, y: torch.Tensor, scale: float
    ) -> dict[str, float]:
        """The decoder's loss."""
        with self.autocast():
            maps = self.unetr.decode(features, encoded.input_shape, encoded.original_shape)
        loss = self.instance_loss(*masked_maps(maps.float(), y[:, 1:], y[:, :1] >= 0))
        self.backward(loss * scale)
        if self.logger is not None and self.logger.wants_pictures(self._iteration):
            self._log_maps("train_decoder", x, y, maps)
        return {"instance": loss.item()}

    def other_scores(self, encoded: Encoded, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """The decoder's metric."""
        self.unetr.eval()
        with self.autocast():
            maps = self.unetr.decode(encoded.features, encoded.input_shape, encoded.original_shape)
        metric = float(self.instance_metric(*masked_maps(maps.float(), y[:, 1:], y[:, :1] >= 0)))
        if self.logger is not None:
            self._log_maps("validation_decoder", x, y, maps)
        return {"instance": metric, "metric": metric}

    def _log_maps(self, kind: str, x: torch.Tensor, y: torch.Tensor, maps: torch.Tensor) -> None:
        self.logger.log_pictures(kind, self._iteration, image=x[0], truth=y[0, 1:4].clamp(min=0), maps=maps[0])
