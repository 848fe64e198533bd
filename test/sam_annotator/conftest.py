"""A model, images with known objects, and sessions on them."""

from __future__ import annotations

import movie_toys
import numpy as np
import pytest
from annotator_toys import discs

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.models.predictor import get_sam_model
from micro_sam.sam_annotator.session import AnnotatedImage, AnnotationSession


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    return discs()[0]


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    return discs()[1]


@pytest.fixture(scope="session")
def predictor():
    return get_sam_model("vit_t_builtin", device="cpu")


@pytest.fixture(scope="session")
def embeddings(predictor, image):
    return precompute_image_embeddings(predictor, image, verbose=False)


@pytest.fixture
def session(image, predictor, embeddings, tmp_path, monkeypatch) -> AnnotationSession:
    """A session on the discs, with a journal in a folder of its own."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = AnnotationSession()
    made.open(AnnotatedImage.from_array(image))
    made.predictor, made.embeddings = predictor, embeddings
    yield made
    made.close_journal()


@pytest.fixture(scope="session")
def movie() -> tuple:
    """Images, tracked labels and lineages of a cell that divides."""
    return movie_toys.movie()


@pytest.fixture(scope="session")
def movie_embeddings(predictor, movie):
    return precompute_image_embeddings(predictor, movie[0], ndim=3, verbose=False)
