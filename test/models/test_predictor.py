from __future__ import annotations

import gc
import subprocess
import sys
import types
import weakref

import numpy as np
import pytest
import torch

from micro_sam.errors import (
    CheckpointError,
    DeviceError,
    DownloadError,
    MissingInputError,
    ParameterError,
    UnknownModelError,
)
from micro_sam.models import predictor as loading
from micro_sam.models import spec
from micro_sam.models.checkpoint import Checkpoint
from micro_sam.models.download import file_hash
from micro_sam.models.predictor import get_sam_model


def _load(path, **kwargs):
    return get_sam_model("vit_t", "cpu", path, precision="float32", accelerate=False, **kwargs)


def _same(state, expected):
    return set(state) == set(expected) and all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_predictor_knows_its_model(tiny_checkpoint, tiny_state):
    predictor = get_sam_model("vit_t_lm", "cpu", tiny_checkpoint, precision="float32")
    assert (predictor.model_type, predictor.model_name) == ("vit_t", "vit_t_lm")
    assert predictor.checkpoint_path == str(tiny_checkpoint)
    assert predictor._hash == file_hash(tiny_checkpoint)
    assert predictor._hash.startswith("xxh128:")
    assert predictor.precision == "float32"
    assert predictor.decoder_state is None
    assert predictor.model.image_encoder.img_size == 1024
    assert not predictor.model.training
    assert _same(predictor.model.state_dict(), tiny_state)


def test_the_precision_that_is_used_is_told(tiny_checkpoint, monkeypatch):
    assert get_sam_model("vit_t", "cpu", tiny_checkpoint, precision="bfloat16").precision == "bfloat16"
    monkeypatch.setenv("MICROSAM_PRECISION", "float32")
    assert get_sam_model("vit_t", "cpu", tiny_checkpoint).precision == "float32"
    with pytest.raises(ParameterError, match="float16"):
        get_sam_model("vit_t", "cpu", tiny_checkpoint, precision="float16")


def test_what_is_returned_besides_the_predictor(tiny_checkpoint, tiny_state):
    predictor, sam = _load(tiny_checkpoint, return_sam=True)
    assert predictor.model is sam
    predictor, state = _load(tiny_checkpoint, return_state=True)
    assert _same(state["model_state"], tiny_state)
    assert "decoder_state" not in state
    assert len(_load(tiny_checkpoint, return_sam=True, return_state=True)) == 3


FORMS = ["flat", "legacy", "training", "exported", "separate decoder", "decoder beside", "decoder beside, no suffix"]


@pytest.fixture(params=FORMS)
def form(request, tmp_path, tiny_state, decoder_state):
    """(path, further arguments, whether there is a decoder) of a checkpoint of each form."""
    path, kwargs, name = tmp_path / "net.pt", {}, request.param
    content = tiny_state
    if name == "training":
        content = {
            "model_state": {f"sam.{key}": value for key, value in tiny_state.items()},
            "decoder_state": decoder_state,
            "init": {"optimizer": torch.optim.SGD([torch.ones(1, requires_grad=True)])},
        }
    elif name == "exported":
        content = {"model_state": tiny_state, "decoder_state": decoder_state}
    elif name == "separate decoder":
        kwargs["decoder_path"] = tmp_path / "elsewhere.pt"
        torch.save(decoder_state, kwargs["decoder_path"])
    elif name == "decoder beside":
        torch.save(decoder_state, tmp_path / "net_decoder.pt")
    elif name == "decoder beside, no suffix":
        path = tmp_path / "net"
        torch.save(decoder_state, tmp_path / "net_decoder")
    torch.save(content, path, _use_new_zipfile_serialization=name != "legacy")
    return path, kwargs, name not in ("flat", "legacy")


def test_every_form_of_checkpoint_loads(form, tiny_state, decoder_state):
    path, kwargs, has_decoder = form
    predictor, state = _load(path, return_state=True, **kwargs)
    assert _same(predictor.model.state_dict(), tiny_state)
    assert _same(state["model_state"], tiny_state)
    if has_decoder:
        assert _same(predictor.decoder_state, decoder_state)
        assert _same(state["decoder_state"], decoder_state)
    else:
        assert predictor.decoder_state is None


