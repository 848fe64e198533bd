"""Training of interactive segmentation: iterative prompting as in Kirillov et al., "Segment Anything" (2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..prompt_generators import IterativePromptGenerator, PromptGeneratorBase
from .logger import TensorboardLog
from .losses import EachMask, MaskLoss, mask_ious
from .objects import Objects, box_or_point, corrections, gather_objects, is_single_point
from .resumable import ResumableTrainer
from .trainable_sam import Encoded, prompt_tokens

_VALIDATION_ROUNDS = 3
_OTHER_MASKS = 0.1  # weight of the best of the three masks where the prompt is not ambiguous


class SamLogger(TensorboardLog):
    """Tensorboard curves and pictures of `SamTrainer`."""


class SamTrainer(ResumableTrainer):
    """Trains a `TrainableSAM` to segment objects from prompts.

    Each image is encoded once. Its objects get a box or a point, by chance, then corrections from where the last
    prediction is wrong, with the last mask fed back. Every round is decoded for all objects of the batch together and
    carries gradients, which are collected at the embeddings and go through the encoder once.

    Args:
        convert_inputs: A `ConvertToSamInputs`, or something that is called like one.
        n_sub_iteration: Rounds of prompts for each batch.
        n_objects_per_batch: At most this many objects of each image; None takes all.
        mse_loss: Loss of the predicted IoUs.
        prompt_generator: Makes the corrections; the default gives one point in the region that is wrong.
        mask_prob: How often the last mask is fed back.
        mask_loss: Loss of masks, called with probabilities and targets; `MaskLoss` by default.
        n_gradient_rounds: How many of the rounds, the first and others by chance, carry gradients; None for all. Fewer
            rounds save time where decoding prompts is what takes it.
        objects_per_pass: Objects decoded together, which bounds the memory; None decodes all.
        **kwargs: Arguments of `ResumableTrainer`.
    """

    def __init__(
        self,
        convert_inputs: Callable,
        n_sub_iteration: int,
        n_objects_per_batch: int | None = None,
        mse_loss: torch.nn.Module | None = None,
        prompt_generator: PromptGeneratorBase | None = None,
        mask_prob: float = 0.5,
        mask_loss: torch.nn.Module | None = None,
        n_gradient_rounds: int | None = None,
        objects_per_pass: int | None = None,
        **kwargs: Any,
    ) -> None:
        loss = MaskLoss() if mask_loss is None else mask_loss
        kwargs = {"loss": loss, "metric": mask_ious, "logger": SamLogger, **kwargs}
        super().__init__(**kwargs)
        self.convert_inputs = convert_inputs
        self.n_sub_iteration, self.n_objects_per_batch = n_sub_iteration, n_objects_per_batch
        self.mse_loss = torch.nn.MSELoss() if mse_loss is None else mse_loss
        self.prompt_generator = IterativePromptGenerator() if prompt_generator is None else prompt_generator
        self.mask_prob = mask_prob
        self.mask_loss = loss if isinstance(loss, MaskLoss) else EachMask(loss)
        self.n_gradient_rounds, self.objects_per_pass = n_gradient_rounds, objects_per_pass

    def training_step(self, x: torch.Tensor, y: torch.Tensor, scale: float) -> dict[str, float]:
        """See `ResumableTrainer.training_step`."""
        with self.autocast():
            encoded = self.model.encode(x)
        leaf = encoded.features.detach().requires_grad_(encoded.features.requires_grad)
        losses = self.other_losses(leaf, encoded, x, y, scale)
        losses |= self._prompt_losses(leaf, encoded, x, y, scale)
        if leaf.grad is not None:
            encoded.features.backward(leaf.grad)
        return losses

    def other_losses(
        self, features: torch.Tensor, encoded: Encoded, x: torch.Tensor, y: torch.Tensor, scale: float
    ) -> dict[str, float]:
        """Further losses on the embeddings; calls `backward`."""
        return {}

    def initial_prompts(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """First prompts: coordinates (n, k, 2), labels (n, k), and the ids of each image's chosen objects."""
        items, ids = self.convert_inputs(x, y[:, :1], 1, 0, get_boxes=True, n_samples=self.n_objects_per_batch)
        tokens = [prompt_tokens(item, self.device) for item, chosen in zip(items, ids) if len(chosen)]
        if not tokens:
            return torch.zeros(0, 2, 2), torch.zeros(0, 2), ids
        coords, labels = (torch.cat(parts) for parts in zip(*tokens))
        coords, labels = box_or_point(coords, labels, box_share=0.5)
        return coords, labels, ids

    def _prompt_losses(
        self, features: torch.Tensor, encoded: Encoded, x: torch.Tensor, y: torch.Tensor, scale: float
    ) -> dict[str, float]:
        coords, labels, ids = self.initial_prompts(x, y)
        objects = gather_objects(y[:, 0], ids, encoded, 4 * features.shape[-1])
        if len(objects) == 0:
            return {}
        trained = self._rounds_with_gradients()
        previous, sums = None, torch.zeros(2)
        for i in range(self.n_sub_iteration):
            weight = scale / len(trained) if i in trained else None
            logits, losses = self._round(features, objects, coords, labels, previous, weight)
            sums += losses
            if i == 0 and self.logger is not None and self.logger.wants_pictures(self._iteration):
                self._log(x, objects, logits)
            if i + 1 < self.n_sub_iteration:
                points, kinds = corrections(objects, logits, self.prompt_generator)
                coords, labels = torch.cat([coords, points], 1), torch.cat([labels, kinds], 1)
                previous = logits.clamp(-32, 32) if torch.rand(()) < self.mask_prob else None
        mask, iou = (sums / len(trained)).tolist()
        return {"mask": mask, "iou": iou}

    def _rounds_with_gradients(self) -> set[int]:
        n = self.n_gradient_rounds
        if n is None or n >= self.n_sub_iteration:
            return set(range(self.n_sub_iteration))
        return {0, *(1 + torch.randperm(self.n_sub_iteration - 1)[: n - 1]).tolist()}

    def _round(
        self,
        features: torch.Tensor,
        objects: Objects,
        coords: torch.Tensor,
        labels: torch.Tensor,
        previous: torch.Tensor | None,
        weight: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode all objects; with a weight, add the gradients of their losses.

        Returns:
            The single masks' logits (n, s, s), detached, and the sums (mask loss, IoU loss) per object.
        """
        n = len(objects)
        results, sums = [], torch.zeros(2)
        for start in range(0, n, self.objects_per_pass or n):
            part = slice(start, start + (self.objects_per_pass or n))
            some = objects[part]
            before = None if previous is None else previous[part]
            with torch.set_grad_enabled(weight is not None):
                with self.autocast():
                    logits, iou = self.model.decode(
                        features.index_select(0, some.image_index), coords[part], labels[part], before
                    )
                if weight is not None:
                    mask_loss, iou_loss = self._losses_of(logits, iou, some, labels[part])
                    share = len(some) / n
                    self.backward((mask_loss + iou_loss) * (share * weight))
                    sums += torch.tensor([mask_loss.item(), iou_loss.item()]) * share
            results.append(logits[:, 0].detach())
        return torch.cat(results), sums

    def _losses_of(
        self, logits: torch.Tensor, iou: torch.Tensor, objects: Objects, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The single mask's loss, and the best of the other three, which count where one point may mean several things."""
        each = self.mask_loss(logits, objects.masks, objects.valid)
        loss = each[:, 0]
        if logits.shape[1] > 1:
            weight = torch.where(is_single_point(labels), 1.0, _OTHER_MASKS)
            loss = loss + weight * each[:, 1:].amin(1)
        return loss.mean(), self.mse_loss(iou, mask_ious(logits.detach(), objects.masks, objects.valid))

    def validation_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """IoU after a first prompt and after corrections; the metric is one minus their mean."""
        with self.autocast():
            encoded = self.model.encode(x)
        scores = self.other_scores(encoded, x, y)
        coords, labels, ids = self.initial_prompts(x, y)
        objects = gather_objects(y[:, 0], ids, encoded, 4 * encoded.features.shape[-1])
        if len(objects) == 0:
            return scores
        previous, rounds = None, []
        for i in range(min(_VALIDATION_ROUNDS, self.n_sub_iteration)):
            previous, _ = self._round(encoded.features, objects, coords, labels, previous, None)
            rounds.append(float(mask_ious(previous[:, None], objects.masks, objects.valid).mean()))
            if i == 0 and self.logger is not None:
                self._log(x, objects, previous, "validation")
            points, kinds = corrections(objects, previous, self.prompt_generator)
            coords, labels = torch.cat([coords, points], 1), torch.cat([labels, kinds], 1)
        metric = 1 - sum(rounds) / len(rounds)
        return {**scores, "iou": rounds[0], "iou_corrected": rounds[-1], "metric": scores.get("metric", 0.0) + metric}

    def other_scores(self, encoded: Encoded, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
        """Further scores; a "metric" among them is added to the metric of the masks."""
        return {}

    def _log(self, x: torch.Tensor, objects: Objects, logits: torch.Tensor, kind: str = "train") -> None:
        first = objects.image_index == objects.image_index[0]
        self.logger.log_pictures(
            kind,
            self._iteration,
            image=x[objects.image_index[0]],
            truth=objects.masks[first].amax(0),
            masks=logits[first].sigmoid().amax(0),
        )
