"""How good a model is on held-out images: IoU of prompted objects, mSA of automatic segmentation; and its best settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam

from ..evaluation.evaluation import segmentation_scores
from ..evaluation.interactive import interactive_ious
from ..instance_segmentation import InstanceSegmentationWithDecoder
from ..labels import object_windows
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


@dataclass(frozen=True)
class Assessment:
    """How good a model is.

    Attributes:
        scores: "box_iou" and "point_iou", the mean IoU of objects after one box or point, and with a decoder "ais_msa",
            the mean mSA with the default settings ("ais_msa_tuned" with those found).
        defaults: Settings of automatic segmentation that suit the images; empty if not asked for or not better.
        segmentations: What was segmented in each image (H, W): automatically with the default settings, or without a
            decoder from the boxes of its objects.
        of_each: The score of each image: its mSA, or without a decoder the mean IoU from boxes.
    """

    scores: dict[str, float] = field(default_factory=dict)
    defaults: dict[str, float] = field(default_factory=dict)
    segmentations: list[np.ndarray] = field(default_factory=list)
    of_each: list[float] = field(default_factory=list)


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


def assess(sam: Sam, decoder: torch.nn.Module | None, samples: Sequence[Sample], tune: bool = False) -> Assessment:
    """Score a model.

    Args:
        sam: The network.
        decoder: Its instance decoder, or None.
        samples: Images (H, W, 3) and labels.
        tune: Look for the settings of automatic segmentation that suit the images.
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
        msa, shown = np.zeros((len(samples), len(settings))), []
        for i, (image, labels) in enumerate(samples):
            predictor.set_image(image)
            for kind, values in ious.items():
                values.append(interactive_ious(predictor, labels, kind, 0, max_objects=_MOST_OBJECTS)[:, 0])
            if segmenter is None:
                shown.append(_from_boxes(predictor, labels))
            else:
                msa[i], default = _msa(predictor, segmenter, adapter, labels, settings)
                shown.append(default)
    scores = {f"{kind}_iou": _rounded(np.concatenate(values)) for kind, values in ious.items()}
    if segmenter is None:
        return Assessment(scores, {}, shown, [_rounded(values) for values in ious["box"]])
    means, of_each = msa.mean(0), [round(float(value), 4) for value in msa[:, 0]]
    best = int(means.argmax())
    scores["ais_msa"] = _rounded(msa[:, 0])
    if best and means[best] > means[0]:
        return Assessment({**scores, "ais_msa_tuned": _rounded(msa[:, best])}, settings[best], shown, of_each)
    return Assessment(scores, {}, shown, of_each)


def _from_boxes(predictor: SamPredictor, labels: np.ndarray) -> np.ndarray:
    """The objects as they are segmented from their bounding boxes."""
    found = np.zeros(labels.shape, np.int32)
    for label, (y, x) in object_windows(np.where(labels > 0, labels, 0)).items():
        box = np.array([x.start, y.start, x.stop, y.stop])
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        found[masks[0] & (labels >= 0)] = label
    return found


def _msa(
    predictor: SamPredictor, segmenter: Any, decoder: Any, labels: np.ndarray, settings: Sequence[Mapping[str, float]]
) -> tuple[list[float], np.ndarray]:
    """mSA with each of the settings, on the image that is set in the predictor; and the result with the first of them."""
    maps = decoder(predictor.features, predictor.input_size, predictor.original_size)[0].cpu().numpy()
    segmenter.set_state(dict(zip(("foreground", "center_distances", "boundary_distances"), maps)))
    known = labels >= 0
    truth = np.where(known, labels, 0)
    values, first = [], None
    for chosen in settings:
        prediction = np.where(known, segmenter.generate(min_size=25, **chosen), 0).astype(np.int32)
        first = prediction if first is None else first
        values.append(segmentation_scores(prediction, truth)["mSA"])
    return values, first


def worse_scores(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """The names of the scores that became clearly worse."""
    return [name for name in before if name in after and after[name] - before[name] < -_WORSE]


def verdict(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """One sentence: what became better and what worse."""
    changes = {name: after[name] - before[name] for name in before if name in after}
    listed = ", ".join(f"{LABELS.get(n, n)} {before[n]:.3f} -> {after[n]:.3f}" for n in changes)
    worse = [LABELS.get(name, name) for name in worse_scores(before, after)]
    if worse:
        return f"The model got WORSE on held-out objects ({', '.join(worse)}): {listed}."
    better = any(change > _WORSE for change in changes.values())
    return f"The model got {'better' if better else 'neither better nor worse'} on held-out objects: {listed}."


LABELS = {"box_iou": "IoU from a box", "point_iou": "IoU from a point", "ais_msa": "mSA of automatic segmentation"}


def _rounded(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
