"""From files and arrays to labels, with the toy models that know the answer."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from segmentation_toys import TrueDecoder, draw_ellipses, toy_predictor, true_maps

from micro_sam import automatic_segmentation as library
from micro_sam.automatic_segmentation import (
    automatic_instance_segmentation,
    get_predictor_and_segmenter,
    segmentation_mode_of,
)
from micro_sam.errors import ImageError, MissingInputError, ParameterError
from micro_sam.instance_segmentation import InstanceSegmentationWithDecoder
from micro_sam.io import load_image_data, open_image
from micro_sam.labels import compute_iou

LABELS = draw_ellipses((200, 160), 5, (14, 22))
IMAGE = np.where(LABELS > 0, 220, 20).astype(np.uint8)

LENIENT = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.5}  # the toy model's inner parts have at most 0.85


def _matches(found: np.ndarray, truth: np.ndarray = LABELS) -> bool:
    """Whether every true object is found, and nothing else."""
    ids = np.setdiff1d(np.unique(found), [0])
    best = [max((compute_iou(truth == t, found == f) for f in ids), default=0) for t in np.setdiff1d(truth, [0])]
    return len(ids) == len(best) and min(best) > 0.8


@pytest.fixture
def with_decoder():
    predictor = toy_predictor()
    return predictor, InstanceSegmentationWithDecoder(predictor, TrueDecoder(true_maps(LABELS)))


def test_an_array_gives_labels(with_decoder):
    labels = automatic_instance_segmentation(*with_decoder, IMAGE, verbose=False)
    assert labels.shape == IMAGE.shape and np.issubdtype(labels.dtype, np.integer)
    assert _matches(labels)


def test_a_file_gives_a_file_with_its_resolution(with_decoder, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", IMAGE, resolution=(3e4, 3e4), resolutionunit=3)
    out = tmp_path / "out.tif"
    labels = automatic_instance_segmentation(*with_decoder, tmp_path / "in.tif", out, verbose=False)
    np.testing.assert_array_equal(load_image_data(out), labels)
    assert open_image(out).resolution == open_image(tmp_path / "in.tif").resolution


def test_embeddings_are_kept_used_again_and_returned(with_decoder, tmp_path, monkeypatch):
    store = tmp_path / "image.zarr"
    first, embeddings = automatic_instance_segmentation(
        *with_decoder, IMAGE, embedding_path=store, verbose=False, return_embeddings=True
    )
    assert tuple(embeddings["original_size"]) == IMAGE.shape and store.is_dir()
    monkeypatch.setattr(with_decoder[0].model, "image_encoder", None)
    second = automatic_instance_segmentation(*with_decoder, IMAGE, embedding_path=store, verbose=False)
    np.testing.assert_array_equal(first, second)


def test_parameters_win_over_defaults(with_decoder):
    sizes = np.sort(np.bincount(LABELS.ravel())[1:])
    labels = automatic_instance_segmentation(*with_decoder, IMAGE, min_size=int(sizes[-1]) - 30, verbose=False)
    assert len(np.unique(labels)) - 1 < len(sizes)


def test_nothing_is_segmented_outside_the_mask(with_decoder):
    mask = np.zeros(IMAGE.shape, bool)
    mask[:, :80] = True
    labels = automatic_instance_segmentation(*with_decoder, IMAGE, mask_path=mask, verbose=False)
    assert not labels[:, 80:].any()
    assert _matches(labels, np.where(mask, LABELS, 0))
    with pytest.raises(ParameterError, match="mask"):
        automatic_instance_segmentation(*with_decoder, IMAGE, mask_path=mask[:50], verbose=False)


def test_the_grid_of_points_segments_without_a_decoder():
    predictor, segmenter = get_predictor_and_segmenter("vit_b", predictor=toy_predictor(), points_per_side=12)
    assert segmentation_mode_of(segmenter) == "amg"
    labels = automatic_instance_segmentation(predictor, segmenter, IMAGE, verbose=False, **LENIENT)
    assert _matches(labels)


def test_tiles_need_a_segmenter_for_tiles_and_the_other_way_round(with_decoder):
    with pytest.raises(ParameterError, match="is_tiled=True"):
        automatic_instance_segmentation(*with_decoder, IMAGE, tile_shape=(64, 64), halo=(8, 8), verbose=False)
    predictor, tiled = get_predictor_and_segmenter("vit_b", predictor=toy_predictor(), is_tiled=True)
    with pytest.raises(ParameterError, match="tile_shape and halo"):
        automatic_instance_segmentation(predictor, tiled, IMAGE, verbose=False, automatic_tiling=False)


def test_tiled_segmentation_of_a_file(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", IMAGE)
    predictor, segmenter = get_predictor_and_segmenter(
        "vit_b", predictor=toy_predictor(), is_tiled=True, points_per_side=10
    )
    labels = automatic_instance_segmentation(
        predictor, segmenter, tmp_path / "in.tif", tile_shape=(100, 80), halo=(40, 40), verbose=False, **LENIENT
    )
    assert _matches(labels)


@pytest.mark.parametrize("mode", ["ais", "apg"])
def test_modes_that_need_a_decoder_say_so(mode):
    with pytest.raises(ParameterError, match="decoder"):
        get_predictor_and_segmenter("vit_b", predictor=toy_predictor(), segmentation_mode=mode)


def test_unknown_modes_are_refused():
    with pytest.raises(ParameterError, match="'magic'"):
        get_predictor_and_segmenter("vit_b", predictor=toy_predictor(), segmentation_mode="magic")


def test_the_decoder_may_come_from_the_state():
    from micro_sam.models.decoder import LightDecoder

    state = {"decoder_state": LightDecoder().state_dict()}
    for mode in (None, "ais", "apg"):
        _, segmenter = get_predictor_and_segmenter(
            "vit_t", predictor=toy_predictor(), state=state, segmentation_mode=mode, device="cpu"
        )
        assert segmentation_mode_of(segmenter) == (mode or "ais")
    _, segmenter = get_predictor_and_segmenter("vit_t", predictor=toy_predictor(), state=state, segmentation_mode="amg")
    assert segmentation_mode_of(segmenter) == "amg"


def test_defaults_of_a_registered_model_are_used_but_not_for_a_checkpoint_of_ones_own(with_decoder):
    from micro_sam.models.cache import checkpoint_location
    from micro_sam.models.spec import get_spec

    predictor, segmenter = with_decoder
    predictor.model_name, predictor.checkpoint_path = "vit_b_lm", str(checkpoint_location("vit_b_lm"))
    defaults = library.model_defaults(predictor, segmenter)
    spec = get_spec("vit_b_lm")
    assert defaults["min_size"] == spec.ais["min_size"]
    assert defaults["distance_smoothing"] == spec.ais["distance_smoothing"]
    predictor.checkpoint_path = "mine.pt"
    assert library.model_defaults(predictor, segmenter) == {}


def test_bad_inputs_are_one_sentence(with_decoder, tmp_path):
    for image, error in [
        (tmp_path / "missing.tif", MissingInputError),
        (np.zeros((0, 5)), ImageError),
        (np.zeros((2, 3, 4, 40, 40)), ImageError),
        (np.array(["a"]), ImageError),
    ]:
        with pytest.raises(error) as raised:
            automatic_instance_segmentation(*with_decoder, image, verbose=False)
        assert "\n" not in str(raised.value)


def test_a_version_without_windows_says_so(with_decoder, monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="sam_annotator"):
        automatic_instance_segmentation(*with_decoder, IMAGE, annotate=True, verbose=False)


@pytest.mark.parametrize("own_file", [False, True])
def test_a_result_is_opened_with_the_model_that_made_it(own_file, monkeypatch, tmp_path):
    from micro_sam import sam_annotator
    from micro_sam.models.cache import checkpoint_location

    opened = []
    monkeypatch.setattr(sam_annotator, "annotator_2d", lambda *arguments, **model: opened.append(model))
    predictor = toy_predictor()
    predictor.model_name, predictor.model_type = "vit_t_builtin", "vit_t"
    predictor.checkpoint_path = tmp_path / "my.pt" if own_file else checkpoint_location("vit_t_builtin")
    library.open_annotator(IMAGE, LABELS, None, predictor)
    expected = {"model_type": "vit_t", "checkpoint_path": tmp_path / "my.pt"}
    assert opened == [expected if own_file else {"model_type": "vit_t_builtin"}]


def test_a_volume_is_segmented_as_one_and_a_mask_limits_it(with_decoder):
    volume, mask = np.stack([IMAGE] * 5), np.zeros(IMAGE.shape, bool)
    mask[:, :80] = True
    labels = automatic_instance_segmentation(*with_decoder, volume, mask_path=mask, verbose=False)
    assert labels.shape == volume.shape and (labels == labels[0]).all()
    assert _matches(labels[0], np.where(mask, LABELS, 0))
    assert not labels[:, :, 80:].any()


def test_settings_of_volumes_are_refused_for_images(with_decoder):
    with pytest.raises(ParameterError, match="gap_closing belongs to volumes"):
        automatic_instance_segmentation(*with_decoder, IMAGE, gap_closing=2, verbose=False)
