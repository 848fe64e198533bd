from __future__ import annotations

import collections
import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_em.transform
from reference_weights import parameter_shapes

from micro_sam.errors import CheckpointError, MissingInputError
from micro_sam.models.checkpoint import read_checkpoint, read_decoder, recognise_encoder
from micro_sam.models.checkpoint_files import open_checkpoint

STEM = "image_encoder.patch_embed.seq.0.c.weight"


def _small_state(prefix=""):
    """A few parameters under names of a vit_t SAM, of all kinds of types."""
    return collections.OrderedDict(
        {
            f"{prefix}{STEM}": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2),
            f"{prefix}half": torch.linspace(0, 1, 5).half(),
            f"{prefix}brain": torch.linspace(0, 1, 5).bfloat16(),
            f"{prefix}count": torch.tensor(7),
            f"{prefix}view": torch.arange(12, dtype=torch.float64).reshape(3, 4).T[1:, ::2],
            f"{prefix}empty": torch.zeros(0, 3),
            f"{prefix}flag": torch.tensor([True, False]),
        }
    )


def _decoder():
    return {"out_conv.weight": torch.ones(3, 2, 1, 1), "out_conv.bias": torch.zeros(3)}


class Transform:
    """A class as training data loaders have it; checkpoints refer to it."""

    def __init__(self, shape):
        self.shape = shape

    def apply(self, x):
        return x


def _training_checkpoint():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "iteration": 250,
        "epoch": 3,
        "best_metric": np.float64(0.25),
        "model_state": _small_state("sam."),
        "decoder_state": collections.OrderedDict(_decoder()),
        "optimizer_state": optimizer.state_dict(),
        "init": {
            "optimizer": optimizer,
            "transform": Transform((1, 2)),
            "bound": Transform((3,)).apply,
            "partial": functools.partial(max, key=abs),
            "path": Path("/somewhere"),
            "loss": torch.nn.MSELoss(),
            "array": np.arange(5),
            "shape": torch.Size([1, 2]),
            "names": {"a", "b"},
            "default": collections.defaultdict(list, {"a": [1]}),
            "raw_transform": torch_em.transform.raw.get_raw_transform(),
            "label_transform": torch_em.transform.label.PerObjectDistanceTransform(distances=True, foreground=True),
            "augmentations": torch_em.transform.get_augmentations(ndim=2),
        },
        "train_time": 12.5,
        "timestamp": "01-01-2025",
    }


def _assert_same(loaded, expected):
    assert list(loaded) == list(expected)
    for name, value in expected.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
