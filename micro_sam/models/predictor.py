"""Loading a Segment Anything model by its registry name or from a checkpoint file."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from segment_anything import SamPredictor as _SamPredictor
from segment_anything.modeling import Sam

from ..errors import CheckpointError, MissingInputError, ParameterError
from .accelerate import accelerate_sam
from .build_sam import build_empty_sam, build_sam, load_weights, parameter_shapes
from .checkpoint import Checkpoint, StateDict, read_checkpoint, read_decoder
from .device import get_device
from .download import file_hash, models
from .precision import resolve_precision
from .spec import DEFAULT_MODEL, ModelSpec, get_spec

logger = logging.getLogger(__name__)


class SamPredictor(_SamPredictor):
    """A Segment Anything predictor that knows which model it holds.

    Attributes:
        model: The network.
        defaults: Parameters of automatic segmentation by mode ("ais", "apg", "amg") that a model file of one's own holds.
        model_type: The image encoder, "vit_t", "vit_b", "vit_l" or "vit_h".
        model_name: The registry name that was asked for.
        checkpoint_path: The checkpoint file, None for a network that was built in memory.
        precision: "float32" or "bfloat16": what the encoder computes in. Features are float32 in any case.
    """

    def __init__(
        self,
        sam_model: Sam,
        model_type: str | None = None,
        model_name: str | None = None,
        checkpoint_path: str | None = None,
        precision: str = "float32",
        decoder_source: Callable[[], StateDict | None] | None = None,
    ) -> None:
        super().__init__(sam_model)
        self.model_type = model_type
        self.model_name = model_name or model_type
        self.checkpoint_path = checkpoint_path
        self.precision = precision
        self.defaults: Mapping[str, Mapping[str, Any]] = {}
        self._hash = None if checkpoint_path is None else file_hash(checkpoint_path)
        self._decoder_source = decoder_source
        self._decoder_state: StateDict | None = None

    @property
    def decoder_state(self) -> StateDict | None:
        """The weights of the model's instance segmentation decoder, None if it has none. Read when first asked for.

        Raises:
            DownloadError: The decoder of a registered model is not in the cache and cannot be downloaded.
            CheckpointError: The decoder file cannot be read.
        """
        if self._decoder_source is not None:
            self._decoder_state = self._decoder_source()
            self._decoder_source = None
        return self._decoder_state

    @decoder_state.setter
    def decoder_state(self, state: StateDict | None) -> None:
        self._decoder_source, self._decoder_state = None, state


def get_sam_model(
    model_type: str = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    return_sam: bool = False,
    return_state: bool = False,
    peft_kwargs: dict[str, Any] | None = None,
    flexible_load_checkpoint: bool = False,
    progress_bar_factory: Callable[[str], Any] | None = None,
    decoder_path: str | os.PathLike | None = None,
    precision: str = "auto",
    accelerate: bool = True,
    **model_kwargs: Any,
) -> Any:
    """Load a Segment Anything model.

    Args:
        model_type: A registered model (see `get_model_names`), downloaded if it is not in the cache. With
            `checkpoint_path` it names the encoder: "vit_b", or any registered model with that encoder; left at its
            default, the file says which encoder it holds and what the model is called.
        device: Where to compute; the best device there is by default.
        checkpoint_path: A checkpoint file to load in the place of the registered model's.
        return_sam: Return the network, too.
        return_state: Return the content of the checkpoint, too.
        peft_kwargs: Arguments of `micro_sam.models.peft_sam.PEFT_Sam` for parameter-efficient finetuning.
        flexible_load_checkpoint: Load the weights that fit in name and shape and leave the rest as it is built.
        progress_bar_factory: Called with the name of a file to download, gives an object with `total`, `update`,
            `reset` and `close`. A tqdm bar is shown by default.
        decoder_path: A file with the weights of the instance segmentation decoder. By default the one in the checkpoint,
            the registered model's, or a file ``<checkpoint>_decoder`` beside the checkpoint.
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the device computes it natively: for the encoder, and
            for objects that are followed through slices. Prompts are decoded in float32.
        accelerate: Replace parts of the network by faster ones with the same results. Training needs the plain network.
        model_kwargs: `num_multimask_outputs` and `image_size`, as in `build_sam`.

    Returns:
        The predictor; with `return_sam` and / or `return_state` a tuple (predictor, sam, state).

    Raises:
        UnknownModelError: No such model is registered.
        DownloadError: The model is not in the cache and cannot be downloaded.
        MissingInputError: There is no file at `checkpoint_path` or `decoder_path`.
        CheckpointError: The checkpoint cannot be read, or does not hold the encoder that `model_type` says.
        DeviceError: There is no such device.
    """
    spec = get_spec(model_type)
    device = get_device(device)
    computed_in = resolve_precision(precision, device)
    path = Path(checkpoint_path) if checkpoint_path is not None else _fetch(spec.name, progress_bar_factory)
    checkpoint = read_checkpoint(path)
    if checkpoint_path is not None and model_type == DEFAULT_MODEL:
        spec = get_spec(checkpoint.encoder)
        model_type = checkpoint.description.get("name") or (model_type if spec.encoder == "vit_b" else spec.name)
    _check_encoder(checkpoint, spec, model_type, custom=checkpoint_path is not None)
    sam = load_sam(checkpoint, spec.encoder, peft_kwargs, flexible_load_checkpoint, **model_kwargs).to(device)
    if accelerate and not peft_kwargs:
        sam = accelerate_sam(sam, precision)
    else:
        computed_in = torch.float32
    predictor = SamPredictor(
        sam,
        model_type=spec.encoder,
        model_name=model_type,
        checkpoint_path=str(path),
        precision=str(computed_in).removeprefix("torch."),
        decoder_source=decoder_source(
            checkpoint, None if checkpoint_path is not None else spec, decoder_path, progress_bar_factory
        ),
    )
    if checkpoint_path is not None:
        predictor.defaults = checkpoint.description.get("defaults") or {}
    results = [predictor, *([sam] if return_sam else [])]
    if return_state:
        state = checkpoint.as_state()
        if predictor.decoder_state is not None:
            state["decoder_state"] = predictor.decoder_state
        results.append(state)
    return predictor if len(results) == 1 else tuple(results)


def load_sam(
    checkpoint: Checkpoint,
    encoder: str,
    peft_kwargs: Mapping[str, Any] | None = None,
    flexible: bool = False,
    **model_kwargs: Any,
) -> Sam:
    """Build the network for an encoder, with PEFT layers if asked for, and load a checkpoint into it (on the CPU).

    A checkpoint of a network with PEFT layers is loaded after they are put in, one of the original network before.

    Raises:
        CheckpointError: The weights do not fit.
        ParameterError: PEFT was asked for and this installation has no training module.
    """
    unknown = set(model_kwargs) - {"num_multimask_outputs", "image_size"}
    if unknown:
        raise ParameterError(f"Unknown argument {min(unknown)!r}: expected num_multimask_outputs or image_size.")
    is_plain = set(checkpoint.model_state) <= set(parameter_shapes(encoder))
    if not peft_kwargs and not is_plain:
        peft_kwargs = _stored_peft(checkpoint)
    sam = (build_sam if flexible or peft_kwargs else build_empty_sam)(encoder, **model_kwargs)
    if peft_kwargs and not is_plain:
        sam = _with_peft(sam, peft_kwargs)
    load_weights(sam, checkpoint.model_state, source=checkpoint.path, flexible=flexible)
    return _with_peft(sam, peft_kwargs) if peft_kwargs and is_plain else sam


def optional_module(name: str) -> ModuleType | None:
    """A module of this package that not every version has."""
    if importlib.util.find_spec(f"{__package__}.{name}") is None:
        return None
    return importlib.import_module(f"{__package__}.{name}")


def _stored_peft(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """How a checkpoint of this package's training was finetuned, if with few parameters."""
    peft_sam = optional_module("peft_sam")
    return None if peft_sam is None else peft_sam.peft_arguments(checkpoint.metadata)


