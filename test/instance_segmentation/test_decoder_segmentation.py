"""With a decoder that knows the truth, AIS and APG must give the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from elf.evaluation import mean_segmentation_accuracy
from scipy import ndimage
from segmentation_toys import TrueDecoder, draw_ellipses, embeddings_of, toy_predictor, true_maps
from skimage.segmentation import watershed

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation import (
    AutomaticPromptGenerator,
    InstanceSegmentationWithDecoder,
    NotInitializedError,
)
from micro_sam.instance_segmentation.rle import from_rle

BOTH = pytest.mark.parametrize("cls", [InstanceSegmentationWithDecoder, AutomaticPromptGenerator])


def touching_cells(shape=(256, 256), n=40, seed=3) -> np.ndarray:
    """Cells that fill the plane, as the territories of points that keep a distance, minus some of them."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, shape, (n, 2))
    marks = np.zeros(shape, dtype=np.int32)
    for k, point in enumerate(points, start=1):
        marks[tuple(point)] = k
    cells = watershed(ndimage.distance_transform_edt(marks == 0), marks)
    cells[np.isin(cells, rng.choice(n, n // 3, replace=False) + 1)] = 0
    return cells.astype(np.uint32)


def make(cls, labels, predictor=None):
    segmenter = cls(predictor or toy_predictor(), TrueDecoder(true_maps(labels)))
    segmenter.initialize(None, embeddings_of(labels))
    return segmenter


@BOTH
def test_separate_objects_are_found_exactly(cls):
    labels = draw_ellipses((300, 420), 12, (14, 35))
    result = make(cls, labels).generate()
    assert result.dtype == np.uint32
    assert result.max() == labels.max()
    assert mean_segmentation_accuracy(result, labels) == 1


def test_touching_cells_are_separated():
    labels = touching_cells()
    result = make(InstanceSegmentationWithDecoder, labels).generate(center_distance_threshold=0.4)
    assert mean_segmentation_accuracy(result, labels) > 0.85


@BOTH
def test_blocks_and_tiles_of_memory_give_the_same(cls):
    labels = draw_ellipses((300, 420), 12, (10, 35))
    segmenter = make(cls, labels)
    whole = segmenter.generate()
    if cls is InstanceSegmentationWithDecoder:
        out = np.zeros(labels.shape, dtype=np.uint16)
        for kwargs in ({"tile_shape": (100, 128), "halo": (40, 40)}, {"optimize_memory": True}, {"segmentation": out}):
            blockwise = segmenter.generate(n_threads=2, **kwargs)
            assert mean_segmentation_accuracy(blockwise[:], whole) == 1
        assert out.max() == labels.max()
    else:
        np.testing.assert_array_equal(segmenter.generate(optimize_memory=True), whole)


@BOTH
def test_min_size_removes_small_objects(cls):
    labels = np.zeros((200, 200), dtype=np.uint32)
    labels[10:20, 10:20], labels[60:140, 60:140] = 1, 2
    segmenter = make(cls, labels)
    assert segmenter.generate(min_size=0).max() == 2
    assert segmenter.generate(min_size=500).max() == 1


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (70, 90)])
def test_nothing_in_the_image_gives_an_empty_label_image(cls, shape):
    segmenter = make(cls, np.zeros(shape, dtype=np.uint32))
    result = segmenter.generate()
    assert result.shape == shape
    assert result.dtype == np.uint32
    assert not result.any()
    assert segmenter.generate(output_mode="binary_mask") == []


@BOTH
def test_an_object_that_fills_the_image(cls):
    labels = np.ones((80, 120), dtype=np.uint32)
    maps = np.zeros((3, *labels.shape), dtype=np.float32)
    maps[0] = 1
    segmenter = cls(toy_predictor(), TrueDecoder(maps))
    segmenter.initialize(None, embeddings_of(labels))
    np.testing.assert_array_equal(segmenter.generate(), labels)


@BOTH
@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_records_hold_the_same_masks(cls, mode):
    labels = draw_ellipses((200, 220), 5, (10, 25))
    segmenter = make(cls, labels)
    expected = segmenter.generate()
    records = segmenter.generate(output_mode=mode)
    assert len(records) == labels.max()
    for record in records:
        mask = record["segmentation"] if mode == "binary_mask" else from_rle(record["segmentation"])
        number = np.unique(expected[mask])
        assert len(number) == 1 and number[0] > 0
        assert record["area"] == np.count_nonzero(mask) == np.count_nonzero(expected == number[0])
        x, y, width, height = record["bbox"]
        assert mask[y : y + height + 1, x : x + width + 1].sum() == record["area"]


@BOTH
def test_state_round_trip(cls):
    labels = draw_ellipses((200, 220), 5, (10, 25))
    segmenter = make(cls, labels)
    other = cls(toy_predictor(), TrueDecoder(np.zeros((3, 1, 1))))
    other.set_state(segmenter.get_state())
    np.testing.assert_array_equal(other.generate(), segmenter.generate())
    other.clear_state()
    with pytest.raises(NotInitializedError):
        other.generate()


def test_prompts_need_embeddings_beside_stored_maps():
    labels = draw_ellipses((200, 220), 5, (10, 25))
    state = make(InstanceSegmentationWithDecoder, labels).get_state()
    segmenter = AutomaticPromptGenerator(toy_predictor(), TrueDecoder(np.zeros((3, 1, 1))))
    segmenter.set_state(state)
    with pytest.raises(NotInitializedError, match="image_embeddings"):
        segmenter.generate()
    segmenter.set_state({**state, "image_embeddings": embeddings_of(labels)})
    assert mean_segmentation_accuracy(segmenter.generate(), labels) == 1


def test_generate_uses_its_own_image_after_another_was_set():
    labels, others = draw_ellipses((200, 220), 5, (10, 25)), draw_ellipses((200, 220), 5, (10, 25), seed=7)
    predictor = toy_predictor()
    first = make(AutomaticPromptGenerator, labels, predictor)
    make(AutomaticPromptGenerator, others, predictor)
    assert mean_segmentation_accuracy(first.generate(), labels) == 1


@pytest.mark.parametrize(
    "kwargs",
    [{"multimasking": True}, {"refine_with_box_prompts": True}, {"batch_size": 2}, {"mask_threshold": "auto"},
     {"mask_threshold": 0.0}, {"intersection_over_min": True}],
)  # fmt: skip
def test_options_of_prompt_generation_keep_the_truth(kwargs):
    labels = draw_ellipses((200, 220), 6, (10, 25))
    assert mean_segmentation_accuracy(make(AutomaticPromptGenerator, labels).generate(**kwargs), labels) == 1


def test_several_seeds_in_one_object_give_one_mask():
    labels = draw_ellipses((200, 220), 4, (20, 30))
    maps = true_maps(labels)
    split = maps.copy()
    for k in range(1, int(labels.max()) + 1):
        ys, xs = np.nonzero(labels == k)
        split[1:, int(ys.mean()) - 3 : int(ys.mean()) + 3, xs.min() : xs.max() + 1] = 1
    segmenter = AutomaticPromptGenerator(toy_predictor(), TrueDecoder(split))
    segmenter.initialize(None, embeddings_of(labels))
    assert InstanceSegmentationWithDecoder(toy_predictor(), TrueDecoder(split)) is not None
    assert mean_segmentation_accuracy(segmenter.generate(center_distance_threshold=0.9), labels) == 1


def test_prompt_function_is_used_and_checked():
    labels = draw_ellipses((200, 220), 6, (10, 25))
    segmenter = make(AutomaticPromptGenerator, labels)

    def first_object(foreground, center_distances, boundary_distances, **thresholds):
        assert set(thresholds) == {
            "center_distance_threshold", "boundary_distance_threshold", "foreground_threshold"
        }  # fmt: skip
        ys, xs = np.nonzero(labels == 1)
        return {"boxes": np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])}

    result = segmenter.generate(prompt_function=first_object)
    assert result.max() == 1
    assert mean_segmentation_accuracy(result, (labels == 1).astype(np.uint32)) == 1
    with pytest.raises(ParameterError, match="prompt_function must return"):
        segmenter.generate(prompt_function=lambda *args, **kwargs: {"dots": None})


