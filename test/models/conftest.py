from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

from reference_weights import fill

from micro_sam.models.build_sam import build_empty_sam, parameter_shapes
from micro_sam.models.decoder import UNETRDecoder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _values(shapes):
    return fill({name: torch.empty(value.shape, dtype=value.dtype).zero_() for name, value in shapes.items()})


@pytest.fixture(scope="session")
def tiny_state():
    """Weights of a vit_t SAM in the original layout."""
    return _values(parameter_shapes("vit_t"))


@pytest.fixture(scope="session")
def decoder_state():
    """Weights of a narrow decoder with the names of the published ones."""
    return fill(UNETRDecoder(widths=(32, 16, 8, 4)).state_dict())


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_state):
    """A vit_t checkpoint in the original layout."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.pt"
    torch.save(tiny_state, path)
    return path


@pytest.fixture(scope="session")
def tiny_sam(tiny_state):
    """The vit_t SAM with these weights. Loaded after eval(), when MobileSAM's own code keeps computing with others."""
    sam = build_empty_sam("vit_t").eval()
    sam.load_state_dict(tiny_state)
    return sam
