"""The file formats of checkpoints: PyTorch's zip archives, its older stream of pickles, and safetensors.

`open_checkpoint` gives the tree of containers in a file, with tensors as `TensorRecord` that are read on demand.
Formats: ``torch.save`` of PyTorch >= 1.6 (zip) and before; https://github.com/huggingface/safetensors (format section);
and packages of the BioImage.IO model zoo that hold one of these.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError, MissingInputError
from .safe_pickle import Placeholder, Storage, TensorRecord, load_inert
from .zoo_package import find_description, member_copy, read_description

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_CHUNK = 16 << 20
_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike) -> Iterator[Any]:
    """Open a checkpoint file and yield what it holds; tensors can be read inside the ``with`` block only.

    Args:
        path: A file of any of the formats above, recognised by its content.

    Raises:
        MissingInputError: There is no such file.
        CheckpointError: The file is not a checkpoint, truncated, damaged or harmful. Raised from the block, too, when
            a tensor that is read there is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There is no checkpoint at {path}: check the path.")
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file.")
    try:
        with open(path, "rb") as file:
            yield _read_tree(file, path.stat().st_size)
    except CheckpointError as error:
        if str(error).startswith(str(path)):
            raise
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} cannot be used: the file is truncated or damaged ({error}).") from error
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


def _read_tree(file: IO[bytes], size: int, in_package: bool = False) -> Any:
    start = file.read(512)
    file.seek(0)
    if not start:
        raise CheckpointError("the file is empty.")
    if start.startswith(b"PK"):
        return _read_zip(file, in_package)
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return _read_safetensors(file, size)
    if start[:1] == b"\x80":
        return _read_legacy(file, size)
    raise CheckpointError(f"it is {_describe(start)}, expected a PyTorch checkpoint.")


def _describe(start: bytes) -> str:
    text = start.lstrip()
    if text[:1] == b"<":
        return "a web page or XML file (perhaps saved in the place of a download)"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the real file with git lfs pull)"
    with contextlib.suppress(UnicodeDecodeError):
        start[:-4].decode("utf-8")
        if b"\x00" not in start:
            return "a text file"
    return f"of an unknown format (it starts with {start[:4].hex(' ')})"


def _tensor_from(buffer: bytearray, dtype: torch.dtype, swap: bool = False) -> torch.Tensor:
    if not buffer:
        return torch.empty(0, dtype=dtype)
    if swap and dtype.itemsize > 1:
        size = dtype.itemsize // (2 if dtype.is_complex else 1)
        raw = torch.frombuffer(buffer, dtype=torch.uint8).view(-1, size)
        return raw.flip(1).contiguous().view(-1).view(dtype)
    return torch.frombuffer(buffer, dtype=dtype)


def _read_exactly(file: IO[bytes], n_bytes: int) -> bytearray:
    buffer = bytearray(n_bytes)
    view, done = memoryview(buffer), 0
    while done < n_bytes:
        chunk = file.read(min(_CHUNK, n_bytes - done))
        if not chunk:
            raise CheckpointError("the file is truncated.")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return buffer


# -- zip archives


class _ZipStorages:
    def __init__(self, archive: zipfile.ZipFile, root: str, swap: bool) -> None:
        self._archive, self._root, self._swap = archive, root, swap
        self._loaded: dict[str, torch.Tensor] = {}

    def __call__(self, key: str, dtype: torch.dtype, n_elements: int) -> torch.Tensor:
        if key not in self._loaded:
            info = _stored_entry(self._archive, f"{self._root}data/{key}")
            if info.file_size != n_elements * dtype.itemsize:
                raise CheckpointError("the file is damaged: a tensor does not have the size it should have.")
            with self._archive.open(info) as entry:
                self._loaded[key] = _tensor_from(_read_exactly(entry, info.file_size), dtype, self._swap)
        return self._loaded[key]