@BOTH
def test_wrong_parameters_are_told(cls):
    segmenter = make(cls, draw_ellipses((100, 100), 2, (8, 12)))
    with pytest.raises(ParameterError, match="foreground_threshold must be between 0.0 and 1.0, got 5"):
        segmenter.generate(foreground_threshold=5)
    with pytest.raises(ParameterError, match="min_size must be at least 0"):
        segmenter.generate(min_size=-1)
    with pytest.raises(ParameterError, match="needs a decoder"):
        cls(toy_predictor(), None)
    with pytest.raises(ParameterError, match="lacks center_distances"):
        segmenter.set_state({name: np.zeros((3, 3)) for name in ("foreground", "boundary_distances")})
    with pytest.raises(ParameterError, match="same shape"):
        segmenter.set_state(
            {"foreground": np.zeros((3, 3)), "boundary_distances": np.zeros((3, 3)), "center_distances": np.zeros(3)}
        )


def test_wrong_output_array_is_told():
    segmenter = make(InstanceSegmentationWithDecoder, draw_ellipses((100, 100), 2, (8, 12)))
    with pytest.raises(ParameterError, match="shape"):
        segmenter.generate(segmentation=np.zeros((5, 5), dtype=np.uint32))
    with pytest.raises(ParameterError, match="slice by slice"):
        segmenter.initialize(None, embeddings_of(np.zeros((9, 9), dtype=np.uint32)), ndim=3)


def test_decoder_is_called_with_tensors_and_both_shapes():
    labels = draw_ellipses((150, 100), 3, (8, 12))
    seen = []

    class Spy(TrueDecoder):
        def forward(self, features, input_shape, original_shape):
            seen.append((features.shape, features.dtype, input_shape, original_shape))
            return super().forward(features, input_shape, original_shape)

    InstanceSegmentationWithDecoder(toy_predictor(), Spy(true_maps(labels))).initialize(None, embeddings_of(labels))
    assert seen == [((1, 256, 64, 64), torch.float32, (1024, 683), (150, 100))]
