"""A small predictor, so that the tests of stores and tilings do not wait for a real encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for embedding_toys, also in the tests beside


@pytest.fixture
def predictor():
    """A predictor with a toy encoder that records the batches it has seen."""
    from embedding_toys import make_toy_predictor

    return make_toy_predictor()
