"""Objects of slices become objects of a volume."""

from __future__ import annotations

import numpy as np
import pytest
from volume_toys import discs, tube

from micro_sam.errors import ImageError, ParameterError
from micro_sam.evaluation.evaluation import segmentation_scores
from micro_sam.multi_dimensional_segmentation import LinkSettings, iter_merge_slices, merge_instance_segmentation_3d
from micro_sam.multi_dimensional_segmentation.label_store import label_dtype, new_array, rewrite

SHAPE = (8, 96, 120)
TRUTH = discs(
    SHAPE, tube(range(8), 20, 20, 12, (3, 0)), tube(range(2, 7), 60, 60, 14), tube(range(8), 70, 100, 10, (-4, 0))
)


def _scrambled(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every slice gets labels of its own, with gaps between them."""
    rng = np.random.default_rng(seed)
    slices = []
    for plane in labels:
        numbers = np.concatenate([[0], rng.permutation(np.arange(1, 60))[: int(labels.max())]])
        slices.append(numbers[plane])
    return np.stack(slices)


def test_objects_are_linked_and_numbered_without_gaps():
    merged = merge_instance_segmentation_3d(_scrambled(TRUTH), verbose=False)
    assert merged.dtype == np.uint32 and merged.max() == 3
    assert segmentation_scores(merged, TRUTH)["mSA"] == 1


def test_objects_that_touch_above_each_other_stay_apart():
    truth = discs(SHAPE, tube(range(4), 40, 40, 14), tube(range(4, 8), 40, 62, 14))
    merged = merge_instance_segmentation_3d(_scrambled(truth), verbose=False)
    assert segmentation_scores(merged, truth)["mSA"] == 1


def test_an_object_cut_in_two_in_one_slice_stays_one():
    cut = TRUTH.copy()
    cut[4][(TRUTH[4] == 2) & (np.arange(SHAPE[2]) > 62)[None]] = 9
    merged = merge_instance_segmentation_3d(_scrambled(cut), verbose=False)
    assert segmentation_scores(merged, TRUTH)["mSA"] == 1


def test_larger_beta_links_less():
    truth = discs(SHAPE, tube(range(8), 30, 30, 14, (6, 0)))
    assert merge_instance_segmentation_3d(truth, beta=0.3, verbose=False).max() == 1
    assert merge_instance_segmentation_3d(truth, beta=0.95, verbose=False).max() == 8


def test_gaps_are_closed_and_filled_up_to_their_length():
    holes = TRUTH.copy()
    holes[3:5][TRUTH[3:5] == 1] = 0
    assert merge_instance_segmentation_3d(_scrambled(holes), verbose=False).max() == 4
    assert merge_instance_segmentation_3d(_scrambled(holes), gap_closing=1, verbose=False).max() == 4
    closed = merge_instance_segmentation_3d(_scrambled(holes), gap_closing=2, verbose=False)
    assert segmentation_scores(closed, TRUTH)["SA75"] == 1
    assert (closed[3:5] > 0)[TRUTH[3:5] == 1].mean() > 0.85
    np.testing.assert_array_equal(closed > 0, (closed > 0) | (holes > 0))


def test_flat_objects_are_removed():
    assert merge_instance_segmentation_3d(TRUTH, min_z_extent=5, verbose=False).max() == 3
    thick = merge_instance_segmentation_3d(TRUTH, min_z_extent=6, verbose=False)
    assert thick.max() == 2 and not thick[TRUTH == 2].any()


def test_without_background_zero_is_an_object():
    merged = merge_instance_segmentation_3d(TRUTH, with_background=False, verbose=False)
    assert merged.min() == 1 and len(np.unique(merged[TRUTH == 0])) == 1


def test_empty_volumes_and_slices_pass():
    assert not merge_instance_segmentation_3d(np.zeros((3, 8, 8), int), verbose=False).any()
    some = np.zeros((3, 8, 8), int)
    some[1, 2:5, 2:5] = 4
    np.testing.assert_array_equal(merge_instance_segmentation_3d(some, verbose=False), some > 0)


@pytest.mark.parametrize(
    ("labels", "settings", "error"),
    [
        (np.zeros((4, 4), int), {}, ImageError),
        (np.zeros((4, 4, 4)), {}, ImageError),
        (TRUTH, {"beta": 1.0}, ParameterError),
        (TRUTH, {"gap_closing": -1}, ParameterError),
        (TRUTH, {"min_z_extent": 1.5}, ParameterError),
    ],
)
def test_bad_input_is_one_sentence(labels, settings, error):
    with pytest.raises(error) as raised:
        merge_instance_segmentation_3d(labels, verbose=False, **settings)
    assert "\n" not in str(raised.value)


def test_labels_can_be_read_from_and_written_to_zarr(tmp_path):
    import zarr

    source = zarr.create_array(tmp_path / "slices.zarr", data=_scrambled(TRUTH), chunks=(1, 48, 60))
    out = zarr.create_array(tmp_path / "out.zarr", shape=SHAPE, dtype=np.uint64, chunks=(1, 96, 120))
    for _ in (work := iter_merge_slices(source, LinkSettings(), out)):
        pass
    assert segmentation_scores(out[...], TRUTH)["mSA"] == 1 and list(work) == []
    with pytest.raises(ParameterError, match="out must be"):
        next(iter_merge_slices(source, LinkSettings(), out[:3]))


def test_labels_get_the_type_that_holds_them():
    assert label_dtype(2**32 - 1) == np.uint32 and label_dtype(2**32) == np.uint64
    labels = np.array([[[0, 1], [2, 0]]], dtype=np.uint32)
    out = np.zeros(labels.shape, label_dtype(2**40))
    rewrite(labels, lambda z: np.array([0, 2**40, 7], dtype=np.uint64), out)
    assert out.tolist() == [[[0, 2**40], [7, 0]]]


def test_many_objects_do_not_run_out_of_numbers():
    side = 300  # 90,000 objects, more than 16 bit
    labels = np.arange(1, side * side + 1, dtype=np.uint32).reshape(1, side, side).repeat(2, axis=0)
    merged = merge_instance_segmentation_3d(labels, verbose=False)
    assert merged.max() == side * side and (merged[0] == merged[1]).all()


def test_large_arrays_lie_on_disk_until_they_are_not_needed_any_more():
    import gc
    from pathlib import Path

    array = new_array((4, 32, 32), np.uint32, most_bytes=1000)
    folder = Path(str(array.store.root))
    array[2] = 5
    assert folder.is_dir() and array[2].sum() == 5 * 32 * 32 and not array[1].any()
    del array
    gc.collect()
    assert not folder.exists()
