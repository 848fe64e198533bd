"""What propagation gives: a segmentation, how far each object reaches, and how sure each slice is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Origin = Literal["annotated", "propagated", "interpolated"]


@dataclass(frozen=True)
class SliceScore:
    """How much an object's mask in one slice can be trusted.

    Attributes:
        predicted_iou: The quality the model predicts for its mask.
        overlap: IoU with the mask it was prompted by, that of the neighbouring slice.
        agreement: IoU of the masks that came from both sides, where two met; else None.
        origin: "annotated", "propagated", or "interpolated" where the model found nothing between two annotations.
    """

    predicted_iou: float = 1.0
    overlap: float = 1.0
    agreement: float | None = None
    origin: Origin = "annotated"

    @property
    def score(self) -> float:
        """One number from 0 to 1, 1 for annotated slices: the product of what is known."""
        known = (self.predicted_iou, self.overlap, 1.0 if self.agreement is None else self.agreement)
        return float(np.prod(np.clip(known, 0, 1)))


@dataclass
class PropagationResult:
    """Objects followed through slices or frames.

    It is filled while the work goes on, and complete as far as the work went when that is cancelled.

    Attributes:
        segmentation: Labels (Z, Y, X) or (T, Y, X): the ids of the objects, 0 elsewhere.
        scores: For each object, by slice in ascending order, how sure its mask is.
        ended: For each object the slices before which it ended on its own, because the overlap fell below the
            threshold or its mask was empty.
    """

    segmentation: Any
    scores: dict[int, dict[int, SliceScore]] = field(default_factory=dict)
    ended: dict[int, list[int]] = field(default_factory=dict)

    def z_range(self, label: int) -> tuple[int, int]:
        """The first and the last slice of an object, both inclusive."""
        return min(self.scores[label]), max(self.scores[label])

    @property
    def z_ranges(self) -> dict[int, tuple[int, int]]:
        """The first and the last slice of each object, both inclusive."""
        return {label: self.z_range(label) for label in self.scores}

    def score_table(self) -> tuple[list[int], np.ndarray]:
        """The ids, and the scores as float32 (number of objects, Z); NaN where an object is not."""
        labels = list(self.scores)
        table = np.full((len(labels), len(self.segmentation)), np.nan, dtype=np.float32)
        for row, label in enumerate(labels):
            for z, score in self.scores[label].items():
                table[row, z] = score.score
        return labels, table

    def doubtful(self, threshold: float = 0.5) -> list[tuple[int, int, float]]:
        """Slices to look at, the most doubtful first: (object, slice, score) wherever the score is below a threshold."""
        found = [
            (label, z, score.score)
            for label, by_slice in self.scores.items()
            for z, score in by_slice.items()
            if score.score < threshold
        ]
        return sorted(found, key=lambda entry: entry[2])