def test_a_decoder_that_is_named_wins_over_the_one_in_the_checkpoint(tmp_path, tiny_state, decoder_state):
    torch.save({"model_state": tiny_state, "decoder_state": decoder_state}, tmp_path / "net.pt")
    other = {name: value + 1 for name, value in decoder_state.items()}
    torch.save(other, tmp_path / "other.pt")
    assert _same(_load(tmp_path / "net.pt", decoder_path=tmp_path / "other.pt").decoder_state, other)
    with pytest.raises(MissingInputError, match="There is no decoder at"):
        _load(tmp_path / "net.pt", decoder_path=tmp_path / "none.pt")


def test_the_weights_are_not_held_twice(tiny_checkpoint, monkeypatch):
    seen = []
    read = loading.read_checkpoint

    def spy(path):
        checkpoint = read(path)
        seen.append(weakref.ref(checkpoint.model_state["image_encoder.neck.1.bias"]))
        return checkpoint

    monkeypatch.setattr(loading, "read_checkpoint", spy)
    predictor = _load(tiny_checkpoint)
    gc.collect()
    assert predictor is not None
    assert seen[0]() is None


def test_a_contradiction_with_the_model_type_is_reported(tiny_checkpoint):
    message = (
        "holds a vit_t encoder, but the model type 'vit_b_em_organelles' has a vit_b encoder: pass model_type='vit_t'"
    )
    with pytest.raises(CheckpointError, match=message):
        get_sam_model("vit_b_em_organelles", "cpu", tiny_checkpoint)


def test_without_a_model_type_the_checkpoint_says_what_it_holds(tiny_checkpoint):
    predictor = get_sam_model(checkpoint_path=tiny_checkpoint, device="cpu", accelerate=False)
    assert (predictor.model_type, predictor.model_name) == ("vit_t", "vit_t")


@pytest.mark.parametrize("name", spec.model_names())
def test_every_registered_model_names_an_encoder_for_a_checkpoint(name, tiny_checkpoint):
    if spec.get_spec(name).encoder == "vit_t":
        assert get_sam_model(name, "cpu", tiny_checkpoint, accelerate=False).model_name == name
    elif name == spec.DEFAULT_MODEL:  # as if no name was given: the file says which encoder it holds
        assert get_sam_model(name, "cpu", tiny_checkpoint, accelerate=False).model_type == "vit_t"
    else:
        with pytest.raises(CheckpointError, match="holds a vit_t encoder"):
            get_sam_model(name, "cpu", tiny_checkpoint)


def test_loading_strictly_and_flexibly(tmp_path, tiny_state):
    state = {name: value for name, value in tiny_state.items() if "iou_prediction_head" not in name}
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="it lacks mask_decoder.iou_prediction_head.layers.0.weight"):
        _load(tmp_path / "net.pt")
    sam = _load(tmp_path / "net.pt", flexible_load_checkpoint=True).model
    assert torch.equal(sam.state_dict()["image_encoder.neck.1.bias"], tiny_state["image_encoder.neck.1.bias"])
    assert sam.mask_decoder.iou_prediction_head.layers[0].weight.isfinite().all()


def test_arguments_of_the_network_are_passed_on(tiny_checkpoint):
    predictor = _load(tiny_checkpoint, image_size=512)
    assert predictor.model.image_encoder.img_size == predictor.transform.target_length == 512
    with pytest.raises(ParameterError, match="Unknown argument 'num_masks'"):
        _load(tiny_checkpoint, num_masks=3)


def test_peft_is_refused_as_long_as_there_is_no_training_module(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "optional_module", lambda name: None)
    with pytest.raises(ParameterError, match="peft_kwargs need micro_sam.models.peft_sam"):
        _load(tiny_checkpoint, peft_kwargs={"rank": 4})


