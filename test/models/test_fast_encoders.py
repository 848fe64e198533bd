from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fast_toys import image, relative_error, toy_tiny_vit, toy_vit
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from micro_sam.errors import ParameterError
from micro_sam.models.accelerate import accelerate_sam
from micro_sam.models.fast_tiny_vit import FastTinyViT
from micro_sam.models.fast_vit import FastViT

ENCODERS = {"vit": (toy_vit, FastViT), "tiny": (toy_tiny_vit, FastTinyViT)}


@pytest.fixture(params=ENCODERS)
def make(request):
    """Builds a plain encoder from a seed, and its fast form for a precision."""
    plain, fast = ENCODERS[request.param]
    return plain, lambda encoder, precision="float32": fast(encoder, precision)


@torch.no_grad()
def test_float32_results_equal_the_plain_encoder(make):
    plain, fast = make
    encoder = plain()
    expected = encoder(image(batch=2))
    result = fast(encoder)(image(batch=2))
    assert result.dtype == torch.float32 and result.shape == expected.shape and result.is_contiguous()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16_results_are_close_and_float32(make):
    plain, fast = make
    encoder = plain()
    expected, result = encoder(image()), fast(encoder, "bfloat16")(image())
    assert result.dtype == torch.float32
    assert 0 < relative_error(result, expected) < 0.05


