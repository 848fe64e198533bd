"""Volumes are segmented slice by slice, by each mode and method."""

from __future__ import annotations

import numpy as np
import pytest
from segmentation_toys import TrueDecoder, toy_predictor, true_maps
from volume_toys import discs, tube

from micro_sam.errors import ImageError, ParameterError
from micro_sam.evaluation.evaluation import segmentation_scores
from micro_sam.instance_segmentation import (
    AISSettings,
    AutomaticMaskGenerator,
    AutomaticPromptGenerator,
    InstanceSegmentationWithDecoder,
    TiledInstanceSegmentationWithDecoder,
)
from micro_sam.instance_segmentation.watershed import Maps
from micro_sam.multi_dimensional_segmentation import SliceOptions, automatic_3d_segmentation, iter_automatic_3d
from micro_sam.multi_dimensional_segmentation.volume_watershed import (
    MapStack,
    VolumeWatershedSettings,
    iter_volume_watershed,
)

SHAPE = (6, 96, 120)
TRUTH = discs(
    SHAPE, tube(range(6), 22, 24, 13, (3, 0)), tube(range(1, 5), 60, 64, 15), tube(range(6), 70, 100, 11, (-5, 0))
)
IMAGE = np.where(TRUTH > 0, 220, 20).astype(np.uint8)
MAPS = [true_maps(plane.astype(np.int64)) for plane in TRUTH]


def _ais(kind: type = InstanceSegmentationWithDecoder, maps=MAPS):
    predictor = toy_predictor()
    return predictor, kind(predictor, TrueDecoder(*maps))


@pytest.mark.parametrize("method", ["auto", "slices", "volume"])
def test_ais_finds_the_objects(method):
    labels = automatic_3d_segmentation(IMAGE, *_ais(), verbose=False, volume_method=method)
    assert labels.dtype == np.uint32 and labels.shape == SHAPE
    assert segmentation_scores(labels, TRUTH)["mSA"] > 0.95
    assert np.unique(labels).tolist() == [0, 1, 2, 3]


def test_apg_and_amg_link_slices():
    predictor = toy_predictor()
    apg = AutomaticPromptGenerator(predictor, TrueDecoder(*MAPS))
    labels = automatic_3d_segmentation(IMAGE, predictor, apg, verbose=False)
    assert segmentation_scores(labels, TRUTH)["SA75"] == 1
    amg = AutomaticMaskGenerator(
        predictor, points_per_side=None, point_grids=[np.array([[0.2, 0.3], [0.55, 0.62], [0.83, 0.6]])]
    )
    labels = automatic_3d_segmentation(
        IMAGE[:3], predictor, amg, verbose=False, pred_iou_thresh=0.88, stability_score_thresh=0.3
    )
    assert segmentation_scores(labels, TRUTH[:3])["SA50"] == 1


def test_volume_and_slices_take_the_settings_of_the_segmenter():
    for method in ("slices", "volume"):
        least = 600 if method == "slices" else 600 * 4  # pixels of a slice, or voxels
        labels = automatic_3d_segmentation(IMAGE, *_ais(), verbose=False, volume_method=method, min_size=least)
        assert 0 < labels.max() < 3
    assert automatic_3d_segmentation(IMAGE, *_ais(), verbose=False, min_z_extent=5).max() == 2


def test_slices_are_read_one_by_one_and_few_embeddings_are_kept():
    reads = []

    class Lazy:
        shape, dtype = SHAPE, IMAGE.dtype

        def __getitem__(self, index):
            reads.append(index[0])
            return IMAGE[index]

    predictor, segmenter = _ais()
    kept = []
    original = predictor.model.image_encoder.forward
    predictor.model.image_encoder.forward = lambda x: kept.append(len(x)) or original(x)
    labels = automatic_3d_segmentation(Lazy(), predictor, segmenter, verbose=False, batch_size=2)
    assert segmentation_scores(labels, TRUTH)["mSA"] > 0.95
    assert reads == list(range(6)) and kept == [2, 2, 2]


def test_embeddings_on_disk_are_used_again_and_returned(tmp_path):
    predictor, segmenter = _ais()
    path = tmp_path / "e.zarr"
    first, embeddings = automatic_3d_segmentation(
        IMAGE, predictor, segmenter, path, verbose=False, return_embeddings=True
    )
    assert embeddings["features"].shape == (6, 1, 256, 64, 64)
    predictor.model.image_encoder = None
    segmenter = InstanceSegmentationWithDecoder(predictor, TrueDecoder(*MAPS))
    np.testing.assert_array_equal(automatic_3d_segmentation(IMAGE, predictor, segmenter, path, verbose=False), first)


