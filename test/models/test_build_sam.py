from __future__ import annotations

import copy

import pytest
import torch

from micro_sam.errors import CheckpointError, ParameterError
from micro_sam.models import build_sam as building
from micro_sam.models.build_sam import build_empty_sam, build_sam, build_sam_vit_b, build_sam_vit_t, load_weights


def test_a_checkpoint_is_loaded_whole(tiny_checkpoint, tiny_state):
    sam = build_sam_vit_t(tiny_checkpoint)
    assert not sam.training
    assert all(torch.equal(value, tiny_state[name]) for name, value in sam.state_dict().items())


def test_weights_loaded_after_eval_are_the_ones_that_count(tiny_sam, tiny_state):
    x = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    sam = copy.deepcopy(tiny_sam).eval()
    with torch.no_grad():
        before = sam.image_encoder(x)
        changed = dict(tiny_state)
        for name in tiny_state:
            if name.endswith("attention_biases"):
                changed[name] = 3 * tiny_state[name]
        load_weights(sam, changed, "test")
        after = sam.image_encoder(x)
        fresh = build_sam("vit_t")
        fresh.load_state_dict(changed)
        assert torch.equal(after, fresh.eval().image_encoder(x))
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_fresh_network_is_initialised_and_an_empty_one_has_the_same_buffers():
    fresh, empty = build_sam("vit_t"), build_empty_sam("vit_t")
    assert all(parameter.isfinite().all() for parameter in fresh.parameters())
    assert fresh.image_encoder.patch_embed.seq[0].c.weight.std() > 0
    for (name, buffer), (_, other) in zip(fresh.named_buffers(), empty.named_buffers()):
        if "gaussian" not in name:
            assert torch.equal(buffer, other), name


def test_another_encoder_than_asked_for_is_refused(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="holds a vit_t encoder, expected vit_b"):
        build_sam_vit_b(tiny_checkpoint)


def test_names_that_do_not_fit_are_listed(tiny_sam, tiny_state):
    state = dict(tiny_state)
    missing = list(tiny_sam.state_dict())[:5]
    for name in missing:
        del state[name]
    state["mask_decoder.extra"] = torch.zeros(1)
    state["image_encoder.neck.1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        load_weights(copy.deepcopy(tiny_sam), state, "some.pt")
    message = str(error.value)
    listed = ", ".join(missing[:3])
    assert message.startswith(f"some.pt does not fit the vit_t architecture: it lacks {listed} and 2 more")
    assert "has the unexpected mask_decoder.extra" in message
    assert "has another shape in image_encoder.neck.1.bias (7,) instead of (256,)" in message


def test_loading_flexibly_takes_what_fits(tiny_state, caplog):
    sam = build_sam("vit_t", num_multimask_outputs=5)
    own = sam.state_dict()["mask_decoder.mask_tokens.weight"].clone()
    load_weights(sam, {**tiny_state, "other": torch.zeros(1)}, "some.pt", flexible=True)
    state = sam.state_dict()
    assert torch.equal(state["mask_decoder.mask_tokens.weight"], own)
    assert torch.equal(state["image_encoder.neck.1.bias"], tiny_state["image_encoder.neck.1.bias"])
    assert "do not" in caplog.text


def test_half_precision_weights_give_a_float32_network(tiny_state, tmp_path):
    half = {name: value.half() if value.is_floating_point() else value for name, value in tiny_state.items()}
    torch.save(half, tmp_path / "half.pt")
    sam = build_sam_vit_t(tmp_path / "half.pt")
    assert all(parameter.dtype == torch.float32 for parameter in sam.parameters())


def test_position_embeddings_follow_the_image_size():
    large, small = building.parameter_shapes("vit_b"), building.parameter_shapes("vit_b", image_size=512)
    state = {name: torch.ones(value.shape) for name, value in large.items()}
    resized = building.resize_positions(state, small)
    assert {name: value.shape for name, value in resized.items()} == {n: v.shape for n, v in small.items()}
    assert resized["image_encoder.pos_embed"].shape == (1, 32, 32, 768)
    assert torch.allclose(resized["image_encoder.pos_embed"], torch.ones(1))


def test_wrong_arguments_are_refused():
    with pytest.raises(ParameterError, match="The encoder is one of vit_t, vit_b, vit_l, vit_h, got 'vit_x'"):
        build_sam("vit_x")
    with pytest.raises(ParameterError, match="image_size is a multiple of 16, got 1000"):
        build_sam("vit_t", image_size=1000)
