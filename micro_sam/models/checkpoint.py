"""Checkpoints of SAM models: which weights a file holds, for which encoder, with or without a decoder.

Every layout in use is understood: the flat state dict of the original SAM, ``{"model_state", "decoder_state"}`` of
exported microscopy models, and training checkpoints with names below ``sam.`` and pickled objects beside the tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .checkpoint_files import open_checkpoint
from .safe_pickle import Placeholder, TensorRecord

StateDict = dict[str, torch.Tensor]

_STATE_KEYS = ("model_state", "state_dict", "model_state_dict", "model")
_VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_POS_EMBED = "image_encoder.pos_embed"
_TINY_STEM = "image_encoder.patch_embed.seq.0.c.weight"
_N_NAMED = 3
_MOST_PLAIN_VALUES = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a checkpoint file, on the CPU.

    Attributes:
        path: The file.
        model_state: The SAM's weights under the names of the original layout.
        decoder_state: The weights of the instance segmentation decoder in the same file, None if it holds none.
        metadata: Plain values (numbers, strings, lists and mappings of them) stored beside the weights.
    """

    path: Path
    model_state: StateDict
    decoder_state: StateDict | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        """The kind of image encoder, recognised from the weights: "vit_t", "vit_b", "vit_l" or "vit_h"."""
        return recognise_encoder(self.model_state, self.path)

    @property
    def description(self) -> Mapping[str, Any]:
        """What an exported model says about itself: "name", "encoder", "defaults" and more; empty if it says nothing."""
        description = self.metadata.get("metadata")
        return description if isinstance(description, dict) else {}

    def as_state(self) -> dict[str, Any]:
        """The content as a mapping with "model_state" and, where there is one, "decoder_state"."""
        state: dict[str, Any] = {**self.metadata, "model_state": self.model_state}
        if self.decoder_state is not None:
            state["decoder_state"] = self.decoder_state
        return state


def read_checkpoint(path: str | os.PathLike, prefix: str | None = None) -> Checkpoint:
    """Read the weights in a checkpoint file. Nothing in the file is executed.

    Args:
        path: The file.
        prefix: What precedes the original names ("sam." in training checkpoints). Found out if not given, or if the
            names do not have it.

    Raises:
        MissingInputError: There is no such file.
        CheckpointError: The file is not a checkpoint of a SAM model, or damaged, or harmful.
    """
    with open_checkpoint(path) as tree:
        records = _model_records(tree)
        decoder = tree.get("decoder_state") if isinstance(tree, dict) and records is not tree else None
        model_state = _load(_strip_prefix(records, "image_encoder.", prefix))
        decoder_state = _load(_decoder_records(decoder)) if decoder is not None else None
        metadata = {} if records is tree else _plain_values(tree)
    return Checkpoint(Path(path), model_state, decoder_state, metadata)


def read_decoder(path: str | os.PathLike) -> StateDict:
    """Read the weights of an instance segmentation decoder from a file of its own, or from a file that holds one, too.

    Raises:
        MissingInputError: There is no such file.
        CheckpointError: The file holds no decoder, or cannot be read.
    """
    with open_checkpoint(path) as tree:
        candidates = [tree]
        if isinstance(tree, dict):
            candidates = [tree.get("decoder_state"), *(tree.get(key) for key in _STATE_KEYS), tree]
        for candidate in candidates:
            if _is_state(candidate) and any(_is_decoder_name(name) for name in candidate):
                return _load(_decoder_records(candidate))
        raise CheckpointError("it holds no instance segmentation decoder.")


def recognise_encoder(state: Mapping[str, torch.Tensor], source: Any = "The checkpoint") -> str:
    """The kind of image encoder a SAM state dict belongs to.

    Args:
        state: Weights under the original names.
        source: What to call them in the error.

    Raises:
        CheckpointError: They belong to no encoder known here.
    """
    if _TINY_STEM in state:
        return "vit_t"
    width = state[_POS_EMBED].shape[-1] if _POS_EMBED in state else None
    if width in _VIT_WIDTHS:
        return _VIT_WIDTHS[width]
    detail = f"its tokens have {width} channels" if width else "it has other parameter names"
    raise CheckpointError(f"{source} does not hold a vit_t, vit_b, vit_l or vit_h image encoder ({detail}).")


