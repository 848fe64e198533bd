"""Computing goes item by item, in batches and in any order, resumes, and reads its input piece by piece."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc

import dask.array as da
import h5py
import numpy as np
import pytest
import zarr

from micro_sam.embeddings import (
    EmbeddingStore,
    Item,
    compute_data_signature,
    get_tiles_in_mask,
    iter_precompute,
    precompute_image_embeddings,
)
from micro_sam.embeddings import source as source_module
from micro_sam.errors import ImageError, ParameterError
from micro_sam.progress import Progress

RNG = np.random.default_rng(2)
TILES = {"tile_shape": (40, 40), "halo": (6, 6)}
VOLUME = RNG.integers(0, 3000, (4, 30, 40)).astype("uint16")
PLANE = RNG.integers(0, 3000, (80, 100)).astype("uint16")


class CountingArray:
    """An array that counts what is read of it and remembers the largest piece."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.read, self.largest = 0, 0

    def __getitem__(self, key):
        piece = self.array[key]
        self.read += piece.size
        self.largest = max(self.largest, piece.size)
        return piece


def run(work):
    """Drain a generator of progress, returning all progress and the result."""
    steps = []
    while True:
        try:
            steps.append(next(work))
        except StopIteration as stop:
            return steps, stop.value


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_slices_and_tiles_are_batched(predictor, batch_size):
    sizes = predictor.model.image_encoder.batch_sizes
    reference = precompute_image_embeddings(predictor, VOLUME, verbose=False, **TILES)
    sizes.clear()
    store = precompute_image_embeddings(predictor, VOLUME, verbose=False, batch_size=batch_size, **TILES)
    assert sizes == {1: [1, 1, 1, 1], 3: [3, 1], 100: [4]}[batch_size]
    for item in store.metadata.items():
        np.testing.assert_allclose(store.read(item), reference.read(item), atol=1e-5)


def test_progress_comes_with_every_item(predictor):
    steps, store = run(iter_precompute(predictor, VOLUME, batch_size=3))
    assert [step.done for step in steps] == [0, 1, 2, 3, 4] and {step.total for step in steps} == {4}
    assert store.is_complete


def test_callbacks_are_told_the_total_and_every_step(predictor):
    total, steps = [], []
    precompute_image_embeddings(
        predictor, PLANE, verbose=False, pbar_init=lambda *a: total.append(a), pbar_update=steps.append, **TILES
    )
    assert [n for n, _ in total] == [6] and steps == [1] * 6


def test_a_cancelled_computation_resumes_without_doing_anything_twice(predictor, tmp_path):
    sizes = predictor.model.image_encoder.batch_sizes
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr")
    while next(work).done < 2:
        pass
    work.close()
    assert sum(sizes) == 2
    partial = EmbeddingStore.open(tmp_path / "e.zarr")
    assert partial.missing() == [Item(2, None), Item(3, None)] and not partial.is_complete
    assert "input_size" not in zarr.open(str(tmp_path / "e.zarr"), mode="r").attrs
    steps, store = run(iter_precompute(predictor, VOLUME, tmp_path / "e.zarr"))
    assert sum(sizes) == 4 and [step.done for step in steps] == [2, 3, 4]
    reference = precompute_image_embeddings(predictor, VOLUME, verbose=False)
    np.testing.assert_allclose(np.asarray(store["features"]), reference["features"], atol=1e-6)


def test_items_of_zeros_count_as_computed(predictor, tmp_path):
    for parameter in predictor.model.image_encoder.parameters():
        parameter.data.zero_()
    precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    sizes = predictor.model.image_encoder.batch_sizes
    sizes.clear()
    store = precompute_image_embeddings(predictor, VOLUME, tmp_path / "e.zarr", verbose=False)
    assert sizes == [] and not store["features"].any()


