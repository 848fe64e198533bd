"""The bundled model."""

from __future__ import annotations

import pytest

from micro_sam.models.predictor import get_sam_model


@pytest.fixture(scope="session")
def predictor():
    return get_sam_model("vit_t_builtin", device="cpu")
