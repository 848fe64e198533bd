"""What the features of objects are: pooled embeddings, shape and brightness, each against a value known otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.embeddings import EmbeddingStore, Item, StoreMetadata
from micro_sam.errors import ParameterError
from micro_sam.object_classification import (
    compute_object_features,
    iter_object_features,
    project_prediction_to_segmentation,
)
from micro_sam.object_classification.shapes import intensity_features, shape_features, shape_names
from micro_sam.progress import drain

SIDE = 256


def _store(**options) -> EmbeddingStore:
    """Embeddings whose channel 0 is the y and channel 1 the x of each cell's middle in the plane, channel 2 the slice."""
    metadata = StoreMetadata((SIDE, SIDE), **options)
    store = EmbeddingStore.memory(metadata)
    for item in metadata.items():
        tile = None if item.tile_id is None else metadata.tiling.tile(item.tile_id)
        height, width = metadata.original_size(item.tile_id)
        offset = (0, 0) if tile is None else tile.offset
        middles = (np.arange(64) + 0.5) * max(height, width) / 64 - 0.5
        features = np.zeros((1, 256, 64, 64), np.float32)
        features[0, 0], features[0, 1] = (middles + offset[0])[:, None], (middles + offset[1])[None]
        features[0, 2] = item.i or 0
        store.write(Item(item.i, item.tile_id), features)
    store.finish()
    return store


def _objects() -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[20:60, 30:50] = 3
    labels[100:160, 110:150] = 7  # over the seams of the tiles, which lie at 128
    labels[200:203, 240:243] = 1000000
    labels[128, 10:90] = 12
    return labels


def _centroids(labels: np.ndarray) -> np.ndarray:
    return np.array([np.argwhere(labels == label).mean(axis=0) for label in np.unique(labels)[1:]])


@pytest.mark.parametrize("options", [{}, {"tile_shape": (128, 128), "halo": (32, 32)}], ids=["whole", "tiled"])
@pytest.mark.parametrize("grid", [(256, 256), (64, 64)])
def test_the_embedding_is_averaged_over_each_object_also_over_seams(options, grid):
    labels = _objects()
    ids, features = compute_object_features(_store(**options), labels, grid, verbose=False)
    assert ids.tolist() == [3, 7, 12, 1000000] and features.dtype == np.float32
    np.testing.assert_allclose(
        features[:, :2], _centroids(labels), atol=0.2 if grid == (256, 256) else 2
    )  # half a step


def test_the_spread_is_that_of_the_pixels():
    labels = _objects()
    found = drain(iter_object_features(_store(), labels))
    expected = [np.argwhere(labels == label).std(axis=0) for label in found.ids]
    columns = [found.names.index(f"embedding_std_{k}") for k in (0, 1)]
    large = np.arange(len(found.ids)) < 3
    np.testing.assert_allclose(
        found.values[:, columns][large], np.array(expected)[large], atol=2
    )  # half a cell of the embedding
    assert not found.values[:, found.names.index("embedding_std_2")].any()


@pytest.mark.parametrize("options", [{}, {"tile_shape": (128, 128), "halo": (16, 16)}], ids=["whole", "tiled"])
def test_objects_of_volumes_are_pooled_over_their_slices(options):
    volume = np.zeros((4, SIDE, SIDE), np.uint16)
    volume[1:3, 100:160, 110:150] = 2
    volume[3, 20:60, 30:50] = 5
    found = drain(iter_object_features(_store(n_slices=4, **options), volume))
    assert found.ids.tolist() == [2, 5] and found.ndim == 3
    np.testing.assert_allclose(found.values[:, 2], [1.5, 3])
    np.testing.assert_allclose(found.values[:, :2], [[129.5, 129.5], [39.5, 39.5]], atol=0.2)
    assert found.values[:, found.names.index("volume")].tolist() == [2 * 60 * 40, 40 * 20]
    assert found.values[:, found.names.index("n_slices")].tolist() == [2, 1]


