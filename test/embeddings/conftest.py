"""A small predictor, so that the tests of stores and tilings do not wait for a real encoder."""

from __future__ import annotations

import pytest
from embedding_toys import make_toy_predictor


@pytest.fixture
def predictor():
    """A predictor with a toy encoder that counts the images it has seen."""
    return make_toy_predictor()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)
