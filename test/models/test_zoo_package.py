"""Packages of the BioImage.IO model zoo as checkpoints."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
import yaml

from micro_sam.errors import CheckpointError
from micro_sam.models.checkpoint import read_checkpoint, read_decoder

STATE = {"image_encoder.patch_embed.seq.0.c.weight": torch.arange(24.0).reshape(2, 3, 2, 2)}
DECODER = {"out_conv.weight": torch.ones(3, 2, 1, 1)}


def _saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _description(source="weights.pt", **config) -> str:
    weights = {"pytorch_state_dict": {"source": source}}
    return yaml.safe_dump({"type": "model", "weights": weights, "config": config})


@pytest.fixture
def package(tmp_path):
    """Writes a zip of named contents."""

    def write(**contents):
        path = tmp_path / "package.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name.replace("__", "."), content)
        return path

    return write


@pytest.mark.parametrize("name", ["bioimageio__yaml", "rdf__yaml"])
def test_flat_weights_and_the_decoder_beside_them(package, name):
    own = {"name": "mine", "encoder": "vit_t", "defaults": {"ais": {"min_size": 7}}}
    path = package(
        **{name: _description(micro_sam=own)}, weights__pt=_saved(STATE), weights_decoder__pt=_saved(DECODER)
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint.encoder == "vit_t"
    assert torch.equal(*(state[next(iter(STATE))] for state in (checkpoint.model_state, STATE)))
    assert torch.equal(checkpoint.decoder_state["out_conv.weight"], DECODER["out_conv.weight"])
    assert checkpoint.description["defaults"] == {"ais": {"min_size": 7}}
    assert set(read_decoder(path)) == set(DECODER)


def test_weights_with_the_decoder_in_them(package):
    path = package(
        bioimageio__yaml=_description(), weights__pt=_saved({"model_state": STATE, "decoder_state": DECODER})
    )
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.model_state) == set(STATE) and set(checkpoint.decoder_state) == set(DECODER)
    assert checkpoint.description == {}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"bioimageio__yaml": _description("other.pt")}, "without PyTorch weights in it .it has pytorch_state_dict"),
        ({"bioimageio__yaml": yaml.safe_dump({"weights": {"onnx": {"source": "a.onnx"}}})}, "it has onnx"),
        ({"bioimageio__yaml": "- a list"}, "it has no weights"),
        ({"bioimageio__yaml": "a: [b"}, "bioimageio.yaml cannot be read"),
        ({"bioimageio__yaml": "!!python/object/apply:os.system ['true']"}, "bioimageio.yaml cannot be read"),
        ({"bioimageio__yaml": _description(), "weights__pt": b"no weights"}, "a text file"),
        ({"bioimageio__yaml": _description(), "weights__pt": b""}, "the file is empty"),
    ],
)
def test_what_is_wrong_with_a_package_is_said(package, contents, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(package(**contents))


def test_a_package_in_a_package_is_not_followed(package):
    inner = package(bioimageio__yaml=_description(), weights__pt=_saved(STATE)).read_bytes()
    with pytest.raises(CheckpointError, match="zip archive without PyTorch weights"):
        read_checkpoint(package(bioimageio__yaml=_description(), weights__pt=inner))


def test_a_damaged_package_is_refused(package):
    path = package(bioimageio__yaml=_description(), weights__pt=_saved(STATE))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("weights.pt").header_offset
    content[start + 60 : start + 90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"package\.zip cannot be used"):
        read_checkpoint(path)
