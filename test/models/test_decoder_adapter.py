from __future__ import annotations

import copy

import pytest
import torch
from reference_weights import fill
from torch import nn
from torch_em.model import UNETR as TorchEmUNETR

from micro_sam.errors import CheckpointError
from micro_sam.models.decoder import LightDecoder, UNETRDecoder
from micro_sam.models.decoder_adapter import (
    DecoderAdapter,
    build_decoder,
    get_decoder,
    get_predictor_and_decoder,
    get_unetr,
    preprocess,
    recognise_decoder,
)

WIDTHS = (32, 16, 8, 4)


class _Encoder(nn.Module):
    """A stand-in for an image encoder: 256 channels at 1/16, deterministic."""

    def __init__(self, img_size=256):
        super().__init__()
        self.img_size = img_size
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 256, 16, 16)
        self.neck = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Conv2d(256, 256, 1)])

    def forward(self, x):
        return self.neck[2](self.patch_embed.proj(x))


@pytest.fixture(scope="module")
def encoder():
    encoder = _Encoder()
    encoder.load_state_dict(fill(encoder.state_dict()))
    return encoder.eval()


@pytest.fixture(scope="module")
def features():
    return torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(1))


DECODERS = {
    "unetr": lambda: UNETRDecoder(widths=WIDTHS, image_size=256),
    "transposed": lambda: UNETRDecoder(widths=WIDTHS, image_size=256, conv_transpose=True),
    "light": lambda: LightDecoder(widths=(16, 8, 4), image_size=256),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    decoder = DECODERS[request.param]()
    decoder.load_state_dict(fill(decoder.state_dict()))
    return decoder.eval()


@pytest.mark.parametrize("accelerate", [True, False])
def test_every_architecture_is_recognised_from_its_weights(decoder, encoder, features, accelerate):
    adapter = get_decoder(encoder, decoder.state_dict(), "cpu", precision="float32", accelerate=accelerate)
    assert isinstance(adapter.decoder, type(decoder))
    with torch.no_grad():
        expected = decoder(features, (256, 192), (100, 75))
    result = adapter(features, (256, 192), (100, 75))
    assert result.shape == (1, 3, 100, 75)
    assert result.dtype == torch.float32 and not result.requires_grad
    assert torch.allclose(result, expected, atol=1e-4)
    assert 0 <= result.min() and result.max() <= 1


def test_embeddings_may_be_numpy_arrays(decoder, features):
    adapter = DecoderAdapter(decoder)
    assert adapter.device == torch.device("cpu")
    assert torch.equal(adapter(features.numpy(), (256, 256), (50, 50)), adapter(features, (256, 256), (50, 50)))


@pytest.mark.parametrize("conv_transpose", [False, True])
def test_torch_em_networks_give_the_same(encoder, conv_transpose):
    options = {"use_sam_stats": True, "final_activation": "Sigmoid", "use_skip_connection": False, "resize_input": True}
    theirs = TorchEmUNETR(
        img_size=256, backbone="sam", encoder=copy.deepcopy(encoder), out_channels=3, embed_dim=256, initial_features=4,
        use_conv_transpose=conv_transpose, **options
    )  # fmt: skip
    theirs.load_state_dict(fill(theirs.state_dict()))
    theirs.eval()
    image = torch.rand(1, 3, 120, 200, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = theirs(image)
        features, input_shape = theirs.encode(image)
    assert torch.allclose(DecoderAdapter(theirs)(features[0], input_shape, (120, 200)), expected, atol=1e-5)
    decoder_state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("encoder.")}
    ours = get_unetr(theirs.encoder, decoder_state, "cpu").eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    with torch.no_grad():
        assert torch.allclose(ours(image), expected, atol=1e-5)


def test_a_fresh_network_can_be_trained(encoder):
    unetr = get_unetr(encoder, device="cpu", out_channels=2, final_activation=None)
    assert unetr.out_conv.weight.shape[0] == 2
    assert unetr.encoder is encoder
    assert unetr.final_activation is None
    names = set(unetr.state_dict())
    assert {"encoder.patch_embed.proj.weight", "decoder.samplers.0.conv.weight", "out_conv.bias"} <= names
    assert all(parameter.requires_grad for parameter in unetr.parameters())


def test_the_shared_encoder_keeps_its_weights(encoder, decoder):
    before = copy.deepcopy(encoder.state_dict())
    get_unetr(encoder, decoder.state_dict(), "cpu")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_decoders_with_other_outputs_load_flexibly_only(encoder, decoder):
    state = decoder.state_dict()
    with pytest.raises(CheckpointError, match="has another shape in out_conv.weight"):
        get_unetr(encoder, state, "cpu", out_channels=2)
    unetr = get_unetr(encoder, state, "cpu", out_channels=2, flexible_load_checkpoint=True)
    shared = [name for name in state if not name.startswith("out_conv")]
    assert all(torch.equal(unetr.state_dict()[name], state[name]) for name in shared)


def test_preprocessing_resizes_normalises_and_pads():
    image = torch.full((1, 3, 100, 200), 123.675)
    inputs, input_shape = preprocess(image, 256)
    assert inputs.shape == (1, 3, 256, 256)
    assert input_shape == (128, 256)
    assert inputs[0, 0, :128].abs().max() < 1e-5
    assert inputs[0, :, 128:].abs().max() == 0
    assert inputs[0, 1, 0, 0] == pytest.approx((123.675 - 116.28) / 57.12, abs=1e-5)


def test_weights_of_other_networks_are_refused(decoder):
    with pytest.raises(CheckpointError, match="have no out_conv, but a"):
        recognise_decoder({"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match="unknown architecture"):
        recognise_decoder({"out_conv.weight": torch.ones(3, 1, 1, 1)})
    with pytest.raises(CheckpointError, match="skip connections"):
        recognise_decoder({"out_conv.weight": torch.ones(3, 1, 1, 1), "deconv2.0.block.0.conv.weight": torch.ones(1)})
    state = decoder.state_dict()
    del state["out_conv.bias"]
    with pytest.raises(CheckpointError, match="The decoder does not fit the .* architecture: it lacks out_conv.bias"):
        build_decoder(state)


def test_a_model_with_its_decoder_is_loaded(tmp_path, tiny_state, decoder_state):
    path = tmp_path / "net.pt"
    torch.save({"model_state": tiny_state, "decoder_state": decoder_state}, path)
    predictor, decoder = get_predictor_and_decoder("vit_t", path, "cpu", precision="float32")
    maps = decoder(torch.zeros(1, 256, 64, 64), (1024, 512), (64, 32))
    assert maps.shape == (1, 3, 64, 32)
    assert predictor.precision == "float32"


def test_a_model_without_decoder_says_what_to_use_instead(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="no instance segmentation decoder: use automatic mask .*vit_t_builtin"):
        get_predictor_and_decoder("vit_t", tiny_checkpoint, "cpu")


def test_training_computes_the_same_maps_in_another_order():
    torch.manual_seed(0)
    decoder = UNETRDecoder(widths=WIDTHS, image_size=64)
    for part in decoder.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    features = torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        assert torch.allclose(decoder.train().maps(features), decoder.eval().maps(features), atol=1e-4)