def computed_order(predictor, data, **kwargs):
    seen = []
    work = iter_precompute(predictor, data, on_store=lambda store: seen.append(store), **kwargs)
    order, missing = [], None
    for _ in work:
        now = set(seen[0].missing())
        order += [] if missing is None else sorted(missing - now)
        missing = now
    return order


def test_order_by_list(predictor):
    assert [item.i for item in computed_order(predictor, VOLUME, order=[2, 3])] == [2, 3, 0, 1]
    assert [item.tile_id for item in computed_order(predictor, PLANE, order=[Item(None, 4), 1], **TILES)][:2] == [4, 1]
    stack = computed_order(predictor, np.stack([PLANE, PLANE]), order=[1], **TILES)
    assert [item.i for item in stack] == [1] * 6 + [0] * 6


def test_order_by_a_function_that_changes_its_mind(predictor):
    centre = [3]
    seen = []

    def distance(item):
        return abs(item.i - centre[0])

    work = iter_precompute(predictor, VOLUME, order=distance, on_store=seen.append)
    next(work)
    next(work)
    assert seen[0].missing() == [Item(0), Item(1), Item(2)]
    centre[0] = 0
    next(work)
    assert seen[0].missing() == [Item(1), Item(2)]


def test_an_order_that_names_nothing_is_refused(predictor):
    with pytest.raises(ParameterError, match="slice 9"):
        precompute_image_embeddings(predictor, VOLUME, verbose=False, order=[Item(9)])


def test_finished_items_can_be_used_while_others_are_computed(predictor, tmp_path):
    seen = []
    work = iter_precompute(predictor, VOLUME, tmp_path / "e.zarr", order=[2], on_store=seen.append)
    next(work), next(work)
    assert seen[0].has(Item(2)) and not seen[0].has(Item(0))
    result = []
    thread = threading.Thread(target=lambda: result.append(seen[0].read(Item(2))))
    thread.start(), thread.join()
    _, store = run(work)
    np.testing.assert_array_equal(result[0], store.read(Item(2)))


def test_only_tiles_in_the_mask_are_computed(predictor, tmp_path):
    mask = np.zeros(PLANE.shape, dtype="uint8")
    mask[50:60, 45:50] = 1
    for path in (None, tmp_path / "e.zarr"):
        predictor.model.image_encoder.batch_sizes.clear()
        store = precompute_image_embeddings(predictor, PLANE, path, mask=mask, verbose=False, **TILES)
        assert len(predictor.model.image_encoder.batch_sizes) == 1
        assert store["features"].attrs["tiles_in_mask"] == [4] == get_tiles_in_mask(store)
        assert list(store["features"]) == ["4"] and store.is_complete
        with pytest.raises(Exception, match="outside the mask"):
            store.read(Item(None, 0))
    assert list(zarr.open(str(tmp_path / "e.zarr"), mode="r")["features"].array_keys()) == ["4"]


def test_masks_of_volumes_are_per_slice(predictor, tmp_path):
    volume = np.stack([PLANE] * 3)
    mask = np.zeros(volume.shape, dtype=bool)
    mask[0, 0, 0] = mask[2, 0, 99] = mask[2, 79, 99] = True
    store = precompute_image_embeddings(predictor, volume, tmp_path / "e.zarr", mask=mask, verbose=False, **TILES)
    assert store["features"].attrs["tiles_in_mask"] == {"0": [0], "1": [], "2": [2, 5]}
    assert [get_tiles_in_mask(store, i) for i in range(3)] == [[0], [], [2, 5]]
    assert store.metadata.n_items == 3 and store.is_complete
    again = EmbeddingStore.open(tmp_path / "e.zarr")
    assert again.is_complete and again.metadata.tiles_in_mask == ((0,), (), (2, 5))
    flat = precompute_image_embeddings(predictor, volume, mask=mask[2], verbose=False, **TILES)
    assert flat["features"].attrs["tiles_in_mask"] == {"0": [2, 5], "1": [2, 5], "2": [2, 5]}


