from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fast_toys import randomise, relative_error
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from micro_sam.models.accelerate import accelerate_mask_decoder
from micro_sam.models.fast_mask_decoder import FastMaskDecoder

CHANNELS, SIDE = 32, 8


def toy_decoder(seed: int = 0) -> MaskDecoder:
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=48, num_heads=4)
    return randomise(MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, iou_head_hidden_dim=16), seed)


@pytest.fixture(scope="module")
def prompts():
    """Arguments of a mask decoder, by the kind of prompt."""
    encoder = randomise(PromptEncoder(CHANNELS, (SIDE, SIDE), (128, 128), mask_in_chans=4), 3)
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(1, CHANNELS, SIDE, SIDE, generator=generator)
    points = 128 * torch.rand(5, 2, 2, generator=generator), torch.tensor([[1, 0]]).expand(5, 2)
    boxes = 128 * torch.rand(5, 4, generator=generator)
    masks = torch.randn(5, 1, 4 * SIDE, 4 * SIDE, generator=generator)
    kinds = {
        "points": (points, None, None),
        "boxes": (None, boxes, None),
        "points, boxes and masks": (points, boxes, masks),
        "one mask": (None, None, masks[:1]),
    }
    with torch.no_grad():
        return {kind: (features, encoder.get_dense_pe(), *encoder(*arguments)) for kind, arguments in kinds.items()}


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("kind", ["points", "boxes", "points, boxes and masks", "one mask"])
@torch.no_grad()
def test_float32_results_equal_the_plain_decoder(prompts, kind, multimask_output):
    decoder = toy_decoder()
    expected = decoder(*prompts[kind], multimask_output)
    result = FastMaskDecoder(decoder, "float32")(*prompts[kind], multimask_output)
    for value, reference in zip(result, expected):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_results_are_close(prompts):
    decoder = toy_decoder()
    expected, _ = decoder(*prompts["points"], True)
    result, _ = FastMaskDecoder(decoder, "bfloat16")(*prompts["points"], True)
    assert result.dtype == torch.float32
    assert 0 < relative_error(result, expected) < 0.05


@pytest.mark.parametrize("kind", ["points", "points, boxes and masks"])
@torch.no_grad()
def test_the_size_of_groups_does_not_matter(prompts, kind, monkeypatch):
    from micro_sam.models import fast_mask_decoder

    decoder = FastMaskDecoder(toy_decoder(), "float32")
    expected, _ = decoder(*prompts[kind], True)
    monkeypatch.setattr(fast_mask_decoder, "_CHUNK_BYTES", 2 * 4 * SIDE * SIDE * CHANNELS)
    torch.testing.assert_close(decoder(*prompts[kind], True)[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_prompts_give_no_masks(prompts):
    features, position, sparse, dense = prompts["points"]
    masks, scores = FastMaskDecoder(toy_decoder(), "float32")(features, position, sparse[:0], dense[:0], True)
    assert masks.shape == (0, 3, 4 * SIDE, 4 * SIDE) and scores.shape == (0, 3)


@torch.no_grad()
def test_weights_loaded_later_are_used(prompts):
    decoder, other = FastMaskDecoder(toy_decoder(0), "float32"), toy_decoder(1)
    decoder(*prompts["points"], True)
    decoder.load_state_dict(other.state_dict())
    expected, _ = other(*prompts["points"], True)
    torch.testing.assert_close(decoder(*prompts["points"], True)[0], expected, rtol=1e-4, atol=1e-4)


def test_state_dict_names_do_not_change():
    decoder = toy_decoder()
    assert list(FastMaskDecoder(decoder).state_dict()) == list(decoder.state_dict())


def test_gradients_equal_the_plain_decoder(prompts):
    reference, decoder = toy_decoder().train(), FastMaskDecoder(toy_decoder().train(), "bfloat16")
    for model in (reference, decoder):
        masks, scores = model(*prompts["boxes"], True)
        (masks.square().mean() + scores.sum()).backward()
    for parameter, expected in zip(decoder.parameters(), reference.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad)


@torch.no_grad()
def test_copies_and_pickles_are_independent(prompts):
    decoder = FastMaskDecoder(toy_decoder(), "float32")
    expected, _ = decoder(*prompts["points"], True)
    for twin in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        torch.testing.assert_close(twin(*prompts["points"], True)[0], expected)
        twin.output_upscaling[0].weight.mul_(2.0)
        assert relative_error(twin(*prompts["points"], True)[0], expected) > 1e-3
    torch.testing.assert_close(decoder(*prompts["points"], True)[0], expected)


def test_accelerating_twice_changes_the_precision_only(prompts):
    from types import SimpleNamespace

    sam = SimpleNamespace(mask_decoder=toy_decoder())
    accelerate_mask_decoder(sam)
    decoder = sam.mask_decoder
    assert isinstance(decoder, FastMaskDecoder) and decoder.precision == "float32"
    assert accelerate_mask_decoder(sam, "bfloat16").mask_decoder is decoder
    assert decoder.precision == "bfloat16"