def check_names_and_shapes(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: Any, kind: str
) -> None:
    """Compare weights with what a network takes.

    Raises:
        CheckpointError: Parameters are missing, unexpected or of another shape; the first few are named.
    """
    wrong = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    parts = [
        _listing("lacks", [name for name in expected if name not in state]),
        _listing("has the unexpected", [name for name in state if name not in expected]),
        _listing(
            "has another shape in",
            [f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}" for name in wrong],
        ),
    ]
    problems = [part for part in parts if part]
    if problems:
        raise CheckpointError(f"{source} does not fit the {kind} architecture: it {' and '.join(problems)}.")


def _listing(verb: str, names: list[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return f"{verb} {', '.join(names[:_N_NAMED])}{more}" if names else ""


def _model_records(tree: Any) -> dict[str, TensorRecord]:
    """The part of a checkpoint's content that is a SAM's state dict."""
    if not isinstance(tree, dict):
        raise CheckpointError(f"it holds {_name_type(tree)} instead of weights.")
    for key in (*_STATE_KEYS, None):
        records = tree if key is None else tree.get(key)
        if isinstance(records, dict) and any(isinstance(v, TensorRecord) for v in records.values()):
            break
    else:
        keys = ", ".join(repr(key) for key in list(tree)[:_N_NAMED])
        raise CheckpointError(f"it holds no weights of a network (its entries are {keys or 'none'}).")
    for name, record in records.items():
        if not isinstance(record, TensorRecord) or not isinstance(name, str):
            raise CheckpointError(f"it holds {_name_type(record)} under {name!r} where a tensor should be.")
    if not any("image_encoder." in name for name in records):
        raise CheckpointError(_what_it_is_instead(records))
    return records


def _what_it_is_instead(records: Iterable[str]) -> str:
    names = list(records)
    if any(name.startswith("encoder.") for name in names) and any(_is_decoder_name(name) for name in names):
        return (
            "it is the checkpoint of a network trained for automatic instance segmentation only: export it with "
            "micro_sam.training.export_instance_segmentation_model first."
        )
    if any(_is_decoder_name(name) for name in names):
        return "it holds only an instance segmentation decoder: pass it as decoder_path beside the model's checkpoint."
    return f"it is not a Segment Anything model: it has no image_encoder, but {', '.join(names[:_N_NAMED])}."


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, TensorRecord) for v in value.values())


def _is_decoder_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith("out_conv.weight")


def _decoder_records(records: Any) -> dict[str, TensorRecord]:
    if not _is_state(records):
        raise CheckpointError(f"its decoder_state is {_name_type(records)} instead of a mapping of tensors.")
    records = _strip_prefix(records, "out_conv.", None)
    return {name: record for name, record in records.items() if not name.startswith("encoder.")}


def _strip_prefix(records: dict[str, TensorRecord], landmark: str, prefix: str | None) -> dict[str, TensorRecord]:
    """Take off what precedes the landmark ("image_encoder.") in the names."""
    if prefix is None or not any(name.startswith(prefix + landmark) for name in records):
        prefix = next((name[: name.index(landmark)] for name in records if landmark in name), "")
    return {name.removeprefix(prefix): record for name, record in records.items()}


def _load(records: Mapping[str, TensorRecord]) -> StateDict:
    return {name: record.load() for name, record in records.items()}


def _plain_values(tree: Mapping[Any, Any]) -> dict[str, Any]:
    def belongs(key: Any) -> bool:
        return isinstance(key, str) and key not in (*_STATE_KEYS, "init") and not key.endswith("_state")

    return {key: value for key, value in tree.items() if belongs(key) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether a value consists of at most some thousand numbers, strings, lists and mappings."""
    pending = [value]
    for _ in range(_MOST_PLAIN_VALUES):
        if not pending:
            return True
        value = pending.pop()
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        elif value is not None and type(value) not in (bool, int, float, str):
            return False
    return False


def _name_type(value: Any) -> str:
    return repr(value) if isinstance(value, Placeholder) else f"a value of type {type(value).__name__}"