class _Peft:
    """Stands for PEFT_Sam: renames a layer of the network, as LoRA does, and remembers what was in it before."""

    def __init__(self, model, rank):
        neck = model.image_encoder.neck
        self.bias_before = neck[1].bias.detach().clone()
        neck[1] = torch.nn.ModuleDict({"wrapped": neck[1]})
        self.sam, self.rank = model, rank
        _Peft.latest = self


def test_peft_layers_are_put_in_after_the_weights_of_an_original_network(tiny_checkpoint, tiny_state, monkeypatch):
    monkeypatch.setattr(loading, "optional_module", lambda name: types.SimpleNamespace(PEFT_Sam=_Peft))
    predictor = _load(tiny_checkpoint, peft_kwargs={"rank": 4})
    assert _Peft.latest.rank == 4
    assert torch.equal(_Peft.latest.bias_before, tiny_state["image_encoder.neck.1.bias"])
    assert "image_encoder.neck.1.wrapped.bias" in predictor.model.state_dict()


def test_peft_layers_are_put_in_before_the_weights_of_a_finetuned_network(tmp_path, tiny_state, monkeypatch):
    monkeypatch.setattr(loading, "optional_module", lambda name: types.SimpleNamespace(PEFT_Sam=_Peft))
    state = {name.replace("neck.1.", "neck.1.wrapped."): value for name, value in tiny_state.items()}
    checkpoint = Checkpoint(tmp_path / "net.pt", state)
    sam = loading.load_sam(checkpoint, "vit_t", {"rank": 4})
    assert _same(sam.state_dict(), state)


def test_a_registered_model_comes_from_the_cache_with_its_decoder(
    cache, monkeypatch, tiny_checkpoint, tiny_state, decoder_state, tmp_path
):
    torch.save(decoder_state, tmp_path / "decoder.pt")
    document = f"""
        [models.net]
        group = "current"
        encoder = "vit_t"
        url = "http://127.0.0.1:9/net"
        hash = "{file_hash(tiny_checkpoint)}"
        decoder = "unetr"
        decoder_url = "http://127.0.0.1:9/decoder"
        decoder_hash = "{file_hash(tmp_path / "decoder.pt")}"
    """
    sections = spec.parse_registry(document)
    monkeypatch.setattr(spec, "_registry", lambda: sections)
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "net").write_bytes(tiny_checkpoint.read_bytes())
    predictor = get_sam_model("net", "cpu", accelerate=False)
    assert _same(predictor.model.state_dict(), tiny_state)
    with pytest.raises(DownloadError, match="'net_decoder' is not in the cache"):
        _ = predictor.decoder_state
    (cache / "models" / "net_decoder").write_bytes((tmp_path / "decoder.pt").read_bytes())
    assert _same(predictor.decoder_state, decoder_state)
    assert predictor.model_name == "net"


def test_without_network_the_bundled_model_is_recommended(cache):
    with pytest.raises(DownloadError, match="'vit_t_builtin', which needs no download"):
        get_sam_model("vit_b_lm", "cpu")


def test_wrong_names_devices_and_paths_are_refused_before_any_work(tiny_checkpoint, tmp_path):
    with pytest.raises(UnknownModelError):
        get_sam_model("vit_q", "cpu", tiny_checkpoint)
    with pytest.raises(DeviceError):
        get_sam_model("vit_t", "abacus", tiny_checkpoint)
    with pytest.raises(MissingInputError):
        get_sam_model("vit_t", "cpu", tmp_path / "none.pt")


def test_masks_are_predicted(tiny_checkpoint):
    predictor = get_sam_model("vit_t", "cpu", tiny_checkpoint, precision="float32")
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[20:40, 30:50] = 200
    predictor.set_image(image)
    assert predictor.features.shape == (1, 256, 64, 64)
    assert predictor.features.dtype == torch.float32
    masks, scores, _ = predictor.predict(np.array([[40, 30]]), np.array([1]))
    assert masks.shape == (3, 60, 90)
    assert np.isfinite(scores).all()


def test_the_package_is_imported_lazily():
    code = (
        "import sys, micro_sam.models as m; print('torch' in sys.modules, m.get_spec('vit_b').encoder, len(dir(m)) > 9)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "vit_b", "True"]
