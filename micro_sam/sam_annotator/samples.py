"""Sample images for napari's File menu that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np

LayerData = tuple[Any, dict[str, Any], str]


def synthetic_nuclei() -> list[LayerData]:
    """Synthetic nuclei, 512 x 512."""
    return [(_image((512, 512), diameter=60.0), {"name": "nuclei"}, "image")]


def synthetic_volume() -> list[LayerData]:
    """A synthetic volume of nuclei, 24 x 256 x 256."""
    return [(_image((24, 256, 256), diameter=30.0), {"name": "nuclei 3d"}, "image")]


def _image(shape: tuple[int, ...], diameter: float) -> np.ndarray:
    from micro_sam.sample_data import synthetic_data

    return synthetic_data(shape, seed=1, diameter=diameter)[0]
