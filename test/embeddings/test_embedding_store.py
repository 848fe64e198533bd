"""Stores on disk have the layout of micro-sam 1.x, both ways, and behave like the embeddings in memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import zarr
from embedding_toys import make_toy_predictor, write_legacy_store

from micro_sam.embeddings import (
    EmbeddingStore,
    Item,
    Tiling,
    compute_data_signature,
    get_embedding_signature,
    get_tiles_in_mask,
    get_tiling,
    is_tiled,
    n_slices,
    precompute_image_embeddings,
    set_precomputed,
)
from micro_sam.errors import MissingInputError, ParameterError, StoreError, StoreMismatchError

RNG = np.random.default_rng(1)
TILES = {"tile_shape": (40, 40), "halo": (6, 6)}
CASES = {"2d": ((50, 60), {}), "3d": ((3, 50, 60), {}), "2d tiled": ((50, 60), TILES), "3d tiled": ((2, 50, 60), TILES)}
cases = pytest.mark.parametrize("case", CASES)
formats = pytest.mark.parametrize("zarr_format", [2, 3])


def make(predictor, case, path=None, **kwargs):
    shape, tiles = CASES[case]
    image = np.random.default_rng(3).integers(0, 3000, shape).astype("uint16")
    return image, precompute_image_embeddings(predictor, image, path, verbose=False, **tiles, **kwargs)


def encode(predictor, image):
    """The features of an 8 bit image as the predictor itself computes them."""
    predictor.set_image(image)
    return predictor.features.numpy()


@cases
def test_features_are_those_of_the_predictor(predictor, case):
    image, store = make(predictor, case)
    planes = image if image.ndim == 3 else image[None]
    for item in store.metadata.items():
        window = get_tiling(store).tile(item.tile_id).outer if is_tiled(store) else ()
        piece = planes[item.i or 0][window].astype("float32")
        piece = ((piece - piece.min()) / (piece.max() - piece.min()) * 255).astype("uint8")
        features = encode(predictor, np.stack([piece] * 3, axis=-1))
        np.testing.assert_allclose(store.read(item), features, atol=1e-5)
        set_precomputed(predictor, store, *item)
        np.testing.assert_allclose(predictor.features.numpy(), features, atol=1e-5)
        assert predictor.original_size == piece.shape and predictor.is_image_set


@cases
@formats
def test_layout_on_disk(predictor, tmp_path, case, zarr_format):
    path = tmp_path / "e.zarr"
    image, store = make(predictor, case, path, zarr_format=zarr_format)
    group = zarr.open(str(path), mode="r")
    attributes = dict(group.attrs)
    for key, value in get_embedding_signature(predictor, image, **CASES[case][1]).items():
        if key != "normalization":
            assert attributes[key] == value
    assert attributes["model_type"] == "vit_t" and attributes["model_hash"] == "xxh128:0123"
    features = group["features"]
    leading = () if image.ndim == 2 else (len(image),)
    if "tiled" not in case:
        assert attributes["input_size"] == [853, 1024] and attributes["original_size"] == [50, 60]
        arrays = {"": features}
    else:
        assert attributes["input_size"] is None and attributes["original_size"] is None
        assert dict(features.attrs) == {"shape": [50, 60], "tile_shape": [40, 40], "halo": [6, 6]}
        assert sorted(features.array_keys()) == ["0", "1", "2", "3"]
        assert dict(features["0"].attrs) == {"original_size": [46, 46], "input_size": [1024, 1024]}
        assert dict(features["3"].attrs) == {"original_size": [16, 26], "input_size": [630, 1024]}
        arrays = dict(features.arrays())
    for name, array in arrays.items():
        assert array.shape == (*leading, 1, 256, 64, 64) and array.dtype == np.float32
        assert array.chunks == (1,) * (len(leading) + 1) + (256, 64, 64)
        np.testing.assert_array_equal(array[:], np.asarray(store["features"][name] if name else store["features"]))


def legacy(path, store, zarr_format, complete=True, drop=()):
    """Write what a store holds in the way of micro-sam 1.x."""
    metadata = store.metadata
    attributes = {**metadata.signature(), "micro_sam_version": "1.6.0"}
    sizes = {"input_size": store["input_size"], "original_size": store["original_size"]}
    attributes = {key: value for key, value in attributes.items() if key not in drop}
    features, tiled = store["features"], None
    if store.is_tiled:
        tiled = {**features.attrs, "tiles": {name: array.attrs for name, array in features.items()}}
        features = {name: np.asarray(array) for name, array in features.items()}
    else:
        features = np.asarray(features)
    write_legacy_store(path, features, attributes | (sizes if complete else {}), zarr_format, tiled)


@cases
@formats
@pytest.mark.parametrize("lazy_loading", [False, True])
def test_stores_of_1x_are_read(predictor, tmp_path, case, zarr_format, lazy_loading):
    path = tmp_path / "old.zarr"
    image, reference = make(predictor, case, tmp_path / "new.zarr")
    legacy(path, reference, zarr_format, drop=("model_name",))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    predictor.model.image_encoder.batch_sizes.clear()
    tiles = CASES[case][1]
    store = precompute_image_embeddings(predictor, image, path, lazy_loading=lazy_loading, verbose=False, **tiles)
    assert predictor.model.image_encoder.batch_sizes == []
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert store["input_size"] == reference["input_size"] and store["original_size"] == reference["original_size"]
    for item in reference.metadata.items():
        np.testing.assert_array_equal(store.read(item), reference.read(item))
    if "tiled" not in case:
        assert isinstance(store["features"], np.ndarray) != lazy_loading
        np.testing.assert_array_equal(np.asarray(store["features"]), reference["features"])
    assert n_slices(store) == (len(image) if image.ndim == 3 else None)


@cases
@formats
def test_unfinished_stores_of_1x_are_computed_again(predictor, tmp_path, case, zarr_format):
    image, reference = make(predictor, case)
    zeros = EmbeddingStore.memory(reference.metadata)
    path = tmp_path / "old.zarr"
    metadata = reference.metadata.replace(data_signature=compute_data_signature(image))
    for item in metadata.items():
        zeros.write(item, np.ones((1, 256, 64, 64), dtype="float32"))
    zeros._backend.metadata = metadata
    legacy(path, zeros, zarr_format, complete=False)
    with pytest.raises(StoreError, match="holds nothing yet"):
        EmbeddingStore.open(path)
    store = precompute_image_embeddings(predictor, image, path, verbose=False, **CASES[case][1])
    for item in metadata.items():
        np.testing.assert_allclose(store.read(item), reference.read(item), atol=1e-6)
    assert EmbeddingStore.open(path).is_complete


def test_an_empty_folder_and_one_with_only_states_take_a_store(predictor, tmp_path):
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "e.zarr" / "is_state.h5").write_bytes(b"state")
    _, store = make(predictor, "2d", tmp_path / "e.zarr")
    assert store.is_complete
    assert (tmp_path / "e.zarr" / "is_state.h5").read_bytes() == b"state"


def test_float16_halves_the_disk_and_reads_as_float32(predictor, tmp_path):
    def size(path):
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    _, full = make(predictor, "3d", tmp_path / "32.zarr")
    _, half = make(predictor, "3d", tmp_path / "16.zarr", dtype_on_disk="float16")
    assert size(tmp_path / "16.zarr") < 0.51 * size(tmp_path / "32.zarr")
    assert half["features"].dtype == np.float32
    np.testing.assert_allclose(half["features"], full["features"], atol=5e-3)
    _, again = make(predictor, "3d", tmp_path / "16.zarr")
    np.testing.assert_array_equal(again["features"], half["features"])


def test_features_that_float16_cannot_hold_are_refused(predictor, tmp_path):
    with torch.no_grad():
        predictor.model.image_encoder.convolution.bias.fill_(1e6)
    with pytest.raises(StoreError, match="float16"):
        make(predictor, "2d", tmp_path / "e.zarr", dtype_on_disk="float16")


def test_features_that_are_not_finite_are_refused(predictor, tmp_path):
    with torch.no_grad():
        predictor.model.image_encoder.convolution.bias.fill_(np.nan)
    for path in (None, tmp_path / "e.zarr"):
        with pytest.raises(StoreError, match="not finite"):
            make(predictor, "2d", path)


def test_lazy_features_index_like_an_array(predictor, tmp_path):
    _, store = make(predictor, "3d", tmp_path / "e.zarr", lazy_loading=True)
    lazy = store["features"]
    array = np.asarray(lazy)
    assert lazy.shape == array.shape and lazy.ndim == 5 and len(lazy) == 3 and lazy.size == array.size
    for key in [0, -1, slice(None), slice(0, 2), (1, 0, 5), (slice(1, 3), 0, 2), [0, 2], (..., 3), slice(3, 3)]:
        np.testing.assert_array_equal(lazy[key], array[key])
    assert [plane.sum() for plane in lazy] == [plane.sum() for plane in array]
    with pytest.raises(IndexError, match="from 0 to 2"):
        lazy[3]


def test_a_store_is_a_mapping(predictor):
    _, store = make(predictor, "2d")
    assert sorted(store) == ["features", "input_size", "original_size"] and len(store) == 3
    assert dict(store)["original_size"] == (50, 60)
    with pytest.raises(KeyError):
        store["labels"]
    assert "1 of 1" in repr(store)


def test_setting_an_embedding_again_reads_and_copies_nothing(predictor, tmp_path, monkeypatch):
    _, store = make(predictor, "3d", tmp_path / "e.zarr")
    set_precomputed(predictor, store, i=1)
    first = predictor.features
    monkeypatch.setattr(store._backend, "read", None)
    set_precomputed(predictor, store, i=1)
    assert predictor.features.data_ptr() == first.data_ptr()


def test_only_the_wanted_slice_is_read(predictor, tmp_path, monkeypatch):
    _, store = make(predictor, "3d", tmp_path / "e.zarr")
    store = EmbeddingStore.open(tmp_path / "e.zarr", lazy_loading=False)
    read, seen = store._backend.read, []
    monkeypatch.setattr(store._backend, "read", lambda item: seen.append(item) or read(item))
    set_precomputed(predictor, store, i=2)
    assert seen == [Item(2, None)]


@pytest.mark.parametrize(
    "case, i, tile_id, told",
    [
        ("2d", 0, None, "leave i out"),
        ("2d", None, 0, "not tiled"),
        ("3d", None, None, "of 3 slices: give i"),
        ("3d", 3, None, "from 0 to 2"),
        ("3d", -1, None, "from 0 to 2"),
        ("2d tiled", None, None, "give tile_id"),
        ("2d tiled", None, 4, "no tile 4"),
        ("3d tiled", 0, None, "give tile_id"),
        ("3d tiled", None, 0, "give i"),
    ],
)
def test_wrong_indices_are_explained(predictor, case, i, tile_id, told):
    _, store = make(predictor, case)
    with pytest.raises(ParameterError, match=told):
        set_precomputed(predictor, store, i=i, tile_id=tile_id)


def test_plain_dicts_are_embeddings_too(predictor):
    for case, i in (("2d", None), ("3d", 1)):
        _, store = make(predictor, case)
        plain = {key: store[key] for key in store}
        set_precomputed(predictor, plain, i=i)
        np.testing.assert_array_equal(predictor.features, store.read(Item(i)))
        assert predictor.original_size == (50, 60) and predictor.input_size == (853, 1024)
        assert not is_tiled(plain) and n_slices(plain) == (None if i is None else 3)
    with pytest.raises(ParameterError, match="Expected tiled"):
        get_tiling(plain)


def test_a_zarr_group_of_1x_is_embeddings_too(predictor, tmp_path):
    _, store = make(predictor, "3d tiled", tmp_path / "e.zarr")
    group = zarr.open(str(tmp_path / "e.zarr"), mode="r")
    opened = {"features": group["features"], "input_size": None, "original_size": None}
    set_precomputed(predictor, opened, i=1, tile_id=2)
    np.testing.assert_array_equal(predictor.features, store.read(Item(1, 2)))
    assert n_slices(opened) == 2 and get_tiling(opened) == Tiling((50, 60), (40, 40), (6, 6))
    assert get_tiles_in_mask(opened, 0) == [0, 1, 2, 3] == get_tiles_in_mask(store, 0)


def test_prompts_work_on_a_stored_embedding(tmp_path):
    predictor = make_toy_predictor(side=1024)
    image, store = make(predictor, "2d", tmp_path / "e.zarr")
    points, labels = np.array([[30, 20]]), np.array([1])
    set_precomputed(predictor, store)
    masks, scores, _ = predictor.predict(points, labels)
    assert masks.shape == (3, 50, 60)
    predictor.set_image(np.stack([(image / image.max() * 255).astype("uint8")] * 3, axis=-1))
    _, direct_scores, _ = predictor.predict(points, labels)
    np.testing.assert_allclose(scores, direct_scores, atol=1e-2)


@pytest.mark.parametrize("on_disk", [False, True])
def test_embeddings_of_another_model_are_not_set(predictor, tmp_path, on_disk):
    _, store = make(predictor, "2d", tmp_path / "e.zarr" if on_disk else None)
    with pytest.raises(StoreMismatchError, match="'vit_t_toy'.*'newer'"):
        set_precomputed(make_toy_predictor("xxh128:ffff", "newer"), store)
    set_precomputed(make_toy_predictor(None), store)


def test_there_must_be_a_store_to_open(tmp_path):
    with pytest.raises(MissingInputError, match="no embedding store"):
        EmbeddingStore.open(tmp_path / "nothing.zarr")
    assert list(tmp_path.iterdir()) == []
    zarr.create_array(tmp_path / "image.zarr", shape=(5, 5), dtype="uint8")
    with pytest.raises(StoreError):
        EmbeddingStore.open(tmp_path / "image.zarr")


def test_nothing_is_written_over_other_peoples_files(predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="notes.txt"):
        make(predictor, "2d", tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        make(predictor, "2d", tmp_path / "notes.txt")
    group = zarr.create_group(tmp_path / "image.zarr", attributes={"multiscales": []})
    group.create_array("0", data=np.zeros((5, 5)))
    for path in (tmp_path / "image.zarr", tmp_path / "image.zarr" / "0"):
        with pytest.raises(StoreError, match="another path"):
            make(predictor, "2d", path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.zarr", "notes.txt"]


def test_stores_can_be_collected(predictor):
    _, store = make(predictor, "2d tiled")
    reference = weakref.ref(store)
    store["features"]
    del store
    gc.collect()
    assert reference() is None


def test_the_predictor_hash_is_part_of_the_signature(predictor):
    image = np.zeros((5, 5), dtype="uint8")
    first = get_embedding_signature(predictor, image)
    assert first != get_embedding_signature(make_toy_predictor("xxh128:ffff"), image)
    assert first != get_embedding_signature(predictor, image, normalization="robust")
    assert first == get_embedding_signature(make_toy_predictor(), image.copy())
