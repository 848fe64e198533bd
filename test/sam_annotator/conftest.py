"""A model, images with known objects, and sessions on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import movie_toys
import numpy as np
import pytest
from annotator_toys import discs

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.models.predictor import get_sam_model
from micro_sam.sam_annotator.session import AnnotatedImage, AnnotationSession
from micro_sam.sam_annotator.session.loading import Ready

if TYPE_CHECKING:
    from window_driver import Window


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


@pytest.fixture
def open_tracking(
    make_napari_viewer, movie, predictor, movie_embeddings, tmp_path, monkeypatch
) -> Iterator[Callable[..., Window]]:
    """Opens the annotator with the movie, as from the Plugins menu, with its embeddings or without."""
    from window_driver import open_window

    from micro_sam.sam_annotator import AnnotatorTracking

    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    opened: list[Window] = []

    def open_(ready: bool = True, tracks: bool = False, **options) -> Window:
        window = open_window(make_napari_viewer(show=True), AnnotatorTracking, movie[0], **options)
        opened.append(window)
        if ready:
            window.controller._on_ready(window.widget.embedding.model_choice(), Ready(predictor, movie_embeddings))
        if tracks:
            window.controller.begin_with((movie[1], movie[2]))
        window.settle(5)
        return window

    yield open_
    for window in opened:
        window.controller.close()
