from __future__ import annotations

import numpy as np
import pytest

from micro_sam.errors import ParameterError
from micro_sam.sample_data import synthetic_data
from micro_sam.util import get_sam_model, precompute_image_embeddings
from micro_sam.visualization import compute_pca, project_embeddings_for_visualization


def test_components_are_those_of_a_singular_value_decomposition():
    embeddings = np.random.default_rng(0).normal(size=(16, 12, 10)).astype(np.float32)
    embeddings[0] *= 9
    pixels = embeddings.reshape(16, -1).T.astype(np.float64)
    u, s, _ = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    found = compute_pca(embeddings, n_components=2, as_rgb=False).reshape(-1, 2)
    assert np.allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 12, 10), (1, 16, 12, 10), (3, 16, 12, 10), (3, 1, 16, 12, 10)])
def test_pictures_have_their_channels_last(shape):
    picture = compute_pca(np.random.default_rng(0).normal(size=shape))
    assert picture.shape == ((3,) if shape[0] == 3 else ()) + (12, 10, 3)
    assert picture.dtype == np.uint8 and picture.min() == 0 and picture.max() == 255


@pytest.mark.parametrize(("shape", "n"), [((16, 12), 3), ((16, 12, 10), 0), ((16, 12, 10), 17)])
def test_other_shapes_and_numbers_are_refused(shape, n):
    with pytest.raises(ParameterError):
        compute_pca(np.zeros(shape), n_components=n)


@pytest.fixture(scope="module")
def predictor():
    return get_sam_model("vit_t_builtin", device="cpu")


@pytest.fixture(scope="module")
def cells():
    return synthetic_data((200, 320), seed=3, diameter=50)


@pytest.mark.parametrize("tiling", [{}, {"tile_shape": (128, 128), "halo": (16, 16)}], ids=["whole", "tiled"])
def test_objects_can_be_told_from_ground_in_the_picture(predictor, cells, tiling):
    image, labels = cells
    embeddings = precompute_image_embeddings(predictor, image, ndim=2, verbose=False, **tiling)
    picture, scale = project_embeddings_for_visualization(embeddings)
    assert np.allclose(np.multiply(picture.shape[:2], scale), image.shape)
    rows, columns = (((np.arange(n) + 0.5) * s).astype(int) for n, s in zip(picture.shape[:2], scale))
    inside = labels[rows][:, columns] > 0
    apart = np.abs(picture[inside].mean(0) - picture[~inside].mean(0)).max()
    assert apart > 40, apart
    assert picture.reshape(-1, 3).min() == 0


def test_slices_share_their_components(predictor, cells):
    volume = np.stack([cells[0]] * 2)
    picture, scale = project_embeddings_for_visualization(
        precompute_image_embeddings(predictor, volume, ndim=3, verbose=False), as_rgb=False
    )
    assert picture.shape[0] == 2 and len(scale) == 3 and scale[0] == 1
    assert np.allclose(picture[0], picture[1], atol=1e-4)
