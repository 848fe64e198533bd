"""Objects that cross the borders of tiles come out whole."""

from __future__ import annotations

import numpy as np
import pytest
from elf.evaluation import mean_segmentation_accuracy
from segmentation_toys import TrueDecoder, draw_ellipses, embeddings_of, toy_predictor, true_maps

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.embeddings.tiling import Tiling
from micro_sam.errors import ParameterError
from micro_sam.inference import batched_tiled_inference
from micro_sam.instance_segmentation import (
    TiledAutomaticMaskGenerator,
    TiledAutomaticPromptGenerator,
    TiledInstanceSegmentationWithDecoder,
    get_instance_segmentation_generator,
)
from micro_sam.labels import get_centers_and_bounding_boxes

WITH_DECODER = pytest.mark.parametrize("cls", [TiledInstanceSegmentationWithDecoder, TiledAutomaticPromptGenerator])
SHAPE, TILE, HALO = (300, 420), (128, 128), (32, 32)


def image_of(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 255, 0).astype(np.uint8)


def tiled(labels: np.ndarray, predictor=None, tile=TILE, halo=HALO, mask=None):
    """A predictor, tiled embeddings and a decoder that knows the truth in every tile."""
    predictor = predictor or toy_predictor()
    embeddings = precompute_image_embeddings(
        predictor, image_of(labels), tile_shape=tile, halo=halo, verbose=False, mask=mask
    )
    maps, grid = true_maps(labels), Tiling(labels.shape, tile, halo)
    ids = range(grid.n_tiles) if mask is None else embeddings["features"].attrs["tiles_in_mask"]
    decoder = TrueDecoder(*[maps[(slice(None), *grid.tile(k).outer)] for k in ids])
    return predictor, embeddings, decoder


@pytest.fixture(scope="module")
def small_objects():
    return draw_ellipses(SHAPE, 14, (12, 26))


@pytest.fixture(scope="module")
def long_objects():
    """Bars that reach over several tiles, beyond any halo."""
    labels = np.zeros(SHAPE, dtype=np.uint32)
    labels[20:50, 10:410], labels[120:150, 30:300], labels[60:290, 340:375] = 1, 2, 3
    labels[200:230, 40:60] = 4
    return labels


@WITH_DECODER
def test_small_objects_on_borders_are_whole(cls, small_objects):
    predictor, embeddings, decoder = tiled(small_objects)
    segmenter = cls(predictor, decoder)
    segmenter.initialize(image_of(small_objects), embeddings)
    result = segmenter.generate()
    assert result.max() == small_objects.max()
    assert mean_segmentation_accuracy(result, small_objects) == 1


@WITH_DECODER
def test_objects_longer_than_a_tile_are_whole(cls, long_objects):
    predictor, embeddings, decoder = tiled(long_objects)
    segmenter = cls(predictor, decoder)
    segmenter.initialize(None, embeddings)
    result = segmenter.generate(center_distance_threshold=1.0)
    assert result.max() == 4
    assert mean_segmentation_accuracy(result, long_objects) > 0.95


def test_pieces_come_from_the_mask_decoder_where_it_agrees(long_objects):
    predictor, embeddings, decoder = tiled(long_objects)
    for maps in decoder.maps:
        shrunk = maps[0].copy()
        shrunk[1:] *= maps[0, :-1]
        maps[0] = shrunk
    segmenter = TiledAutomaticPromptGenerator(predictor, decoder)
    segmenter.initialize(None, embeddings)
    before = predictor.model.mask_decoder.n_decoded
    segmenter.generate(center_distance_threshold=1.0)
    assert predictor.model.mask_decoder.n_decoded - before > 4


@pytest.mark.parametrize("kind", ["small", "long"])
def test_generated_masks_are_whole(kind, small_objects, long_objects):
    labels = small_objects if kind == "small" else long_objects
    predictor, embeddings, _ = tiled(labels)
    generator = TiledAutomaticMaskGenerator(predictor, points_per_side=8)
    generator.initialize(None, embeddings)
    result = generator.generate(stability_score_thresh=0.6, pred_iou_thresh=0.88)
    assert result.max() == labels.max()
    assert mean_segmentation_accuracy(result, labels) > 0.95


