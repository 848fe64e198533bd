"""Parameter-efficient finetuning: nothing changes at first, few parameters are trained, and all of it merges back."""

from __future__ import annotations

import builtins
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from micro_sam.errors import CheckpointError, ParameterError
from micro_sam.models.build_sam import build_sam
from micro_sam.models.checkpoint import Checkpoint
from micro_sam.models.export import export_custom_sam_model, save_checkpoint
from micro_sam.models.peft_blocks import qkv_layout, spread, transformer_blocks
from micro_sam.models.peft_export import merge_peft_layers, merged_state
from micro_sam.models.peft_sam import (
    AdaptFormer,
    AttentionSurgery,
    BiasSurgery,
    ClassicalSurgery,
    FacTSurgery,
    LayerNormSurgery,
    LoRASurgery,
    PEFT_Sam,
    SSFSurgery,
    describe_peft,
)
from micro_sam.models.predictor import get_sam_model
from micro_sam.models.tiny_vit import TinyViT

MERGEABLE = [
    (LoRASurgery, {"rank": 2}),
    (LoRASurgery, {"rank": 2, "update_matrices": ["k", "mlp"]}),
    (FacTSurgery, {"rank": 2, "dropout": None}),
    (SSFSurgery, {}),
]
SELECTIVE = [AttentionSurgery, BiasSurgery, LayerNormSurgery, ClassicalSurgery]


class _Sam(nn.Module):
    """As much of a SAM as PEFT touches."""

    def __init__(self, encoder):
        super().__init__()
        self.image_encoder = encoder.eval()


def _vit():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=24, depth=3, num_heads=2, out_chans=8, use_rel_pos=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=2, global_attn_indexes=(2,),
    )  # fmt: skip
    return _Sam(encoder)


def _tiny():
    torch.manual_seed(0)
    return _Sam(
        TinyViT(
            64,
            embed_dims=(8, 12, 16, 24),
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 3),
            window_sizes=(2, 2, 2, 2),
            out_chans=8,
        )
    )