def test_tiles_and_a_mask():
    predictor, segmenter = _ais(TiledInstanceSegmentationWithDecoder, [_tile(z, y) for z in range(6) for y in (0, 1)])
    mask = np.zeros(SHAPE[1:], bool)
    mask[:, :84] = True
    options = {"tile_shape": (48, 120), "halo": (16, 16), "verbose": False}
    labels = automatic_3d_segmentation(IMAGE, predictor, segmenter, mask=mask, **options)
    assert not labels[:, :, 84:].any()
    assert segmentation_scores(labels, TRUTH * mask)["SA50"] == 1


def _tile(z: int, row: int) -> np.ndarray:
    return MAPS[z][:, :64] if row == 0 else MAPS[z][:, 32:]


def test_slabs_give_what_one_piece_gives():
    maps = MapStack(SHAPE, most_bytes=1000)  # on disk
    for z, planes in enumerate(MAPS):
        maps.put(z, Maps(*planes))
    whole, slabs = (
        _drained(iter_volume_watershed(maps, VolumeWatershedSettings(AISSettings(), slab=slab))) for slab in (None, 2)
    )
    assert segmentation_scores(whole, TRUTH)["mSA"] > 0.95
    assert segmentation_scores(slabs, whole)["mSA"] == 1


def _drained(work):
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def test_smoothing_across_slices_bridges_a_bad_slice():
    maps = [planes.copy() for planes in MAPS]
    maps[3][1:] = np.maximum(maps[3][1:], 0.6)  # no seeds
    plain, smooth = (
        automatic_3d_segmentation(IMAGE, *_ais(maps=maps), verbose=False, volume_method="volume", z_smoothing=sigma)
        for sigma in (0.0, 1.0)
    )
    straight = [set(np.unique(labels[1:5, 60, 64])) for labels in (plain, smooth)]
    assert len(straight[0]) > 1 and len(straight[1]) == 1


def test_labels_go_to_the_array_that_is_given(tmp_path):
    import zarr

    out = zarr.create_array(tmp_path / "labels.zarr", shape=SHAPE, dtype=np.uint32, chunks=(2, 48, 60))
    for method in ("slices", "volume"):
        labels = automatic_3d_segmentation(IMAGE, *_ais(), verbose=False, volume_method=method, out=out)
        assert labels is out and segmentation_scores(out[...], TRUTH)["mSA"] > 0.95


def test_robust_contrast_sees_all_slices():
    image = IMAGE.astype(np.uint16)
    image[2] = image[2] // 8 + 20  # a dark slice; alone it would be stretched to the same contrast
    predictor, segmenter = _ais()
    seen = []
    original = predictor.model.preprocess
    predictor.model.preprocess = lambda x: seen.append(float(x.max())) or original(x)
    automatic_3d_segmentation(image, predictor, segmenter, verbose=False, normalization="robust")
    assert seen[2] < 100 < seen[3]


def test_progress_goes_through_slices_and_closing_is_possible():
    work = iter_automatic_3d(IMAGE, *_ais(), options=SliceOptions())
    texts = {}
    for step in work:
        texts.setdefault(step.text, []).append(step.done)
    assert texts["Segment slices"][-1] == 6 and "Segment the volume" in texts
    work = iter_automatic_3d(IMAGE, *_ais())
    next(work)
    work.close()


@pytest.mark.parametrize(
    ("image", "options", "error", "sentence"),
    [
        (IMAGE[0], {}, ImageError, "axes"),
        (IMAGE[:0], {}, ImageError, "at least one pixel"),
        (IMAGE, {"volume_method": "magic"}, ParameterError, "one of auto"),
        (IMAGE, {"volume_method": "volume", "gap_closing": 1}, ParameterError, "gap_closing"),
        (IMAGE, {"z_smoothing": -1}, ParameterError, "z_smoothing must be"),
        (IMAGE, {"mask": np.ones((5, 5))}, ParameterError, "mask must cover"),
        (IMAGE, {"out": np.zeros(SHAPE)}, ParameterError, "out must be"),
    ],
)
def test_bad_input_is_one_sentence(image, options, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        automatic_3d_segmentation(image, *_ais(), verbose=False, **options)
    assert "\n" not in str(raised.value)


def test_the_volume_method_needs_a_decoder():
    predictor = toy_predictor()
    amg = AutomaticMaskGenerator(predictor, points_per_side=4)
    with pytest.raises(ParameterError, match="decoder"):
        automatic_3d_segmentation(IMAGE, predictor, amg, verbose=False, volume_method="volume")