def _with_peft(sam: Sam, peft_kwargs: Mapping[str, Any]) -> Sam:
    peft_sam = optional_module("peft_sam")
    if peft_sam is None:
        raise ParameterError(
            "peft_kwargs need micro_sam.models.peft_sam, which is part of the training module and not in this version: "
            "leave them out."
        )
    return peft_sam.PEFT_Sam(sam, **peft_kwargs).sam


def _fetch(file_name: str, progress_bar_factory: Callable[[str], Any] | None) -> Path:
    bar = True if progress_bar_factory is None else lambda: progress_bar_factory(file_name)
    return Path(models().fetch(file_name, progressbar=bar))


def _check_encoder(checkpoint: Checkpoint, spec: ModelSpec, model_type: str, custom: bool) -> None:
    if checkpoint.encoder == spec.encoder:
        return
    remedy = f"pass model_type={checkpoint.encoder!r}" if custom else "delete it to download the model again"
    raise CheckpointError(
        f"{checkpoint.path} holds a {checkpoint.encoder} encoder, but the model type {model_type!r} has a {spec.encoder} "
        f"encoder: {remedy}."
    )


def decoder_source(
    checkpoint: Checkpoint,
    spec: ModelSpec | None,
    decoder_path: str | os.PathLike | None,
    progress_bar_factory: Callable[[str], Any] | None,
) -> Callable[[], StateDict | None]:
    """Where a model's decoder comes from: a function that reads it when it is called, None where there is none.

    It must not keep hold of the checkpoint, whose weights are large.

    Args:
        checkpoint: The model's checkpoint.
        spec: The registered model, None for a file of one's own.
        decoder_path: A file with the decoder, instead of the one in the checkpoint, the registry, or beside the file.
        progress_bar_factory: See `get_sam_model`.

    Raises:
        MissingInputError: There is no file at `decoder_path`.
    """
    if decoder_path is not None:
        if not Path(decoder_path).is_file():
            raise MissingInputError(f"There is no decoder at {decoder_path}: check the path.")
        return lambda: read_decoder(decoder_path)
    if checkpoint.decoder_state is not None:
        decoder_state = checkpoint.decoder_state
        return lambda: decoder_state
    if spec is not None and spec.decoder_file_name is not None:
        file_name = spec.decoder_file_name
        return lambda: read_decoder(_fetch(file_name, progress_bar_factory))
    path = checkpoint.path
    return lambda: None if spec is not None else _decoder_beside(path)


def _decoder_beside(path: Path) -> StateDict | None:
    for beside in (path.with_name(f"{path.stem}_decoder{path.suffix}"), path.with_name(f"{path.name}_decoder")):
        if beside.is_file() and beside != path:
            logger.info("Using the decoder %s beside the checkpoint", beside)
            return read_decoder(beside)
    return None
