"""From prompts for many objects to instances, decoded in batches and upscaled only where the objects are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything import SamPredictor

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.mask_decoding import Prompts, Upscaler, decode_batches

_STABILITY_OFFSET = 1.0
_AUTO_THRESHOLDS = np.linspace(-2, 2, 17)
_AUTO_SHIFT = 0.5
_AUTO_RELUCTANCE = 0.25


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode prompts.

    Attributes:
        batch_size: Prompts at the same time.
        multimask: Let the model propose three masks for each prompt.
        reduce: Of the three, take the one with the best predicted IoU.
        mask_threshold: Where to cut the logits: a number, "auto" for the cut where each mask's edge is sharpest, or None
            for the model's own.
        logits: Keep logits in the records: "low", "high" or None.
        origin: First row and column of the predictor's image (a tile) in the whole image.
    """

    batch_size: int = 32
    multimask: bool = False
    reduce: bool = True
    mask_threshold: float | str | None = None
    logits: str | None = None
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, (int, np.integer)) or self.batch_size < 1:
            raise ParameterError(f"batch_size is a whole number of at least 1, got {self.batch_size!r}.")
        if isinstance(self.mask_threshold, str) and self.mask_threshold != "auto":
            raise ParameterError(f"mask_threshold is a number, 'auto' or None, got {self.mask_threshold!r}.")


def decode_instances(
    predictor: SamPredictor, prompts: Prompts, options: DecodeOptions
) -> Iterator[list[Instance | None]]:
    """For each prompt its masks: one, or three if these are not reduced; None for an empty mask."""
    upscaler = Upscaler.of(predictor)
    for which, logits, ious in decode_batches(predictor, prompts, options.multimask, options.batch_size):
        if options.reduce and logits.shape[1] > 1:
            best = ious.argmax(dim=1, keepdim=True)
            ious = ious.gather(1, best)
            logits = logits.gather(1, best[..., None, None].expand(-1, 1, *logits.shape[2:]))
        masks = logits.flatten(0, 1)
        thresholds = _thresholds(masks, upscaler, predictor, options.mask_threshold)
        stabilities = _stabilities(masks, upscaler, thresholds)
        windows = upscaler.low_res_windows(masks, float(thresholds.min()))
        scores = ious.flatten().cpu().numpy()
        n_masks = logits.shape[1]
        for k in range(which.stop - which.start):
            found = []
            for m in range(k * n_masks, (k + 1) * n_masks):
                facts = {"score": float(scores[m]), "stability": float(stabilities[m])}
                facts["extra"] = _extra(masks[m], upscaler, options)
                facts["point_xy"] = _point(prompts, which.start + k, options)
                found.append(_upscaled(masks[m], windows[m], upscaler, float(thresholds[m]), options, facts))
            yield found


def _upscaled(
    logits: torch.Tensor, window: np.ndarray, upscaler: Upscaler, threshold: float, options: DecodeOptions, facts: dict
) -> Instance | None:
    y0, y1, x0, x1 = (int(v) for v in window)
    if y0 == y1 or x0 == x1:
        return None
    values, y, x = upscaler.window(logits[y0:y1, x0:x1], (y0, y1, x0, x1))
    mask = (values > threshold).cpu().numpy()
    return make_instance(mask, (y + options.origin[0], x + options.origin[1]), **facts)


def _extra(logits: torch.Tensor, upscaler: Upscaler, options: DecodeOptions) -> dict:
    if options.logits is None:
        return {}
    return {"logits": logits if options.logits == "low" else upscaler.full(logits[None, None])[0, 0]}


def _point(prompts: Prompts, index: int, options: DecodeOptions) -> tuple[float, float] | None:
    if prompts.points is None or prompts.labels is None:
        return None
    positive = np.flatnonzero(np.asarray(prompts.labels)[index] == 1)
    if len(positive) == 0:
        return None
    x, y = np.asarray(prompts.points)[index, positive[0]]
    return float(x + options.origin[1]), float(y + options.origin[0])


def _counts(masks: torch.Tensor, upscaler: Upscaler, threshold: float | torch.Tensor) -> np.ndarray:
    inside = masks[:, : upscaler.valid[0], : upscaler.valid[1]]
    return (inside > threshold).sum(dim=(1, 2), dtype=torch.int32).cpu().numpy()


def _stabilities(masks: torch.Tensor, upscaler: Upscaler, thresholds: np.ndarray) -> np.ndarray:
    """IoU of the masks at a higher and a lower threshold, at low resolution."""
    cut = torch.as_tensor(thresholds, dtype=masks.dtype, device=masks.device)[:, None, None]
    low, high = (_counts(masks, upscaler, cut + offset) for offset in (-_STABILITY_OFFSET, _STABILITY_OFFSET))
    return high / np.maximum(low, 1)


def _thresholds(
    masks: torch.Tensor, upscaler: Upscaler, predictor: SamPredictor, threshold: float | str | None
) -> np.ndarray:
    """Where to cut each mask."""
    if threshold != "auto":
        value = predictor.model.mask_threshold if threshold is None else threshold
        return np.full(len(masks), float(value))
    return _AUTO_THRESHOLDS[np.stack([_blur(masks, upscaler, cut) for cut in _AUTO_THRESHOLDS]).argmin(axis=0)]


def _blur(masks: torch.Tensor, upscaler: Upscaler, cut: float) -> np.ndarray:
    """How wide the transition at a cut is: pixels that a small shift adds, by the length of the outline.

    A disc whose logits fall off evenly has the same value at every cut; so that it is cut at 0, others cost a little.
    """
    low, middle, high = (_counts(masks, upscaler, cut + offset) for offset in (-_AUTO_SHIFT, 0.0, _AUTO_SHIFT))
    width = (low - high) / np.sqrt(np.maximum(middle, 1))
    return np.where(middle > 0, (width + 1e-3) * (1 + _AUTO_RELUCTANCE * abs(cut)), np.inf)