def test_masks_that_do_not_fit_are_refused(predictor):
    with pytest.raises(ParameterError, match="mask of shape"):
        precompute_image_embeddings(predictor, PLANE, mask=np.ones((5, 5)), verbose=False, **TILES)
    with pytest.raises(ParameterError, match="empty"):
        precompute_image_embeddings(predictor, PLANE, mask=np.zeros(PLANE.shape), verbose=False, **TILES)
    with pytest.warns(UserWarning, match="no effect"):
        precompute_image_embeddings(predictor, PLANE, mask=np.ones(PLANE.shape), verbose=False)


def lazy_forms(array, folder):
    """The same data as every kind of lazy array."""
    np.save(folder / "a.npy", array)
    yield "memmap", np.load(folder / "a.npy", mmap_mode="r")
    yield "dask", da.from_array(array, chunks=(11,) * array.ndim)
    for zarr_format in (2, 3):
        path = folder / f"a{zarr_format}.zarr"
        yield (
            "zarr",
            zarr.create_array(path, data=array, chunks=tuple(min(7, n) for n in array.shape), zarr_format=zarr_format),
        )
    with h5py.File(folder / "a.h5", "w") as file:
        yield "hdf5", file.create_dataset("a", data=array, chunks=tuple(min(7, n) for n in array.shape))


@pytest.mark.parametrize("normalization", ["minmax", "robust"])
@pytest.mark.parametrize(
    "shape, kwargs", [((4, 30, 40), {}), ((3, 20, 30, 3), {}), ((50, 60), TILES), ((50, 60, 3), TILES)]
)
def test_lazy_inputs_give_what_arrays_give(predictor, tmp_path, shape, kwargs, normalization, monkeypatch):
    monkeypatch.setattr(source_module, "_READ_BYTES", 4000)
    array = RNG.normal(100, 30, shape).astype("float32")
    kwargs = {**kwargs, "normalization": normalization, "verbose": False}
    reference = precompute_image_embeddings(predictor, array, tmp_path / "e.zarr", **kwargs)
    for name, lazy in lazy_forms(array, tmp_path):
        store = precompute_image_embeddings(predictor, lazy, **kwargs)
        for item in reference.metadata.items():
            np.testing.assert_allclose(store.read(item), reference.read(item), atol=1e-4, err_msg=name)
        precompute_image_embeddings(predictor, lazy, tmp_path / "e.zarr", **kwargs)  # has the same signature


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", ">f4", "bool", "float16", "int64"])
@pytest.mark.parametrize("shape", [(7, 9), (5, 7, 9), (5, 7, 9, 3)])
def test_the_signature_is_sha1_of_the_whole_array(shape, dtype, tmp_path):
    array = RNG.integers(0, 2, shape).astype(dtype)
    expected = hashlib.sha1(np.ascontiguousarray(array).tobytes()).hexdigest()
    assert compute_data_signature(array) == expected
    assert compute_data_signature(np.asfortranarray(array)) == expected
    for limit in (1, 20, 100, 10**6):
        hasher = hashlib.sha1()
        for block in source_module.iter_c_order_blocks(array, limit):
            hasher.update(np.ascontiguousarray(block).tobytes())
        assert hasher.hexdigest() == expected
    if dtype != ">f4":
        assert hashlib.sha1(np.ascontiguousarray(array).data).hexdigest() == expected


@pytest.mark.parametrize("n", [2, 12])
def test_no_more_than_a_slice_or_tile_is_read_at_once(predictor, tmp_path, n, monkeypatch):
    monkeypatch.setattr(source_module, "_READ_BYTES", 30 * 40)
    volume = CountingArray(np.zeros((n, 30, 40), dtype="uint8"))
    precompute_image_embeddings(predictor, volume, tmp_path / "v.zarr", verbose=False)
    assert volume.largest <= 30 * 40 and volume.read == 2 * n * 30 * 40  # once to hash, once to encode
    plane = CountingArray(np.zeros((30 * n, 40), dtype="uint8"))
    precompute_image_embeddings(predictor, plane, tmp_path / "p.zarr", verbose=False, tile_shape=(30, 40), halo=(0, 0))
    assert plane.largest <= 30 * 40 and plane.read == 2 * plane.array.size
    volume.read = 0
    precompute_image_embeddings(predictor, volume, verbose=False)
    assert volume.read == volume.array.size


