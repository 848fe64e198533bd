from __future__ import annotations

import numpy as np
import pytest
import torch

from micro_sam.bioimageio import AutomaticSegmentationAdaptor, PredictorAdaptor
from micro_sam.embeddings.preprocessing import to_image
from micro_sam.errors import CheckpointError, ImageError, ParameterError, PromptError
from micro_sam.instance_segmentation import InstanceSegmentationWithDecoder
from micro_sam.models.decoder_adapter import get_predictor_and_decoder
from micro_sam.prompt_based_segmentation import segment_from_box

BOXES = torch.tensor([[[10.0, 20, 50, 60], [60, 30, 100, 80]]])
POINTS = torch.tensor([[[[30.0, 40]], [[80, 55]]]])
LABELS = torch.ones(1, 2, 1, dtype=torch.int64)


@pytest.fixture(scope="module")
def adaptor(source):
    adaptor = PredictorAdaptor("vit_t")
    adaptor.load_state_dict(source.model_state)
    return adaptor


@pytest.fixture(scope="module")
def from_boxes(adaptor, image_tensor):
    return adaptor(image_tensor, BOXES)


def test_masks_are_those_of_micro_sam(from_boxes, sample):
    predictor, _ = get_predictor_and_decoder("vit_t_builtin", device="cpu", precision="float32")
    predictor.set_image(to_image(sample[0]))
    masks, scores, embeddings = from_boxes
    assert masks.shape == (1, 2, 1, 96, 128) and masks.dtype == torch.uint8
    assert scores.shape == (1, 2, 1) and embeddings.shape == (1, 256, 64, 64)
    for box, mask in zip(BOXES[0].numpy(), masks[0, :, 0].numpy()):
        expected = segment_from_box(predictor, box[[1, 0, 3, 2]])
        assert expected.any()
        np.testing.assert_array_equal(expected.squeeze().astype(np.uint8), mask)


def test_embeddings_can_be_passed_back_in(adaptor, from_boxes, image_tensor):
    embeddings = from_boxes[2].clone()
    masks, scores, again = adaptor(torch.zeros_like(image_tensor), BOXES, embeddings=embeddings)
    torch.testing.assert_close(masks, from_boxes[0])
    torch.testing.assert_close(scores, from_boxes[1])
    torch.testing.assert_close(again, embeddings)


def test_every_kind_of_prompt_has_an_effect(adaptor, from_boxes, image_tensor):
    embeddings = from_boxes[2].clone()
    by_points, _, _ = adaptor(image_tensor, None, POINTS, LABELS, embeddings=embeddings)
    assert all(by_points[0, i, 0, int(POINTS[0, i, 0, 1]), int(POINTS[0, i, 0, 0])] for i in range(2))
    both, _, _ = adaptor(image_tensor, BOXES, POINTS, 0 * LABELS, embeddings=embeddings)
    assert (both != from_boxes[0]).any()
    logits = torch.full((1, 2, 1, 256, 256), -20.0)
    masked, _, _ = adaptor(image_tensor, BOXES, mask_prompts=logits, embeddings=embeddings)
    assert (masked != from_boxes[0]).any()


def test_without_prompts_there_are_embeddings_and_no_masks(adaptor, from_boxes, image_tensor):
    masks, scores, embeddings = adaptor(image_tensor, embeddings=from_boxes[2].clone())
    assert masks.shape == (1, 0, 1, 96, 128) and scores.shape == (1, 0, 1) and embeddings.shape == (1, 256, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box_prompts": BOXES[0]}, r"box_prompts have the shape \(1, objects, 4\), got \(2, 4\)"),
        ({"point_prompts": POINTS}, "Points need labels"),
        ({"box_prompts": BOXES, "point_prompts": POINTS[:, :1], "point_labels": LABELS[:, :1]}, "same objects, got 2"),
        ({"point_prompts": POINTS, "point_labels": LABELS[..., 0]}, "point_labels have the shape"),
        ({"mask_prompts": torch.zeros(1, 2, 256, 256)}, "mask_prompts have the shape"),
    ],
)
def test_malformed_prompts_are_refused(adaptor, image_tensor, arguments, message):
    with pytest.raises(PromptError, match=message):
        adaptor(image_tensor, **arguments)


def test_malformed_images_are_refused(adaptor, image_tensor):
    with pytest.raises(ImageError, match="batch, 3, height, width"):
        adaptor(image_tensor[:, :1], BOXES)
    with pytest.raises(ImageError, match="batch of 2"):
        adaptor(image_tensor.repeat(2, 1, 1, 1), BOXES)
    with pytest.raises(ImageError, match="Embeddings have the shape"):
        adaptor(image_tensor, BOXES, embeddings=torch.zeros(1, 256, 32, 32))


def test_weights_go_in_and_out_in_the_flat_layout(adaptor, source):
    assert set(adaptor.state_dict()) == set(source.model_state)
    adaptor.load_state_dict({"model_state": source.model_state})
    with pytest.raises(CheckpointError, match="lacks image_encoder.neck.0.weight"):
        adaptor.load_state_dict({k: v for k, v in source.model_state.items() if k != "image_encoder.neck.0.weight"})


@pytest.fixture(scope="module")
def automatic(source):
    adaptor = AutomaticSegmentationAdaptor("vit_t", {"min_size": 20, "foreground_threshold": 0.6})
    adaptor.load_state_dict({"model_state": source.model_state, "decoder_state": source.decoder_state})
    return adaptor


def test_automatic_segmentation_is_that_of_micro_sam(automatic, image_tensor, sample):
    labels, maps = automatic(image_tensor)
    assert labels.shape == (1, 1, 96, 128) and labels.dtype == torch.int32
    predictor, decoder = get_predictor_and_decoder("vit_t_builtin", device="cpu", precision="float32")
    segmenter = InstanceSegmentationWithDecoder(predictor, decoder)
    segmenter.initialize(sample[0])
    expected = segmenter.generate(min_size=20, foreground_threshold=0.6)
    assert expected.max() >= 3
    np.testing.assert_array_equal(labels[0, 0].numpy(), expected)
    np.testing.assert_allclose(maps[0].numpy(), np.stack(list(segmenter.get_state().values())), atol=1e-6)


def test_automatic_segmentation_needs_a_decoder_and_known_settings(automatic, source, image_tensor):
    assert set(automatic.state_dict()) == {"model_state", "decoder_state"}
    with pytest.raises(CheckpointError, match="no decoder_state"):
        automatic.load_state_dict(source.model_state)
    with pytest.raises(CheckpointError, match="no weights yet"):
        AutomaticSegmentationAdaptor("vit_t")(image_tensor)
    with pytest.raises(ParameterError, match="colour is no parameter"):
        AutomaticSegmentationAdaptor("vit_t", {"colour": 1})
