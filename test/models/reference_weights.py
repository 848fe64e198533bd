"""Deterministic weights and a deterministic image, for comparing two implementations of one architecture.

The arrays in ``test/data/reference/expected_*.npz`` are what the original implementations return for them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
POINTS_XY = ((300, 420), (600, 200))
POINT_LABELS = (1, 0)
BOX_XYXY = (200, 260, 640, 700)


def fill(state_dict):
    """New values for a state dict, which depend only on the rank of a name among the sorted names and on its shape."""
    filled = {}
    for rank, name in enumerate(sorted(state_dict)):
        tensor = state_dict[name]
        if not tensor.is_floating_point():
            filled[name] = tensor.clone()
            continue
        index = np.arange(tensor.numel(), dtype=np.float64)
        wave = 2.0 * np.mod(index * 0.6180339887498949 + rank * 0.7548776662466927, 1.0) - 1.0
        filled[name] = torch.from_numpy(_scaled(wave, name, tensor).astype(np.float32)).reshape(tensor.shape)
    return filled


def _scaled(wave, name, tensor):
    is_weight = name.endswith("weight")
    if name.endswith("running_var"):
        return 1.0 + 0.5 * np.abs(wave)
    if tensor.ndim <= 1:
        return 1.0 + 0.1 * wave if is_weight else 0.1 * wave
    return wave * np.sqrt(3.0 * tensor.shape[0] / tensor.numel())


def probe_image(side=1024):
    """An RGB image (side, side, 3), uint8, with structure at several scales."""
    y, x = np.mgrid[:side, :side].astype(np.float64) / side
    channels = [
        np.sin(9 * x + 4 * y) * np.cos(13 * y),
        np.sin(40 * x * y) + 0.3 * np.sin(211 * x),
        np.hypot(x - 0.4, y - 0.6) * 2 - 1 + 0.2 * np.cos(150 * y),
    ]
    image = np.stack(channels, axis=-1)
    image = (image - image.min((0, 1))) / (image.max((0, 1)) - image.min((0, 1)))
    return np.round(image * 255).astype(np.uint8)


def parameter_shapes():
    """Names and shapes of the parameters in published checkpoints, by architecture (and "decoder")."""
    with gzip.open(REFERENCE / "state_dicts.json.gz") as file:
        return json.load(file)


def expected(encoder):
    """What the original implementation returns."""
    with np.load(REFERENCE / f"expected_{encoder}.npz") as file:
        return dict(file)


def published_models():
    """The facts about published models."""
    return json.loads((REFERENCE / "published_models.json").read_text())
