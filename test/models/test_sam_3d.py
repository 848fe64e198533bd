"""Volumes into classes: slices see their neighbours, and nothing is added before anything is learned."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from micro_sam.errors import ImageError
from micro_sam.models.sam_3d_wrapper import Sam3DWrapper
from micro_sam.models.simple_sam_3d_wrapper import SimpleSam3DWrapper


def _sam(n_classes=3):
    """A small SAM for a frame of 64 pixels."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=2, out_chans=256, use_rel_pos=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), window_size=2, global_attn_indexes=(1,),
    )  # fmt: skip
    decoder = MaskDecoder(
        transformer_dim=256, num_multimask_outputs=n_classes,
        transformer=TwoWayTransformer(depth=1, embedding_dim=256, num_heads=2, mlp_dim=32),
    )  # fmt: skip
    return Sam(encoder, PromptEncoder(256, (4, 4), (64, 64), 16), decoder).eval()


@pytest.fixture
def volume():
    torch.manual_seed(1)
    return torch.rand(1, 1, 3, 40, 48) * 255


def test_every_voxel_gets_a_score_for_each_class(volume):
    assert Sam3DWrapper(_sam(), freeze_encoder=False)(volume)["masks"].shape == (1, 3, 3, 40, 48)
    assert SimpleSam3DWrapper(_sam(), 3, freeze_encoder=False)(volume).shape == (1, 3, 3, 40, 48)
    with pytest.raises(ImageError, match="B, 1 or 3, D, H, W"):
        SimpleSam3DWrapper(_sam(), 3, freeze_encoder=False)(volume[0])


def test_slices_see_their_neighbours_once_the_adapters_have_learned(volume):
    model = Sam3DWrapper(_sam(), freeze_encoder=False).eval()
    other = volume.clone()
    other[:, :, 2] = 255 - other[:, :, 2]

    def first_slice_changes():
        with torch.no_grad():
            return not torch.allclose(model(volume)["masks"][:, :, 1], model(other)["masks"][:, :, 1], atol=1e-5)

    assert not first_slice_changes()
    for block in model.sam.image_encoder.image_encoder.blocks:
        nn.init.normal_(block.adapter_up.weight)
    assert first_slice_changes()


def test_a_frozen_encoder_leaves_its_adapters_to_learn(volume):
    model = Sam3DWrapper(_sam(), freeze_encoder=True)
    model(volume)["masks"].square().mean().backward()
    learned = {name for name, p in model.sam.image_encoder.named_parameters() if p.requires_grad}
    assert learned
    assert all(".adapter_" in name for name in learned)
