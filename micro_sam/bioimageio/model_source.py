"""The model that is exported: its weights in the original layout, its decoder, and what is known about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from segment_anything.modeling import Sam

from micro_sam.errors import CheckpointError, MissingDependencyError
from micro_sam.models.build_sam import build_empty_sam, load_weights
from micro_sam.models.checkpoint import StateDict
from micro_sam.models.decoder_adapter import Decoder, build_decoder
from micro_sam.models.download import models
from micro_sam.models.export import read_flat
from micro_sam.models.predictor import decoder_source
from micro_sam.models.spec import ModelSpec, get_spec


@dataclass(frozen=True)
class SourceModel:
    """A model to export.

    Attributes:
        name: What it was called: the registered model, or its encoder for a file of one's own.
        encoder: "vit_t", "vit_b", "vit_l" or "vit_h".
        model_state: The weights under the original names.
        decoder_state: The weights of the instance segmentation decoder, None if it has none.
        defaults: Parameters of automatic segmentation by mode ("ais", "apg", "amg").
        spec: The registered model, None for a file of one's own.
    """

    name: str
    encoder: str
    model_state: StateDict
    decoder_state: StateDict | None = None
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spec: ModelSpec | None = None

    def build_sam(self) -> Sam:
        """The plain network in evaluation mode, on the CPU, in float32."""
        sam = build_empty_sam(self.encoder)
        load_weights(sam, self.model_state, source=self.name)
        return sam.float().eval().requires_grad_(False)

    def build_decoder(self) -> Decoder:
        """The plain instance segmentation decoder.

        Raises:
            CheckpointError: The model has none.
        """
        return build_decoder(self.checked_decoder()).float().requires_grad_(False)

    def checked_decoder(self) -> dict[str, torch.Tensor]:
        """The decoder's weights.

        Raises:
            CheckpointError: The model has none.
        """
        if self.decoder_state is None:
            raise CheckpointError(
                f"The model {self.name} has no instance segmentation decoder: export it for prompts only, or give the "
                "decoder's file as decoder_path."
            )
        return self.decoder_state


def read_source(
    model_type: str,
    checkpoint_path: str | os.PathLike | None = None,
    decoder_path: str | os.PathLike | None = None,
) -> SourceModel:
    """Read a model to export.

    Args:
        model_type: A registered model, or with `checkpoint_path` its encoder ("vit_b").
        checkpoint_path: A training checkpoint or exported model.
        decoder_path: The decoder's file, if it is neither in the checkpoint nor beside it.

    Raises:
        UnknownModelError: There is no such model.
        DownloadError: The registered model cannot be downloaded.
        MissingInputError: There is no such file.
        CheckpointError: It cannot be read, or holds another encoder.
    """
    spec = get_spec(model_type) if checkpoint_path is None else None
    path = checkpoint_path if spec is None else models().fetch(spec.name)
    checkpoint = read_flat(path, model_type)
    decoder_state = decoder_source(checkpoint, spec, decoder_path, None)()
    if spec is not None:
        defaults: Mapping[str, Mapping[str, Any]] = {mode: getattr(spec, mode) for mode in ("ais", "apg", "amg")}
    else:
        defaults = checkpoint.description.get("defaults") or {}
    return SourceModel(model_type, checkpoint.encoder, checkpoint.model_state, decoder_state, defaults, spec)


def missing(package: str, extra: str) -> MissingDependencyError:
    """The error to raise where an optional package is not installed."""
    return MissingDependencyError(
        f"This export needs the package {package}, which is not installed: run pip install 'micro_sam[{extra}]'."
    )
