"""How good a model is on held-out images: IoU of prompted objects, mSA of automatic segmentation; and its best settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from ..evaluation.evaluation import segmentation_scores
from ..evaluation.interactive import interactive_ious
from ..instance_segmentation import InstanceSegmentationWithDecoder
from ..models.decoder_adapter import DecoderAdapter
from ..models.predictor import SamPredictor
from .resumable import evaluating

Sample = tuple[np.ndarray, np.ndarray]

GRID = {
    "center_distance_threshold": (0.4, 0.5, 0.6),
    "boundary_distance_threshold": (0.4, 0.5, 0.6),
    "foreground_threshold": (0.4, 0.5, 0.6, 0.7),
}
_MOST_OBJECTS = 30
_WORSE = 0.02


def held_out_samples(loader: Iterable, n: int) -> list[Sample]:
    """The first n images with objects of a loader: (H, W, 3) uint8 and labels (H, W), negative where unknown."""
    samples: list[Sample] = []
    for x, y in loader:
        for image, labels in zip(x, y):
            labels = labels[0].numpy()
            if len(samples) < n and (labels > 0).any():
                image = image.clamp(0, 255).byte().expand(3, -1, -1)
                samples.append((np.ascontiguousarray(image.permute(1, 2, 0).numpy()), labels.astype(np.int32)))
        if len(samples) >= n:
            break
    return samples


def assess(
    sam: Sam, decoder: torch.nn.Module | None, samples: Sequence[Sample], tune: bool = False
) -> tuple[dict[str, float], dict[str, Any]]:
    """Score a model.

    Args:
        sam: The network.
        decoder: Its instance decoder, or None.
        samples: Images (H, W, 3) and labels.
        tune: Look for the settings of automatic segmentation that suit the images.

    Returns:
        "box_iou" and "point_iou", the mean IoU of objects after one box or point, and with a decoder "ais_msa", the
        mean mSA with the default settings; and the settings found (empty if not asked for or not better).
    """
    modules = [sam] if decoder is None else [sam, decoder]
    with evaluating(*modules):
        predictor = SamPredictor(sam)
        adapter = None if decoder is None else DecoderAdapter(decoder)
        segmenter = None if adapter is None else InstanceSegmentationWithDecoder(predictor, adapter)
        settings: list[dict[str, float]] = [{}]
        if tune and segmenter is not None:
            settings += [dict(zip(GRID, values)) for values in itertools.product(*GRID.values())]
        ious: dict[str, list[np.ndarray]] = {"box": [], "point": []}
        msa = np.zeros((len(samples), len(settings)))
        for i, (image, labels) in enumerate(samples):
            predictor.set_image(image)
            for kind, values in ious.items():
                values.append(interactive_ious(predictor, labels, kind, 0, max_objects=_MOST_OBJECTS)[:, 0])
            if segmenter is not None:
                msa[i] = _msa(predictor, segmenter, adapter, labels, settings)
    scores = {f"{kind}_iou": _rounded(np.concatenate(values)) for kind, values in ious.items()}
    if segmenter is None:
        return scores, {}
    means = msa.mean(0)
    best = int(means.argmax())
    scores["ais_msa"] = _rounded(msa[:, 0])
    if best and means[best] > means[0]:
        return {**scores, "ais_msa_tuned": _rounded(msa[:, best])}, settings[best]
    return scores, {}


def _msa(
    predictor: SamPredictor, segmenter: Any, decoder: Any, labels: np.ndarray, settings: Sequence[Mapping[str, float]]
) -> list[float]:
    """mSA with each of the settings, on the image that is set in the predictor."""
    maps = decoder(predictor.features, predictor.input_size, predictor.original_size)[0].cpu().numpy()
    segmenter.set_state(dict(zip(("foreground", "center_distances", "boundary_distances"), maps)))
    known = labels >= 0
    truth = np.where(known, labels, 0)
    values = []
    for chosen in settings:
        prediction = np.where(known, segmenter.generate(min_size=25, **chosen), 0)
        values.append(segmentation_scores(prediction.astype(np.int32), truth)["mSA"])
    return values


def verdict(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """One sentence: what became better and what worse."""
    changes = {name: after[name] - before[name] for name in before if name in after}
    listed = ", ".join(f"{_LABELS.get(n, n)} {before[n]:.3f} -> {after[n]:.3f}" for n in changes)
    worse = [_LABELS.get(name, name) for name, change in changes.items() if change < -_WORSE]
    if worse:
        return f"The model got WORSE on held-out objects ({', '.join(worse)}): {listed}."
    better = any(change > _WORSE for change in changes.values())
    return f"The model got {'better' if better else 'neither better nor worse'} on held-out objects: {listed}."


_LABELS = {"box_iou": "IoU from a box", "point_iou": "IoU from a point", "ais_msa": "mSA of automatic segmentation"}


def _rounded(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