def _disturb(module, seed=1):
    """Give the trained parameters values that are not their first ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("make", [_vit, _tiny])
@pytest.mark.parametrize(("method", "kwargs"), [*MERGEABLE, (AdaptFormer, {"projection_size": 4})])
def test_the_encoder_begins_as_it_was_and_learns_with_few_parameters(make, method, kwargs):
    sam, x = make(), torch.randn(1, 3, 64, 64)
    before = sam.image_encoder(x)
    n_all = sum(p.numel() for p in sam.parameters())
    PEFT_Sam(sam, peft_module=method, **kwargs)
    assert torch.allclose(sam.image_encoder(x), before, atol=1e-5)
    trained = [p for p in sam.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 0.4 * n_all
    sam.image_encoder(x).square().mean().backward()
    assert any(p.grad.abs().sum() > 0 for p in trained if p.grad is not None)
    assert all(p.grad is None for p in sam.parameters() if not p.requires_grad)


@pytest.mark.parametrize("make", [_vit, _tiny])
@pytest.mark.parametrize(("method", "kwargs"), MERGEABLE)
def test_merged_layers_compute_the_same_under_the_original_names(make, method, kwargs):
    sam, x = make(), torch.randn(1, 3, 64, 64)
    names, before = set(sam.state_dict()), sam.image_encoder(x)
    PEFT_Sam(sam, peft_module=method, **kwargs)
    _disturb(sam)
    with torch.no_grad():
        finetuned = sam.image_encoder(x)
        merge_peft_layers(sam)
        merged = sam.image_encoder(x)
    assert set(sam.state_dict()) == names
    assert torch.allclose(merged, finetuned, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_adapters_cannot_be_merged_and_say_so():
    sam = _vit()
    PEFT_Sam(sam, peft_module=AdaptFormer)
    with pytest.raises(CheckpointError, match="cannot be worked into"):
        merge_peft_layers(sam)


@pytest.mark.parametrize("make", [_vit, _tiny])
@pytest.mark.parametrize("method", SELECTIVE)
def test_selective_methods_train_parts_of_the_chosen_blocks(make, method):
    sam = make()
    PEFT_Sam(sam, peft_module=method, attention_layers_to_update=[-1])
    last = transformer_blocks(sam.image_encoder)[-1]
    trained = {id(p): n for n, p in sam.named_parameters() if p.requires_grad}
    assert trained
    assert set(trained) <= {id(p) for p in last.parameters()}
    if method is AttentionSurgery:
        assert all(".attn." in name for name in trained.values())
    if method is BiasSurgery:
        assert all(name.endswith("bias") for name in trained.values())
    if method is LayerNormSurgery:
        assert all("norm" in name for name in trained.values())
    if method is ClassicalSurgery:
        assert len(trained) == len(list(last.parameters()))


def test_updates_of_q_k_and_v_land_where_the_attention_reads_them():
    for sam in (_vit(), _tiny()):
        block = transformer_blocks(sam.image_encoder)[0]
        layout, dim = qkv_layout(block), block.attn.qkv.in_features
        parts = [torch.full((1, dim), float(i)) for i in range(3)]
        arranged = spread(parts, layout, torch.zeros(1, 3 * dim))
        if len(layout) == 2:  # ViT: reshape(..., 3, heads, d)
            q, k, v = arranged.view(3, dim)
        else:  # TinyViT: view(..., heads, 3, d)
            q, k, v = arranged.view(layout).unbind(1)
        assert (q == 0).all() and (k == 1).all() and (v == 2).all()


def test_fact_shares_its_outer_factors_between_blocks_of_one_width():
    sam = _vit()
    PEFT_Sam(sam, rank=2, peft_module="FacTSurgery")
    first, second = (block.attn.qkv for block in sam.image_encoder.blocks[:2])
    assert first.fact_u is second.fact_u
    assert first.fact_q is not second.fact_q


def test_what_cannot_be_done_is_said():
    with pytest.raises(ParameterError, match="rank"):
        PEFT_Sam(_vit())
    with pytest.raises(ParameterError, match="blocks 0 to 2"):
        PEFT_Sam(_vit(), rank=2, attention_layers_to_update=[3])
    with pytest.raises(ParameterError, match="LoRASurgery"):
        PEFT_Sam(_vit(), peft_module="Lora")
    with pytest.raises(ParameterError, match="q, k, v"):
        PEFT_Sam(_vit(), rank=2, update_matrices=["w"])
    with pytest.raises(ParameterError, match="ViT or TinyViT"):
        PEFT_Sam(SimpleNamespace(image_encoder=nn.Identity()), rank=2)


def test_a_quantised_base_without_its_library_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ParameterError, match="pip install bitsandbytes"):
        PEFT_Sam(_vit(), rank=2, quantize=True)
    with pytest.raises(ParameterError, match="is for LoRA"):
        PEFT_Sam(_vit(), peft_module=SSFSurgery, quantize=True)


def test_a_finetuned_checkpoint_opens_and_exports_without_being_told_how_it_was_made(tmp_path):
    arguments = {"rank": 2, "peft_module": LoRASurgery, "attention_layers_to_update": (0,)}
    torch.manual_seed(0)
    sam = PEFT_Sam(build_sam("vit_t"), **arguments).sam
    _disturb(sam.image_encoder)
    path, flat = tmp_path / "best.pt", tmp_path / "flat.pt"
    state = {f"sam.{name}": value for name, value in sam.state_dict().items()}
    save_checkpoint({"model_state": state, "settings": {"peft": describe_peft(arguments)}}, path)

    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = sam.eval().image_encoder(x)
        opened = get_sam_model(checkpoint_path=path, device="cpu", accelerate=False).model.image_encoder(x)
        export_custom_sam_model(path, "vit_t", flat)
        exported = get_sam_model("vit_t", checkpoint_path=flat, device="cpu", accelerate=False).model.image_encoder(x)
    assert torch.allclose(opened, expected, atol=1e-5)
    assert torch.allclose(exported, expected, atol=1e-4)


def test_a_stranger_checkpoint_with_other_layers_is_refused(tmp_path):
    sam = PEFT_Sam(build_sam("vit_t"), rank=2).sam
    with pytest.raises(CheckpointError, match="does not say how"):
        merged_state(Checkpoint(tmp_path / "x.pt", sam.state_dict()))
