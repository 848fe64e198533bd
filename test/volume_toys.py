"""Volumes for the toy model of `segmentation_toys`: its embeddings carry the labels of every slice."""

from __future__ import annotations

import numpy as np
from segmentation_toys import embeddings_of


def volume_embeddings(labels: np.ndarray) -> dict:
    """Embeddings of a volume (ZYX) whose objects are these labels."""
    slices = [embeddings_of(plane) for plane in labels]
    return slices[0] | {"features": np.stack([one["features"] for one in slices])}


def discs(shape: tuple[int, int, int], *objects: dict[int, tuple[float, float, float]]) -> np.ndarray:
    """Labels 1, 2, ... of objects that are a disc (y, x, radius) in each slice they are in."""
    labels = np.zeros(shape, dtype=np.uint32)
    yy, xx = np.ogrid[: shape[1], : shape[2]]
    for number, by_slice in enumerate(objects, start=1):
        for z, (y, x, radius) in by_slice.items():
            labels[z][(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = number
    return labels


def tube(slices: range, y: float, x: float, radius: float, shift: tuple[float, float] = (0, 0)) -> dict:
    """A disc that drifts from slice to slice."""
    first = slices[0]
    return {z: (y + (z - first) * shift[0], x + (z - first) * shift[1], radius) for z in slices}