def test_wide_images_and_the_padding_of_the_encoder():
    metadata = StoreMetadata((100, 400))
    store = EmbeddingStore.memory(metadata)
    features = np.full((1, 256, 64, 64), -99, np.float32)  # padding is never read
    features[0, :, :16] = 1
    store.write(Item(), features)
    store.finish()
    _, values = compute_object_features(store, np.ones((100, 400), np.uint8), verbose=False)
    np.testing.assert_allclose(values[0, :256], 1, rtol=1e-5)


def test_shapes():
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) <= 20
    measured = dict(zip(shape_names(2), shape_features(disc)))
    assert measured["area"] == disc.sum()
    assert measured["major_axis"] == pytest.approx(40, abs=1) and measured["eccentricity"] < 0.05
    assert measured["solidity"] > 0.95 and measured["circularity"] == pytest.approx(1, abs=0.1)
    bar = dict(zip(shape_names(2), shape_features(np.ones((4, 40), bool))))
    assert bar["eccentricity"] > 0.95 and bar["extent"] == 1 and bar["solidity"] == pytest.approx(1)
    corner = np.ones((30, 30), bool)
    corner[5:, 5:] = False
    assert dict(zip(shape_names(2), shape_features(corner)))["solidity"] < 0.75
    for tiny in (np.ones((1, 1), bool), np.ones((1, 5), bool), np.ones((1, 1, 1), bool), np.ones((1, 3, 2), bool)):
        values = shape_features(tiny)
        assert len(values) == len(shape_names(tiny.ndim)) and np.isfinite(values).all()


def test_brightness_is_relative_to_the_range_and_the_surroundings():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20] = 4
    image = np.where(labels == 4, 150, 50).astype(np.uint16)
    window = (slice(10, 20), slice(10, 20))
    mean, std, low, high, contrast = intensity_features(image, labels, 4, window, (50.0, 200.0))
    assert (mean, std, low, high, contrast) == pytest.approx((0.5, 0, 0.5, 0.5, 0.5))
    colours = np.stack([image, image * 0, np.full_like(image, np.iinfo(np.uint16).max)], axis=-1)
    assert len(intensity_features(colours, labels, 4, window, (0.0, 1.0))) == 15
    store = _store()
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 100, (SIDE, SIDE))
    _, first = compute_object_features(store, _objects(), verbose=False, image=dark)
    _, second = compute_object_features(store, _objects(), verbose=False, image=dark * 7 + 1000)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_what_cannot_be_classified_is_said_in_a_sentence():
    store = _store()
    with pytest.raises(ParameterError, match=r"has the shape \(10, 10\), but its image has \(256, 256\)"):
        compute_object_features(store, np.ones((10, 10), int), verbose=False)
    with pytest.raises(ParameterError, match="holds no objects"):
        compute_object_features(store, np.zeros((SIDE, SIDE), int), verbose=False)
    with pytest.raises(ParameterError, match="label its connected components"):
        compute_object_features(store, np.ones((SIDE, SIDE), bool), verbose=False)
    with pytest.raises(ParameterError, match="above 0"):
        compute_object_features(store, np.full((SIDE, SIDE), -1), verbose=False)
    masked = EmbeddingStore.memory(
        StoreMetadata((SIDE, SIDE), tile_shape=(128, 128), halo=(0, 0), tiles_in_mask=((0,),))
    )
    masked.write(Item(None, 0), np.zeros((1, 256, 64, 64), np.float32))
    with pytest.raises(ParameterError, match="2 objects, the first with id 12, lie where no embeddings"):
        compute_object_features(masked, _objects(), verbose=False)


def test_projecting():
    labels = np.array([[0, 5, 5], [9, 0, 2]])
    projected = project_prediction_to_segmentation(labels, np.array([2, 1]), np.array([9, 5]))
    assert projected.dtype == np.uint8 and projected.tolist() == [[0, 1, 1], [2, 0, 0]]
    with pytest.raises(ParameterError, match="one class for each id"):
        project_prediction_to_segmentation(labels, np.array([1]), np.array([9, 5]))
