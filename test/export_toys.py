"""Labels with everything that is hard to write down as outlines."""

from __future__ import annotations

import numpy as np

from micro_sam.io import Resolution

RING, LEFT, RIGHT, PIECES, LARGE_ID, DIAGONAL, PIXEL, EDGE = 1, 2, 3, 5, 70001, 8, 9, 12
CLASSES = {RING: "tumor", LEFT: "stroma", LARGE_ID: "tumor"}
SQUARE = Resolution({"y": 0.5, "x": 0.5}, "micrometer")
FLAT = Resolution({"z": 2.0, "y": 0.5, "x": 0.25}, "micrometer")


def plane() -> np.ndarray:
    """An image (64 x 80): a ring with an object in its hole, objects that touch, in pieces, at the edge, of one pixel."""
    labels = np.zeros((64, 80), np.uint32)
    y, x = np.mgrid[:64, :80]
    distance = np.hypot(y - 20, x - 20)
    labels[(distance < 15) & (distance > 7)] = RING
    labels[distance < 4] = LARGE_ID
    labels[40:55, 10:20], labels[40:55, 20:33] = LEFT, RIGHT
    labels[10:14, 45:60], labels[20:30, 50:55] = PIECES, PIECES
    labels[40, 50], labels[41, 51], labels[42, 52], labels[42, 50], labels[40, 52] = (DIAGONAL,) * 5
    labels[5, 70] = PIXEL
    labels[50:64, 70:80] = EDGE
    return labels


def volume() -> np.ndarray:
    """A volume (4 x 64 x 80): the objects move from slice to slice, and the last slice is empty."""
    return np.stack([plane(), np.roll(plane(), 3, axis=1) * (plane() != EDGE), plane(), np.zeros((64, 80), np.uint32)])


def movie() -> tuple[np.ndarray, list[dict[int, list[int]]]]:
    """A time series (3 x 64 x 80) in which LEFT divides after the first frame; and its lineages."""
    labels = np.stack([plane(), plane(), plane()])
    for frame in (1, 2):
        labels[frame][labels[frame] == LEFT] = 0
        labels[frame, 41:46, 11:18], labels[frame, 48:53, 11:18] = 20, 21
    return labels, [{LEFT: [20, 21], 20: [], 21: []}]