def test_peak_memory_does_not_grow_with_the_number_of_slices(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("micro_sam.embeddings.store._CACHED_ITEMS", 2)
    monkeypatch.setattr(source_module, "_READ_BYTES", 64 * 64)
    peaks = []
    for n in (4, 16):
        path = tmp_path / f"{n}.npy"
        np.save(path, np.zeros((n, 64, 64), dtype="uint8"))
        lazy = np.load(path, mmap_mode="r")
        tracemalloc.start()
        precompute_image_embeddings(predictor, lazy, tmp_path / f"{n}.zarr", verbose=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 8 * 2**20  # twelve more slices have 48 MiB of features


def test_robust_contrast_is_shared_by_all_tiles_and_keeps_empty_ones_empty(predictor):
    image = np.zeros((40, 120), dtype="float32")
    image[:, :40] = RNG.normal(1000, 100, (40, 40))
    image[:, 80:] = RNG.normal(5, 1, (40, 40))  # an empty tile with a little noise
    image[5, 5] = 1e8
    image[6, 6] = np.nan
    tiles = {"tile_shape": (40, 40), "halo": (0, 0), "verbose": False}
    store = precompute_image_embeddings(predictor, image, normalization="robust", **tiles)
    black = precompute_image_embeddings(predictor, np.zeros((40, 40), "uint8"), verbose=False).read(Item())
    empty, noise, stretched = store.read(Item(None, 1)), store.read(Item(None, 2)), None
    stretched = precompute_image_embeddings(predictor, image, **tiles).read(Item(None, 2))
    np.testing.assert_allclose(empty, black, atol=1e-4)
    assert np.abs(noise - black).max() < 0.1 < np.abs(stretched - black).max()


@pytest.mark.parametrize("value", [3, np.nan])
def test_constant_and_nan_slices_in_a_volume_are_no_obstacle(predictor, value):
    volume = VOLUME.astype("float32")
    volume[1] = value
    for normalization in ("minmax", "robust"):
        store = precompute_image_embeddings(predictor, volume, verbose=False, normalization=normalization)
        assert np.isfinite(store["features"]).all()


@pytest.mark.parametrize(
    "kwargs, error, told",
    [
        ({"batch_size": 0}, ParameterError, "batch_size"),
        ({"tile_shape": (10, 10)}, ParameterError, "together"),
        ({"halo": (10, 10)}, ParameterError, "together"),
        ({"tile_shape": (0, 10), "halo": (0, 0)}, ParameterError, "tile_shape"),
        ({"normalization": "magic"}, ParameterError, "'minmax' or 'robust'"),
        ({"dtype_on_disk": "int8"}, ParameterError, "'float32' or 'float16'"),
        ({"ndim": 2}, ImageError, "ndim=2|channels"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(predictor, tmp_path, kwargs, error, told):
    volume = CountingArray(np.zeros((4, 30, 40), dtype="uint8"))
    with pytest.raises(error, match=told):
        precompute_image_embeddings(predictor, volume, tmp_path / "e.zarr", verbose=False, **kwargs)
    assert volume.read == 0 and list(tmp_path.iterdir()) == []


def test_reading_a_large_input_is_progress_too(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "_READ_BYTES", 2**20)
    image = np.zeros((2048, 2048), dtype="uint8")
    steps, _ = run(iter_precompute(predictor, image, tmp_path / "e.zarr"))
    assert steps[:4] == [Progress(n, 4, "Read the input (MiB)") for n in (1, 2, 3, 4)]
