from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fast_toys import embeddings, relative_error, toy_light, toy_unetr
from torch import nn

from micro_sam.models.accelerate import accelerate_decoder

DECODERS = {"unetr": toy_unetr, "transposed": lambda seed=0: toy_unetr(seed, conv_transpose=True), "light": toy_light}
SHAPES = {
    "square": ((256, 256), (256, 256)),
    "resized": ((256, 256), (100, 100)),
    "wide": ((150, 256), (75, 128)),
    "tall": ((256, 201), (300, 235)),
    "one row short": ((255, 256), (255, 256)),
    "thin": ((1, 256), (2, 512)),
}


@pytest.fixture(params=DECODERS)
def make(request):
    return DECODERS[request.param]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_float32_results_equal_the_plain_decoder(make, shapes):
    decoder = make()
    expected = decoder(embeddings(), *shapes)
    result = accelerate_decoder(decoder, "float32")(embeddings(), *shapes)
    assert result.shape == expected.shape == (1, 3, *shapes[1])
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_batches_equal_single_images(make):
    decoder = accelerate_decoder(make(), "float32")
    features = embeddings(batch=2)
    both = decoder(features, (256, 200), (256, 200))
    for i in range(2):
        single = decoder(features[i : i + 1], (256, 200), (256, 200))
        torch.testing.assert_close(both[i : i + 1], single, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_results_are_close_and_float32(make):
    decoder = make()
    expected = decoder(embeddings(), (256, 256), (256, 256))
    result = accelerate_decoder(decoder, "bfloat16")(embeddings(), (256, 256), (256, 256))
    assert result.dtype == torch.float32
    assert (result - expected).abs().mean() < 0.02


@torch.no_grad()
def test_features_of_another_size_than_the_image_are_resized(make):
    decoder = make()
    features = embeddings()[..., :8, :8]
    expected = decoder(features, (256, 200), (128, 100))
    result = accelerate_decoder(decoder, "float32")(features, (256, 200), (128, 100))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_constant_features_give_finite_results(make):
    result = accelerate_decoder(make(), "bfloat16")(torch.zeros(1, 256, 16, 16), (256, 256), (256, 256))
    assert torch.isfinite(result).all()


def test_decoders_without_activation_stay_so():
    plain = toy_light()
    plain.final_activation = None
    with torch.no_grad():
        expected = plain(embeddings(), (256, 256), (64, 64))
        result = accelerate_decoder(plain, "float32")(embeddings(), (256, 256), (64, 64))
    assert expected.min() < 0
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_loaded_later_are_used(make):
    decoder, other = accelerate_decoder(make(0), "float32"), make(1)
    shapes = (256, 256), (256, 256)
    decoder(embeddings(), *shapes)
    decoder.load_state_dict(other.state_dict())
    torch.testing.assert_close(decoder(embeddings(), *shapes), other(embeddings(), *shapes), rtol=1e-4, atol=1e-4)


def test_state_dict_names_do_not_change(make):
    decoder = make()
    assert list(accelerate_decoder(decoder).state_dict()) == list(decoder.state_dict())


def test_gradients_equal_the_plain_decoder(make):
    reference, decoder = make().train(), accelerate_decoder(make().train(), "bfloat16")
    shapes = (256, 200), (128, 100)
    reference(embeddings(), *shapes).square().mean().backward()
    decoder(embeddings(), *shapes).square().mean().backward()
    for (name, parameter), expected in zip(decoder.named_parameters(), reference.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_copies_and_pickles_are_independent(make):
    decoder = accelerate_decoder(make(), "float32")
    shapes = (256, 256), (256, 256)
    expected = decoder(embeddings(), *shapes)
    for twin in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        torch.testing.assert_close(twin(embeddings(), *shapes), expected)
        twin.out_conv.weight.mul_(3.0)
        assert relative_error(twin(embeddings(), *shapes), expected) > 1e-3
    torch.testing.assert_close(decoder(embeddings(), *shapes), expected)


def test_accelerating_twice_changes_the_precision_only(make):
    decoder = accelerate_decoder(make(), "float32")
    assert accelerate_decoder(decoder, "bfloat16") is decoder
    assert decoder.precision == "bfloat16"


def test_unknown_decoders_are_returned_as_they_are(caplog):
    decoder = nn.Identity()
    assert accelerate_decoder(decoder) is decoder
    assert "Identity" in caplog.text
