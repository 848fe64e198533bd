"""Training of semantic segmentation: every pixel gets a class, without prompts.

As in Archit et al., "MedicoSAM" (2025): the mask decoder predicts one map for each class from the embedding alone; its
mask outputs stand for the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ParameterError
from .resumable import ResumableTrainer
from .sam_trainer import SamLogger
from .trainable_sam import Encoded


class CustomDiceLoss(nn.Module):
    """Mean Dice loss of the classes, background included; negative targets are unknown and do not count.

    Args:
        num_classes: Number of classes with background.
        softmax: Whether predictions are logits.
    """

    def __init__(self, num_classes: int, softmax: bool = True) -> None:
        super().__init__()
        if num_classes < 2:
            raise ParameterError(f"num_classes counts the background and is at least 2, got {num_classes}.")
        self.num_classes, self.softmax = num_classes, softmax

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            pred: (B, num_classes, ...) logits or probabilities.
            target: (B, 1, ...) or (B, ...) class of each pixel.
        """
        return 1 - self.scores(pred, target).mean()

    def scores(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Dice score of each class, (num_classes,)."""
        target = target[:, 0] if target.ndim == pred.ndim else target
        valid = (target >= 0)[:, None]
        probability = (pred.float().softmax(1) if self.softmax else pred.float()) * valid
        one_hot = F.one_hot(target.long().clamp(0, self.num_classes - 1), self.num_classes).movedim(-1, 1) * valid
        axes = [0, *range(2, pred.ndim)]
        overlap = 2 * (probability * one_hot).sum(axes) + 1e-5
        return overlap / (probability.square().sum(axes) + one_hot.sum(axes) + 1e-5)


class SemanticSamTrainer(ResumableTrainer):
    """Trains a `TrainableSAM` made with ``num_multimask_outputs=num_classes`` to predict classes.

    Args:
        convert_inputs: Makes the model's inputs of a batch, see `ConvertToSemanticSamInputs`; None takes them as they are.
        num_classes: Number of classes with background.
        dice_weight: Weight of the Dice loss, the rest is cross entropy; None for Dice only.
        **kwargs: Arguments of `ResumableTrainer`; images (B, C, H, W) and classes (B, 1, H, W), negative is unknown.
    """

    def __init__(
        self, convert_inputs: Callable | None, num_classes: int, dice_weight: float | None = None, **kwargs: Any
    ) -> None:
        loss = CustomDiceLoss(num_classes)
        super().__init__(**{"loss": loss, "metric": loss, "logger": SamLogger, **kwargs})
        if dice_weight is not None and not 0 <= dice_weight <= 1:
            raise ParameterError(f"dice_weight is between 0 and 1, got {dice_weight}.")
        self.convert_inputs, self.num_classes, self.dice_weight = convert_inputs, num_classes, dice_weight
        self._dice = CustomDiceLoss(num_classes)

    def training_step(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, float]:
        """See `ResumableTrainer.training_step`."""
        logits = self.predict(x)
        loss = self.semantic_loss(logits, y)
        self.backward(loss * scale)
        if self.logger is not None and self.logger.wants_pictures(self._iteration):
            self._log("train", x, y, logits)
        return {"semantic": loss.item()}

    @torch.no_grad()
    def validation_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """One minus the mean Dice, and the Dice of each class."""
        logits = self.predict(x)
        dice = self._dice.scores(F.one_hot(logits.argmax(1), self.num_classes).movedim(-1, 1) * 1e4, y)
        if self.logger is not None:
            self._log("validation", x, y, logits)
        classes = {f"dice_{i}": float(value) for i, value in enumerate(dice)}
        return {**classes, "metric": 1 - float(dice.mean())}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes, ...) of images."""
        if self.convert_inputs is not None:
            x = torch.stack([item["image"] for item in self.convert_inputs(x, None)])
        with self.autocast():
            return predict_classes(self.model, x)

    def semantic_loss(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Dice loss, and cross entropy where it has a weight."""
        dice = self.loss(logits, y)
        if self.dice_weight is None:
            return dice
        target = y[:, 0].long()
        if not (target >= 0).any():
            return dice
        entropy = F.cross_entropy(logits.float(), target.clamp(min=-1), ignore_index=-1)
        return self.dice_weight * dice + (1 - self.dice_weight) * entropy

    def _log(self, kind: str, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> None:
        image, truth, found = x[0], y[0, 0], logits[0].argmax(0)
        if truth.ndim == 3:  # a volume: its central slice
            middle = len(truth) // 2
            image, truth, found = image[:, middle], truth[middle], found[middle]
        self.logger.log_pictures(kind, self._iteration, image=image, truth=truth, classes=found)


class SemanticMapsSamTrainer(SemanticSamTrainer):
    """`SemanticSamTrainer` for a model that gives the maps itself: called with images (B, C, ...), returns logits.

    `micro_sam.models.decoder_adapter.get_unetr` with ``out_channels=num_classes`` and ``final_activation=None`` makes one.
    """

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes, ...) of images."""
        if self.convert_inputs is not None:
            x = torch.stack([item["image"] for item in self.convert_inputs(x, None)])
        with self.autocast():
            logits = self.model(x.float())
        return logits["masks"] if isinstance(logits, dict) else logits


def predict_classes(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits (B, num_classes, H, W) of a `TrainableSAM` whose mask outputs stand for classes.

    Args:
        model: The model.
        x: Images (B, 1 or 3, H, W) with values in [0, 255].
    """
    encoded: Encoded = model.encode(x)
    coords = encoded.features.new_zeros(len(x), 0, 2)
    labels = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    logits, _ = model.decode(encoded.features, coords, labels)
    return model.sam.postprocess_masks(logits[:, 1:], encoded.input_shape, encoded.original_shape)
