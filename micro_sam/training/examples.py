"""What a model makes of held-out images before and after a training: kept beside the checkpoints, and drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.overlay import draw_overlay
from ..io.paths import replacing
from ..labels import object_windows
from .assess import Assessment, Sample

FILE_NAME, PICTURE_NAME = "examples.npz", "examples.png"

_MOST = 4
_GAP = 8


@dataclass(frozen=True, eq=False)
class Example:
    """A held-out image with its annotation, and what the model made of it.

    Attributes:
        image: (H, W, 3) uint8.
        truth: Its annotated objects (H, W), negative where unknown.
        before: What was segmented before the training (H, W).
        after: What was segmented after it (H, W).
        scores: The score of the image before and after: mSA of automatic segmentation, or without a decoder the mean IoU
            from boxes.
    """

    image: np.ndarray
    truth: np.ndarray
    before: np.ndarray
    after: np.ndarray
    scores: tuple[float, float]

    def pictures(self) -> list[np.ndarray]:
        """Annotation, result before and result after, as outlines on the image without its padding; each RGB uint8."""
        known = object_windows((self.truth >= 0).astype(np.int32))[1]
        found = (np.maximum(labels, 0)[known] for labels in (self.truth, self.before, self.after))
        return [draw_overlay(self.image[known], labels) for labels in found]


def write_before(folder: str | os.PathLike, samples: Sequence[Sample], before: Assessment) -> None:
    """Keep what the model made of the images before the training."""
    arrays = {"scores": np.array(before.of_each[:_MOST])}
    for i, ((image, truth), found) in enumerate(zip(samples[:_MOST], before.segmentations)):
        arrays |= {f"image_{i}": image, f"truth_{i}": truth, f"before_{i}": found}
    with replacing(Path(folder, FILE_NAME)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_examples(folder: str | os.PathLike, after: Assessment) -> tuple[Example, ...]:
    """What was kept, with the results after the training; nothing if nothing was kept."""
    path = Path(folder, FILE_NAME)
    if not path.exists():
        return ()
    with np.load(path, allow_pickle=False) as stored:
        pairs = zip(stored["scores"].tolist(), after.of_each, after.segmentations)
        return tuple(
            Example(stored[f"image_{i}"], stored[f"truth_{i}"], stored[f"before_{i}"], found, (old, new))
            for i, (old, new, found) in enumerate(pairs)
        )


def write_pictures(folder: str | os.PathLike, examples: Sequence[Example]) -> None:
    """Write ``examples.png``: a row for each image with annotation, result before and result after."""
    import imageio.v3 as iio

    if not examples:
        return
    rows = [_beside(example.pictures()) for example in examples]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    with replacing(Path(folder, PICTURE_NAME)) as temporary:
        Path(temporary).write_bytes(iio.imwrite("<bytes>", np.concatenate(rows), extension=".png"))


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    spaced = [np.pad(picture, ((0, 0), (0, _GAP), (0, 0)), constant_values=255) for picture in pictures]
    return np.concatenate(spaced, axis=1)