def test_every_point_of_the_plane_is_decoded_once(small_objects):
    predictor, embeddings, _ = tiled(small_objects)
    generator = TiledAutomaticMaskGenerator(predictor, points_per_side=8)
    generator.initialize(None, embeddings)
    assert predictor.model.mask_decoder.n_decoded < 12 * 64
    state = generator.get_state()
    points = np.concatenate([state[f"crop-{k}"]["points_xy"] + state[f"crop-{k}"]["crop_box"][:2] for k in range(12)])
    owners = np.concatenate([[k] * len(state[f"crop-{k}"]["points_xy"]) for k in range(12)])
    grid = Tiling(SHAPE, TILE, HALO)
    assert [grid.tile_for_point(y, x) for x, y in points] == owners.tolist()


def test_state_of_tiled_generation_round_trip(small_objects):
    predictor, embeddings, _ = tiled(small_objects)
    generator = TiledAutomaticMaskGenerator(predictor, points_per_side=6)
    generator.initialize(None, embeddings)
    other = TiledAutomaticMaskGenerator(predictor, points_per_side=6)
    other.set_state(generator.get_state())
    np.testing.assert_array_equal(other.generate(0.5, 0.5), generator.generate(0.5, 0.5))


@WITH_DECODER
def test_embeddings_are_computed_if_not_given(cls, small_objects):
    predictor, _, decoder = tiled(small_objects)
    decoder.calls = 0
    segmenter = cls(predictor, decoder)
    segmenter.initialize(image_of(small_objects), tile_shape=TILE, halo=HALO)
    assert mean_segmentation_accuracy(segmenter.generate(), small_objects) == 1


@WITH_DECODER
def test_tiles_outside_the_mask_stay_empty(cls, small_objects):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:120, :120] = True
    predictor, embeddings, decoder = tiled(small_objects, mask=mask)
    segmenter = cls(predictor, decoder)
    segmenter.initialize(None, embeddings)
    result = segmenter.generate()
    assert result[:128, :128].any()
    assert not result[200:, 200:].any()


@pytest.mark.parametrize("mode", ["amg", "ais", "apg"])
def test_factory_makes_tiled_segmenters_that_need_tiles(mode, small_objects):
    predictor, _, decoder = tiled(small_objects)
    segmenter = get_instance_segmentation_generator(predictor, True, decoder, mode)
    assert type(segmenter).__name__.startswith("Tiled")
    with pytest.raises(ParameterError, match="tile_shape and halo"):
        segmenter.initialize(image_of(small_objects))
    with pytest.raises(ParameterError, match="tiles"):
        segmenter.initialize(None, embeddings_of(small_objects))


def test_batched_prompts_are_decoded_in_their_tiles(small_objects):
    predictor, embeddings, _ = tiled(small_objects)
    centers, boxes = get_centers_and_bounding_boxes(small_objects)
    points = np.array([centers[k][::-1] for k in centers])[:, None]
    corners = np.array([[boxes[k][1], boxes[k][0], boxes[k][3], boxes[k][2]] for k in boxes])
    for prompts in ({"points": points, "point_labels": np.ones((len(points), 1))}, {"boxes": corners}):
        result = batched_tiled_inference(predictor, None, 4, embeddings, **prompts)
        assert sorted(np.unique(result[result > 0])) == sorted(centers)
        for k in centers:
            assert np.count_nonzero((result == k) & (small_objects == k)) > 0.85 * np.count_nonzero(small_objects == k)
    twice = batched_tiled_inference(
        predictor, None, 4, embeddings, boxes=np.concatenate([corners, corners]), nms_thresh=0.5, optimize_memory=True
    )
    assert len(np.unique(twice)) == len(corners) + 1
    records = batched_tiled_inference(predictor, None, 4, embeddings, boxes=corners, return_instance_segmentation=False)
    assert [len(objects) for objects in records] == [1] * len(corners)
    assert records[0][0]["segmentation"].shape == SHAPE
    with pytest.raises(ParameterError, match="Unknown argument 'nms'"):
        batched_tiled_inference(predictor, None, 4, embeddings, boxes=corners, nms=1)
