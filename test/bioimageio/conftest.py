from __future__ import annotations

import pytest
import torch

from micro_sam.bioimageio.model_source import read_source
from micro_sam.sample_data import synthetic_data

MODEL = "vit_t_builtin"


@pytest.fixture(scope="session")
def sample():
    """A small 16 bit image and its labels."""
    image, labels = synthetic_data((96, 128), seed=4, diameter=24)
    return image.astype("uint16") * 100 + 1000, labels


@pytest.fixture(scope="session")
def source():
    """The bundled model, read for export."""
    return read_source(MODEL)


@pytest.fixture(scope="session")
def image_tensor(sample):
    """The sample as (1, 3, H, W)."""
    return torch.from_numpy(sample[0].astype("float32"))[None, None].repeat(1, 3, 1, 1)
