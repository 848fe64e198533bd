"""Packages of the BioImage.IO model zoo, as far as they are checkpoints: which file in the zip holds the weights.

Format: https://github.com/bioimage-io/spec-bioimage-io (model description). Nothing in a package is executed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import yaml

from ..errors import CheckpointError

_DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "model.yaml")
_LARGEST_DESCRIPTION = 16 << 20
_LARGEST_WEIGHTS = 16 << 30


@dataclass(frozen=True)
class ZooPackage:
    """What a package says about its model.

    Attributes:
        weights: The name of the file with PyTorch weights.
        decoder: The name of the file with the instance segmentation decoder, None if there is none beside the weights.
        metadata: What micro_sam wrote about the model: "name", "encoder", "defaults"; of other packages the name only.
    """

    weights: str
    decoder: str | None
    metadata: Mapping[str, Any]


def find_description(names: Sequence[str]) -> str | None:
    """The description among the files of a zip archive, None if it is no package of the model zoo."""
    return next((name for name in _DESCRIPTIONS if name in names), None)


def read_description(archive: zipfile.ZipFile, name: str) -> ZooPackage:
    """Read a package's description.

    Raises:
        CheckpointError: It is damaged, or the package has no PyTorch weights in it.
    """
    if archive.getinfo(name).file_size > _LARGEST_DESCRIPTION:
        raise CheckpointError(f"the file is damaged: its part {name} is too large for a description.")
    with _readable(name):
        content = yaml.safe_load(archive.read(name))
    source = _at(content, "weights", "pytorch_state_dict", "source")
    if not isinstance(source, str) or source not in archive.namelist():
        formats = _at(content, "weights")
        found = ", ".join(formats) if isinstance(formats, dict) else "no weights"
        raise CheckpointError(
            f"it is a package of the BioImage.IO model zoo without PyTorch weights in it (it has {found}), expected "
            "pytorch_state_dict."
        )
    own = _at(content, "config", "micro_sam")
    path = PurePosixPath(source)
    decoder = str(path.with_name(f"{path.stem}_decoder{path.suffix}"))
    return ZooPackage(
        source,
        decoder if decoder in archive.namelist() else None,
        own if isinstance(own, dict) else {},
    )


def member_copy(archive: zipfile.ZipFile, name: str) -> tuple[IO[bytes], int]:
    """A file of an archive as a temporary file of its own, in which one can go to and fro, and its size in bytes.

    Raises:
        CheckpointError: It is larger than any model.
    """
    info = archive.getinfo(name)
    if info.file_size > _LARGEST_WEIGHTS:
        raise CheckpointError(f"its part {name} has {info.file_size} bytes, which no model needs.")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when no tensor can be read any more
    with _readable(name), archive.open(info) as member:
        shutil.copyfileobj(member, file, 16 << 20)
    file.seek(0)
    return file, info.file_size


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Says what a part of an archive that cannot be read is: damaged, encrypted or compressed in an unknown way."""
    try:
        yield
    except (yaml.YAMLError, UnicodeDecodeError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"the file is damaged: its part {name} cannot be read.") from error


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
