"""The fast mask decoder computes what Segment Anything's does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from micro_sam.mask_decoding import Prompts, decode
from micro_sam.models.fast_mask_decoder import fast_mask_decoder


class Parts(nn.Module):
    """A Sam without its encoder, with weights at random but all of them different from their initial values."""

    mask_threshold, image_format = 0.0, "RGB"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_encoder = nn.Identity()
        self.image_encoder.img_size = 1024
        self.prompt_encoder = PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3, transformer=transformer, transformer_dim=256, iou_head_depth=3,
            iou_head_hidden_dim=256,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in self.parameters():
                parameter += 0.03 * torch.randn_like(parameter)
        self.eval()

    @property
    def device(self):
        return torch.device("cpu")


@pytest.fixture(scope="module")
def predictor():
    predictor = SamPredictor(Parts())
    torch.manual_seed(1)
    predictor.features = torch.randn(1, 256, 64, 64)
    predictor.input_size, predictor.original_size, predictor.is_image_set = (1024, 700), (512, 350), True
    return predictor


def original(predictor, prompts: Prompts, multimask: bool):
    """What the original computes; a forward hook keeps the fast form away."""
    handle = predictor.model.mask_decoder.transformer.register_forward_hook(lambda *args: None)
    try:
        assert fast_mask_decoder(predictor.model.mask_decoder) is None
        return decode(predictor, prompts, multimask)
    finally:
        handle.remove()


def some_prompts(kind: str, n: int = 3) -> Prompts:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 340, (n, 2, 2))
    boxes = np.sort(rng.uniform(0, 340, (n, 2, 2)), axis=1).reshape(n, 4)
    labels = np.tile([1, 0], (n, 1))
    return {
        "point": Prompts(points[:, :1], labels[:, :1]),
        "points": Prompts(points, labels),
        "box": Prompts(boxes=boxes),
        "box and points": Prompts(points, labels, boxes),
    }[kind]


@pytest.mark.parametrize("kind", ["point", "points", "box", "box and points"])
@pytest.mark.parametrize("multimask", [True, False])
def test_equals_the_original_in_float32(predictor, kind, multimask):
    prompts = some_prompts(kind)
    with torch.no_grad():
        assert fast_mask_decoder(predictor.model.mask_decoder) is not None
    logits, ious = decode(predictor, prompts, multimask)
    expected_logits, expected_ious = original(predictor, prompts, multimask)
    assert logits.dtype == ious.dtype == torch.float32
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4 * expected_logits.abs().max().item())
    torch.testing.assert_close(ious, expected_ious, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_and_returns_float32(predictor):
    prompts = some_prompts("point", n=4)
    expected_logits, expected_ious = decode(predictor, prompts, True)
    predictor.precision = "bfloat16"
    try:
        logits, ious = decode(predictor, prompts, True)
    finally:
        del predictor.precision
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected_logits)
    assert ((logits - expected_logits).norm() / expected_logits.norm()).item() < 0.03
    torch.testing.assert_close(ious, expected_ious, rtol=0.03, atol=0.03)


def test_a_batch_equals_single_prompts(predictor):
    prompts = some_prompts("points")
    together, _ = decode(predictor, prompts, True)
    for k in range(3):
        alone, _ = decode(predictor, prompts[k : k + 1], True)
        torch.testing.assert_close(alone[0], together[k], rtol=1e-4, atol=1e-3)


def test_follows_changed_weights_and_changed_images(predictor):
    predictor = copy.copy(predictor)
    predictor.model = copy.deepcopy(predictor.model)
    prompts = some_prompts("point", n=1)
    before, _ = decode(predictor, prompts, False)
    with torch.no_grad():
        predictor.model.mask_decoder.output_upscaling[3].weight *= 2
    changed, _ = decode(predictor, prompts, False)
    torch.testing.assert_close(changed, original(predictor, prompts, False)[0], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(before, changed)
    predictor.features = torch.randn(1, 256, 64, 64)
    other, _ = decode(predictor, prompts, False)
    torch.testing.assert_close(other, original(predictor, prompts, False)[0], rtol=1e-4, atol=1e-3)


def test_mask_prompts_take_the_original(predictor):
    masks = torch.randn(2, 1, 256, 256)
    logits, _ = decode(predictor, Prompts(masks=masks), False)
    expected, _ = original(predictor, Prompts(masks=masks), False)
    torch.testing.assert_close(logits, expected)


def test_stays_away_when_gradients_are_wanted_or_layers_are_others(predictor):
    decoder = copy.deepcopy(predictor.model.mask_decoder)
    assert fast_mask_decoder(decoder) is None  # gradients are on

    class Adapter(nn.Linear):
        pass

    with torch.no_grad():
        assert fast_mask_decoder(decoder) is not None
        decoder.transformer.layers[0].cross_attn_image_to_token.q_proj = Adapter(256, 128)
        assert fast_mask_decoder(decoder) is None
    assert fast_mask_decoder(nn.Identity()) is None