@pytest.mark.parametrize("options", [{"use_rel_pos": False}, {"qkv_bias": False}, {"use_abs_pos": False}])
@torch.no_grad()
def test_vit_variants_equal_the_plain_encoder(options):
    encoder = toy_vit(**options)
    torch.testing.assert_close(FastViT(encoder, "float32")(image()), encoder(image()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", ["_appended_attention", "_attend_stepwise"])
@torch.no_grad()
def test_all_ways_to_attend_agree(monkeypatch, other):
    from micro_sam.models import fast_attention

    encoder, attend, calls = FastViT(toy_vit(), "float32"), getattr(fast_attention, other), []
    masked = encoder(image())
    monkeypatch.setattr(fast_attention, other, lambda *x: calls.append(1) or attend(*x))
    monkeypatch.setattr(fast_attention, "_is_stepwise", lambda x: True)
    with torch.set_grad_enabled(other == "_appended_attention"):  # the only way with gradients
        torch.testing.assert_close(encoder(image()), masked, rtol=1e-4, atol=1e-4)
    assert calls


@pytest.mark.parametrize(
    "make", [lambda: FastViT(toy_vit(), "bfloat16"), lambda: FastTinyViT(toy_tiny_vit(), "bfloat16")]
)
@torch.no_grad()
def test_bfloat16_is_as_exact_without_matrix_units(monkeypatch, make):
    from micro_sam.models import fast_attention

    encoder, results = make(), {}
    for has_units in (False, True):
        monkeypatch.setattr(fast_attention, "cpu_has_matrix_units", lambda value=has_units: value)
        results[has_units] = encoder(image(batch=2))
    assert 0 < relative_error(results[False], results[True]) < 0.02


@pytest.mark.parametrize("bias", [None, torch.linspace(-2, 2, 2 * 5 * 40).view(2, 5, 40)])
@pytest.mark.parametrize("stepwise", [False, True])
def test_unscaled_attention(monkeypatch, bias, stepwise):
    from micro_sam.models import fast_attention

    monkeypatch.setattr(fast_attention, "_is_stepwise", lambda x: stepwise)
    q, k, v = (torch.randn(2, n, 16, generator=torch.Generator().manual_seed(n)) for n in (5, 40, 40))
    scores = torch.einsum("bnc,bmc->bnm", q, k) + (0 if bias is None else bias)
    expected = torch.einsum("bnm,bmc->bnc", torch.softmax(scores, -1), v)
    torch.testing.assert_close(fast_attention.unscaled_attention(q, k, v, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_bytes", [1, 300, 2000, 10_000])
@pytest.mark.parametrize("stepwise", [False, True])
@torch.no_grad()
def test_the_size_of_attention_blocks_does_not_matter(monkeypatch, block_bytes, stepwise):
    from micro_sam.models import fast_attention

    vit, tiny = FastViT(toy_vit(), "float32"), FastTinyViT(toy_tiny_vit(), "float32")
    expected = vit(image(batch=2)), tiny(image(batch=2))
    monkeypatch.setattr(fast_attention, "_is_stepwise", lambda x: stepwise)
    for name in ("_MASK_BYTES", "_SCORE_BYTES"):
        monkeypatch.setattr(fast_attention, name, block_bytes)
    torch.testing.assert_close(vit(image(batch=2)), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny(image(batch=2)), expected[1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bands_and_chunks_do_not_matter(monkeypatch):
    from micro_sam.models import fast_tiny_vit, fast_vit

    vit, tiny = FastViT(toy_vit(), "float32"), FastTinyViT(toy_tiny_vit(), "float32")
    expected = vit(image()), tiny(image())
    monkeypatch.setattr(fast_vit, "_MLP_BYTES", 1000)
    monkeypatch.setattr(fast_tiny_vit, "_BAND_BYTES", 1000)
    for result, reference in zip((vit(image()), tiny(image())), expected):
        torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-4)


def test_state_dict_names_do_not_change(make):
    plain, fast = make
    encoder = plain()
    names = list(encoder.state_dict())
    assert list(fast(encoder).state_dict()) == names


@torch.no_grad()
def test_weights_loaded_later_are_used(make):
    plain, fast = make
    encoder, other = fast(plain(0)), plain(1)
    encoder(image())
    encoder.load_state_dict(other.state_dict())
    torch.testing.assert_close(encoder(image()), other(image()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_assigned_later_are_used(make):
    plain, fast = make
    encoder, other = fast(plain(0)), plain(1)
    encoder(image())
    encoder.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(encoder(image()), other(image()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_weights_written_behind_the_back_of_autograd_are_used(make):
    plain, fast = make
    encoder, other = fast(plain(0)), plain(1)
    encoder(image())
    for target, source in zip(encoder.parameters(), other.parameters()):
        target.data.copy_(source)
    for target, source in zip(encoder.buffers(), other.buffers()):
        target.copy_(source)
    torch.testing.assert_close(encoder(image()), other(image()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_training_step_is_noticed(make):
    plain, fast = make
    encoder = fast(plain())
    before = encoder(image())
    with torch.enable_grad():
        encoder.train()
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        encoder(image()).square().mean().backward()
        optimizer.step()
    encoder.eval()
    after = encoder(image())
    assert relative_error(after, before) > 1e-3
    reference = plain()
    reference.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(after, reference(image()), rtol=1e-4, atol=1e-4)


def test_inference_mode_works(make):
    plain, fast = make
    encoder = fast(plain())
    with torch.inference_mode():
        result = encoder(image())
    with torch.no_grad():
        torch.testing.assert_close(encoder(image()), result)


def test_weights_made_in_inference_mode_are_never_stale(make):
    plain, fast = make
    with torch.inference_mode():
        encoder, other = fast(plain(0)), plain(1)
        encoder(image())
        encoder.load_state_dict(other.state_dict())
        torch.testing.assert_close(encoder(image()), other(image()), rtol=1e-4, atol=1e-4)


def test_gradients_equal_the_plain_encoder(make):
    plain, fast = make
    reference, encoder = plain().train(), fast(plain().train(), "bfloat16")
    reference(image(batch=2)).square().mean().backward()
    encoder(image(batch=2)).square().mean().backward()
    for (name, parameter), expected in zip(encoder.named_parameters(), reference.parameters()):
        if expected.grad is None:
            assert parameter.grad is None, name
        else:
            assert relative_error(parameter.grad, expected.grad) < 1e-3, name


def test_gradients_flow_in_eval_mode_too(make):
    plain, fast = make
    x = image().requires_grad_()
    encoder = fast(plain()).requires_grad_(False)
    encoder(x).sum().backward()
    assert x.grad.abs().sum() > 0


@torch.no_grad()
def test_copies_and_pickles_are_independent(make):
    plain, fast = make
    encoder = fast(plain())
    expected = encoder(image())
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(twin(image()), expected)
        next(twin.parameters()).mul_(2.0)
        assert relative_error(twin(image()), expected) > 1e-3
    torch.testing.assert_close(encoder(image()), expected)


@torch.no_grad()
def test_pickles_do_not_carry_derived_weights(make):
    plain, fast = make
    encoder = fast(plain(), "bfloat16")
    size = len(pickle.dumps(encoder))
    encoder(image())
    assert len(pickle.dumps(encoder)) == size


@torch.no_grad()
def test_hooks_on_parts_are_called(make):
    plain, fast = make
    encoder = fast(plain())
    expected, seen = encoder(image()), []
    handle = encoder.neck[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(encoder(image()), expected, rtol=1e-4, atol=1e-4)
    assert len(seen) == 1
    handle.remove()


class Doubled(nn.Module):
    """What parameter-efficient training does: a layer around a layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(x)


@torch.no_grad()
def test_replaced_layers_are_called(make):
    plain, fast = make
    reference, encoder = plain(), fast(plain())
    before = encoder(image())
    for model in (reference, encoder):
        block = model.blocks[0] if hasattr(model, "blocks") else model.layers[1].blocks[0]
        block.attn.qkv = Doubled(block.attn.qkv)
    result = encoder(image())
    assert relative_error(result, before) > 1e-3
    torch.testing.assert_close(result, reference(image()), rtol=1e-4, atol=1e-4)


def toy_sam() -> Sam:
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=32, num_heads=2)
    return Sam(
        toy_vit(),
        PromptEncoder(32, (8, 8), (128, 128), mask_in_chans=4),
        MaskDecoder(transformer_dim=32, transformer=transformer),
    ).eval()


def test_accelerating_twice_changes_the_precision_only():
    sam = accelerate_sam(toy_sam(), "float32")
    encoder = sam.image_encoder
    assert accelerate_sam(sam, "bfloat16").image_encoder is encoder
    assert encoder.precision == "bfloat16"


def test_a_wrong_precision_changes_nothing():
    sam = toy_sam()
    encoder = sam.image_encoder
    with pytest.raises(ParameterError):
        accelerate_sam(sam, "float16")
    assert sam.image_encoder is encoder


def test_unknown_encoders_stay_as_they_are(caplog):
    sam = toy_sam()
    sam.image_encoder = encoder = nn.Identity()
    assert accelerate_sam(sam).image_encoder is encoder
    assert "Identity" in caplog.text