def _read_zip(file: IO[bytes], in_package: bool) -> Any:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    description = find_description(names)
    if description is not None and not in_package:
        return _read_package(archive, description)
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(pickles) != 1:
        raise CheckpointError("it is a zip archive without PyTorch weights, expected a PyTorch checkpoint.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise CheckpointError("it is a TorchScript program, expected a checkpoint with weights only.")
    byteorder = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in names else "little"
    content = archive.read(_stored_entry(archive, pickles[0]))
    tree, _ = load_inert(io.BytesIO(content), _ZipStorages(archive, root, byteorder != sys.byteorder))
    return tree


def _stored_entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"the file is damaged: its part {name} is missing.") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError("it is a compressed zip archive, expected one as torch.save writes it.")
    return info


def _read_package(archive: zipfile.ZipFile, description: str) -> dict[str, Any]:
    """The weights in a package of the model zoo, laid out as an exported model."""
    package = read_description(archive, description)
    tree, decoder = (
        None if name is None else _read_tree(*member_copy(archive, name), in_package=True)
        for name in (package.weights, package.decoder)
    )
    if not isinstance(tree, dict):
        return tree
    tree = dict(tree) if isinstance(tree.get("model_state"), dict) else {"model_state": tree}
    if decoder is not None:
        tree["decoder_state"] = decoder
    return {**tree, "metadata": dict(package.metadata)}


# -- the stream of pickles that torch.save wrote before PyTorch 1.6


class _StreamStorages:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def locate(self, keys: Any, storages: dict[str, Storage], size: int) -> None:
        """Note where each storage begins: they follow one another, each behind its number of elements."""
        if not isinstance(keys, list):
            raise CheckpointError("the file is damaged: it has no list of tensors.")
        for key in keys:
            if key not in storages:
                raise CheckpointError("the file is damaged: it has numbers that belong to no tensor.")
            n_elements = int.from_bytes(_read_exactly(self._file, 8), "little")
            n_bytes = n_elements * storages[key].dtype.itemsize
            self._places[key] = (self._file.tell(), n_elements)
            if self._file.tell() + n_bytes > size:
                raise CheckpointError("the file is truncated.")
            self._file.seek(n_bytes, os.SEEK_CUR)

    def __call__(self, key: str, dtype: torch.dtype, n_elements: int) -> torch.Tensor:
        if key not in self._loaded:
            start, stored = self._places.get(key, (0, -1))
            if stored != n_elements:
                raise CheckpointError("the file is damaged: a tensor does not have the size it should have.")
            self._file.seek(start)
            self._loaded[key] = _tensor_from(_read_exactly(self._file, n_elements * dtype.itemsize), dtype)
        return self._loaded[key]


def _read_legacy(file: IO[bytes], size: int) -> Any:
    storages = _StreamStorages(file)
    magic, _ = load_inert(file, storages)
    if magic != _LEGACY_MAGIC:
        content = repr(magic) if isinstance(magic, Placeholder) else f"a value of type {type(magic).__name__}"
        raise CheckpointError(f"it is a pickle of {content}, expected a PyTorch checkpoint.")
    version, _ = load_inert(file, storages)
    system, _ = load_inert(file, storages)
    if version != _LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("it was written by an unknown version of PyTorch or on a big-endian machine.")
    tree, described = load_inert(file, storages)
    keys, _ = load_inert(file, storages)
    storages.locate(keys, described, size)
    return tree


# -- safetensors


def _read_safetensors(file: IO[bytes], size: int) -> dict[str, Any]:
    length = int.from_bytes(_read_exactly(file, 8), "little")
    try:
        header = json.loads(_read_exactly(file, length))
        header.pop("__metadata__", None)
        return {name: _safetensors_record(file, 8 + length, size, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the safetensors file is damaged ({type(error).__name__}: {error}).") from error


def _safetensors_record(file: IO[bytes], start: int, size: int, entry: dict[str, Any]) -> TensorRecord:
    dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
    begin, end = (start + int(offset) for offset in entry["data_offsets"])
    n_elements = math.prod(shape)
    if not start <= begin <= end <= size or end - begin != n_elements * dtype.itemsize or min(shape, default=0) < 0:
        raise CheckpointError("the file is truncated or damaged: a tensor lies outside of it.")

    def read(key: str, dtype: torch.dtype, n_elements: int) -> torch.Tensor:
        file.seek(begin)
        return _tensor_from(_read_exactly(file, n_elements * dtype.itemsize), dtype)

    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return TensorRecord(Storage(str(begin), dtype, n_elements), dtype, 0, shape, stride, read)
