"""A training in a frame of 64 pixels, which takes a fraction of a second a step."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.sample_data import synthetic_data
from micro_sam.training import default_sam_loader

FRAME = 64


@pytest.fixture(scope="session")
def images():
    """Three images with labels."""
    return [synthetic_data((80, 80), seed=seed, kind="nuclei", diameter=16) for seed in range(3)]


@pytest.fixture
def make_loader(images):
    """Loaders of patches with all targets."""

    def make(n_samples=3, is_train=True, decoder=True, **kwargs):
        return default_sam_loader(
            raw_paths=[raw for raw, _ in images],
            raw_key=None,
            label_paths=[labels.astype(np.int32) for _, labels in images],
            label_key=None,
            patch_shape=(64, 64),
            with_segmentation_decoder=decoder,
            n_samples=n_samples,
            is_train=is_train,
            **kwargs,
        )

    return make