class TestLayouts:
    def test_flat(self, tmp_path, is_zip):
        torch.save(_small_state(), tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        _assert_same(checkpoint.model_state, _small_state())
        assert checkpoint.encoder == "vit_t"
        assert checkpoint.decoder_state is None

    def test_exported_with_decoder(self, tmp_path, is_zip):
        content = {"model_state": _small_state(), "decoder_state": _decoder(), "metadata": {"licence": "MIT", "n": [1]}}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        checkpoint = read_checkpoint(tmp_path / "a.pt")
        _assert_same(checkpoint.model_state, _small_state())
        _assert_same(checkpoint.decoder_state, _decoder())
        assert checkpoint.metadata == {"metadata": {"licence": "MIT", "n": [1]}}
        _assert_same(read_decoder(tmp_path / "a.pt"), _decoder())

    def test_training_with_pickled_objects(self, tmp_path, is_zip):
        torch.save(_training_checkpoint(), tmp_path / "best.pt", _use_new_zipfile_serialization=is_zip)
        checkpoint = read_checkpoint(tmp_path / "best.pt")
        _assert_same(checkpoint.model_state, _small_state())
        _assert_same(checkpoint.decoder_state, _decoder())
        assert checkpoint.metadata == {"iteration": 250, "epoch": 3, "train_time": 12.5, "timestamp": "01-01-2025"}

    def test_decoder_file(self, tmp_path, is_zip):
        torch.save(_decoder(), tmp_path / "a_decoder.pt", _use_new_zipfile_serialization=is_zip)
        _assert_same(read_decoder(tmp_path / "a_decoder.pt"), _decoder())

    def test_parameters_and_shared_storage(self, tmp_path, is_zip):
        shared = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        state = {STEM: shared, "image_encoder.same": shared, "image_encoder.part": shared.detach()[1]}
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        _assert_same(read_checkpoint(tmp_path / "a.pt").model_state, {k: v.detach() for k, v in state.items()})


@pytest.mark.parametrize("prefix", ["sam.", "module.", "module.sam.", "_orig_mod."])
def test_prefixes_of_wrapped_networks_are_taken_off(tmp_path, prefix):
    torch.save({"model_state": _small_state(prefix)}, tmp_path / "a.pt")
    _assert_same(read_checkpoint(tmp_path / "a.pt").model_state, _small_state())


@pytest.mark.parametrize("key", ["model_state", "state_dict", "model_state_dict", "model"])
def test_the_usual_names_of_the_weights_are_known(tmp_path, key):
    torch.save({key: _small_state(), "epoch": 1}, tmp_path / "a.pt")
    _assert_same(read_checkpoint(tmp_path / "a.pt").model_state, _small_state())


def test_a_big_endian_checkpoint_is_read(tmp_path):
    torch.save({STEM: torch.arange(4.0)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            target.writestr(name, content)
    assert read_checkpoint(tmp_path / "b.pt").model_state[STEM].tolist() == [0, 1, 2, 3]


def test_safetensors_are_read(tmp_path):
    weights = np.arange(6, dtype="<f4").reshape(2, 3)
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = json.dumps({"__metadata__": {"format": "pt"}, STEM: entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + weights.tobytes())
    assert np.array_equal(read_checkpoint(path).model_state[STEM].numpy(), weights)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("encoder", ["vit_t", "vit_b", "vit_l", "vit_h"])
def test_the_encoder_is_recognised_from_names_and_shapes(encoder):
    state = {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes()[encoder].items()}
    assert recognise_encoder(state) == encoder


# -- what must not be executed


class Calls:
    """Pickles as a call of a function, the way a harmful checkpoint does it."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


HARMFUL = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "exec": lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    "eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Calls(open, str(mark), "w"),
    "subprocess": lambda mark: Calls(subprocess.check_call, ["touch", str(mark)]),
    "os.mkdir": lambda mark: Calls(os.mkdir, str(mark)),
    "import": lambda mark: Calls(__import__, "this"),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["whole", "beside", "inside"])
@pytest.mark.parametrize("name", HARMFUL)
def test_a_checkpoint_that_calls_something_is_refused_and_nothing_happens(tmp_path, name, place, is_zip):
    mark = tmp_path / "executed"
    evil = HARMFUL[name](mark)
    state = _small_state()
    content = {
        "whole": evil,
        "beside": {"model_state": state, "init": {"x": [evil]}},
        "inside": {"model_state": {**state, "image_encoder.x": evil}},
    }[place]
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=is_zip)
    modules = set(sys.modules)
    with pytest.raises(CheckpointError, match="which other programs would execute .* do not use this file"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not mark.exists()
    assert set(sys.modules) == modules


def test_a_plain_pickle_that_calls_something_is_refused(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Calls(os.system, f"touch {mark}")))
    with pytest.raises(CheckpointError, match=r"refers to (posix|nt)\.system"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not mark.exists()


def _pickle_with_global(module, name, body=b"."):
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + body


def _zip_checkpoint(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("module", ["colorsys", "micro_sam_module_that_does_not_exist"])
def test_nothing_is_imported_for_a_checkpoint(tmp_path, module):
    sys.modules.pop(module, None)
    path = _zip_checkpoint(tmp_path / "a.pt", _pickle_with_global(module, "hls_to_rgb", b"(K\x01K\x01K\x01tR."))
    with pytest.raises(CheckpointError, match=f"holds <{module}.hls_to_rgb, not rebuilt> instead of weights"):
        read_checkpoint(path)
    assert module not in sys.modules


# BUILD with a slot state {"keys": 1}: the attempt to set an attribute on what is on the stack
_SET_KEYS = b"(N}(X\x04\x00\x00\x00keysK\x01utb."
_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
_TENSOR = b"(" + _STORAGE + b"K\x00K\x04\x85K\x01\x85\x89NtR"


@pytest.mark.parametrize(
    ("module", "name", "rest"),
    [
        ("collections", "OrderedDict", _SET_KEYS),
        ("torch", "FloatStorage", _SET_KEYS),
        ("torch", "float32", _SET_KEYS),
        ("torch._utils", "_rebuild_tensor_v2", _SET_KEYS),
        ("torch._utils", "_rebuild_tensor_v2", _TENSOR + _SET_KEYS),
        ("torch._utils", "_rebuild_tensor_v2", _TENSOR + b"}X\x05\x00\x00\x00shapeK\x01sb."),
        ("torch._utils", "_rebuild_tensor_v2", b"(" + _STORAGE + b"NNNtR."),
        ("torch._tensor", "_rebuild_from_type_v2", b"(X\x01\x00\x00\x00aX\x01\x00\x00\x00b)}tR."),
        ("a.b", "c", _SET_KEYS),
    ],
)
def test_a_checkpoint_cannot_change_what_reads_it(tmp_path, module, name, rest):
    path = _zip_checkpoint(tmp_path / "a.pt", _pickle_with_global(module, name, rest))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    torch.save(_small_state(), tmp_path / "good.pt")
    _assert_same(read_checkpoint(tmp_path / "good.pt").model_state, _small_state())


@pytest.mark.parametrize(
    "rest", [b"r\xff\xff\xff\x7f.", b"\x82\x01.", b"\x96" + b"\xff" * 7 + b"\x7f.", b"Q.", b"h\x05."]
)
def test_a_pickle_with_absurd_operations_is_refused(tmp_path, rest):
    with pytest.raises(CheckpointError):
        read_checkpoint(_zip_checkpoint(tmp_path / "a.pt", _pickle_with_global("a", "b", rest)))


def test_an_object_in_the_place_of_a_tensor_is_refused(tmp_path):
    torch.save({"model_state": {**_small_state(), "image_encoder.x": Transform((1,))}}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match="Transform, not rebuilt> under 'image_encoder.x' where a tensor should be"
    ):
        read_checkpoint(tmp_path / "a.pt")


# -- files that are no checkpoints


def _zip_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _torchscript(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), path)


def _compressed(path):
    buffer = io.BytesIO()
    torch.save(_small_state(), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


NO_CHECKPOINTS = {
    "empty": (lambda p: p.write_bytes(b""), "the file is empty"),
    "text": (lambda p: p.write_text("hello world\n" * 99), "it is a text file, expected a PyTorch checkpoint"),
    "short text": (lambda p: p.write_text("hi"), "it is a text file"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>login</html>"), "it is a web page or XML file"),
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"), "it is a Git LFS pointer"),
    "noise": (
        lambda p: p.write_bytes(bytes(range(255, 0, -1)) * 9),
        "of an unknown format (it starts with ff fe fd fc)",
    ),
    "image": (lambda p: p.write_bytes(b"II*\x00" + bytes(600)), "of an unknown format"),
    "zip": (_zip_of_text, "it is a zip archive without PyTorch weights"),
    "torchscript": (_torchscript, "it is a TorchScript program"),
    "compressed": (_compressed, "it is a compressed zip archive"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "it is a pickle of a value of type dict"),
    "list": (lambda p: torch.save([1, 2], p), "it holds a value of type list instead of weights"),
    "tensor": (lambda p: torch.save(torch.ones(2), p), "instead of weights"),
    "no weights": (
        lambda p: torch.save({"epoch": 1, "loss": 0.5}, p),
        "no weights of a network (its entries are 'epoch'",
    ),
    "nothing": (lambda p: torch.save({}, p), "no weights of a network (its entries are none)"),
    "other network": (
        lambda p: torch.save(torch.nn.Linear(2, 2).state_dict(), p),
        "it is not a Segment Anything model: it has no image_encoder, but weight, bias",
    ),
    "decoder": (lambda p: torch.save(_decoder(), p), "pass it as decoder_path"),
    "unetr": (
        lambda p: torch.save({"model_state": {"encoder.x": torch.ones(1), **_decoder()}}, p),
        "export it with micro_sam.training.export_instance_segmentation_model",
    ),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_named_in_one_sentence(tmp_path, name):
    write, message = NO_CHECKPOINTS[name]
    path = tmp_path / "a.pt"
    write(path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, is_zip, part):
    path = tmp_path / "a.pt"
    torch.save(_training_checkpoint(), path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match="truncated|damaged|unknown format"):
        read_checkpoint(path)


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({STEM: torch.full((1000,), 0.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.find(b"\x00\x00\x00\x3f" * 50) + 41] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_pickle_gives_a_checkpoint_error_or_loads(tmp_path, seed):
    path = tmp_path / "a.pt"
    torch.save(_training_checkpoint(), path, _use_new_zipfile_serialization=False)
    content, generator = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in generator.integers(2, len(content) // 2, size=3):
        content[place] = generator.integers(256)
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_a_tensor_outside_of_its_numbers_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({STEM: torch.arange(8.0).reshape(2, 4)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"K\x02K\x04\x86") == 1  # the shape (2, 4)
                content = content.replace(b"K\x02K\x04\x86", b"K\x09K\x04\x86")
            target.writestr(name, content)
    with pytest.raises(CheckpointError, match="a tensor lies outside of the stored numbers"):
        read_checkpoint(tmp_path / "b.pt")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(MissingInputError, match="There is no checkpoint at"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder, expected a checkpoint file"):
        read_checkpoint(tmp_path)
    torch.save(_small_state(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no instance segmentation decoder"):
        read_decoder(tmp_path / "a.pt")


def test_other_encoders_are_refused():
    with pytest.raises(CheckpointError, match=r"its tokens have 192 channels"):
        recognise_encoder({"image_encoder.pos_embed": torch.ones(1, 2, 2, 192)})
    with pytest.raises(CheckpointError, match="it has other parameter names"):
        recognise_encoder({"image_encoder.trunk": torch.ones(1)})


def test_optimizer_states_are_not_read(tmp_path):
    torch.save({"model_state": _small_state(), "optimizer_state": {"state": {0: torch.ones(1000)}}}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as tree:
        assert not isinstance(tree["optimizer_state"]["state"][0], torch.Tensor)
