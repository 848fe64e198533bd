"""The registered models: `registry.toml` as frozen `ModelSpec` values. Nothing here imports torch or opens the network."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from ..errors import ParameterError, UnknownModelError
from ..user_settings import setting


def default_model() -> str:
    """The model to use when none is named: that of MICROSAM_MODEL or of the settings, or else vit_b_lm."""
    return setting("model") or "vit_b_lm"


#: The same when micro_sam was imported.
DEFAULT_MODEL = default_model()
BUILTIN_MODEL = "vit_t_builtin"
ENCODERS = ("vit_t", "vit_b", "vit_l", "vit_h")
GROUPS = ("bundled", "current", "previous", "medical", "publication")
DECODERS = ("unetr", "light")

_DEFAULT_KEYS = {
    "ais": {
        "center_distance_threshold",
        "boundary_distance_threshold",
        "foreground_threshold",
        "foreground_smoothing",
        "distance_smoothing",
        "min_size",
    },
    "amg": {"pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "min_object_size"},
    "apg": {
        "center_distance_threshold",
        "boundary_distance_threshold",
        "foreground_threshold",
        "nms_threshold",
        "min_size",
        "mask_threshold",
        "multimasking",
        "intersection_over_min",
        "refine_with_box_prompts",
    },
    "propagation_3d": {"projection", "iou_threshold", "box_extension"},
}


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class ModelSpec:
    """What is known about one model.

    Attributes:
        name: The registry name, for example "vit_b_lm".
        encoder: "vit_t", "vit_b", "vit_l" or "vit_h".
        group: "bundled", "current", "previous", "medical" or "publication" (no file can be downloaded directly).
        url: Where the checkpoint lies; None for bundled models and publications.
        hash: "algorithm:hexdigest" of the checkpoint; None if none was published.
        decoder: "unetr", "light" or None: the kind of instance segmentation decoder that belongs to the model.
        decoder_url: Where the decoder lies if it is a file of its own.
        decoder_hash: Hash of that file.
        decoder_widths: Channels of the decoder if they are not the usual ones of its kind.
        bundled_file: Name of the file in micro_sam/models/weights if the model is part of the package.
        version: Version in the BioImage.IO model zoo.
        released_with: The micro-sam release that a previous model came with.
        bioimageio: Name in the BioImage.IO model zoo.
        doi: DOI of the model.
        note: A sentence for people.
        ais: Defaults for `InstanceSegmentationWithDecoder.generate`.
        amg: Defaults for `AutomaticMaskGenerator.generate`.
        apg: Defaults for `AutomaticPromptGenerator.generate`.
        propagation_3d: Defaults for `segment_mask_in_volume`.
    """

    name: str
    encoder: str
    group: str
    url: str | None = None
    hash: str | None = None
    decoder: str | None = None
    decoder_url: str | None = None
    decoder_hash: str | None = None
    decoder_widths: tuple[int, ...] | None = None
    bundled_file: str | None = None
    version: str | None = None
    released_with: str | None = None
    bioimageio: str | None = None
    doi: str | None = None
    note: str | None = None
    ais: Mapping[str, Any] = field(default_factory=_empty, hash=False)
    amg: Mapping[str, Any] = field(default_factory=_empty, hash=False)
    apg: Mapping[str, Any] = field(default_factory=_empty, hash=False)
    propagation_3d: Mapping[str, Any] = field(default_factory=_empty, hash=False)

    @property
    def file_name(self) -> str:
        """Name of the checkpoint in the models folder of the cache, or of the bundled file."""
        return self.bundled_file or self.name

    @property
    def decoder_file_name(self) -> str | None:
        """Name of the separate decoder file in the models folder of the cache, None if there is none."""
        return f"{self.name}_decoder" if self.decoder_url else None


def get_spec(name: str) -> ModelSpec:
    """The spec of a registered model.

    Raises:
        UnknownModelError: No model of that name is registered; the message names similar ones.
    """
    specs = _registry()["models"]
    if name in specs:
        return specs[name]
    similar = difflib.get_close_matches(str(name), specs, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(similar)}" if similar else f"choose one of {', '.join(specs)}"
    raise UnknownModelError(f"There is no model named {name!r}: {hint}.")


def model_names(*groups: str) -> tuple[str, ...]:
    """Names of the registered models in registry order, of all groups or of those given."""
    return tuple(name for name, spec in _registry()["models"].items() if not groups or spec.group in groups)


def get_model_names() -> Iterable[str]:
    """Names of all registered models."""
    return list(model_names())


def training_configurations() -> Mapping[str, Mapping[str, Any]]:
    """Training defaults by kind of hardware ("CPU", "gtx1080", ...)."""
    return _registry()["training"]


def sample_data_files() -> Mapping[str, Mapping[str, str]]:
    """Example data that can be fetched: name -> {"file", "url", "hash"}."""
    return _registry()["sample_data"]


def publications() -> Mapping[str, str]:
    """Models that belong to publications: description -> DOI."""
    return _registry()["publications"]


@lru_cache(maxsize=1)
def _registry() -> Mapping[str, Mapping[str, Any]]:
    return parse_registry(resources.files(__package__).joinpath("registry.toml").read_text(encoding="utf-8"))


def parse_registry(text: str) -> Mapping[str, Mapping[str, Any]]:
    """Read a registry document.

    Args:
        text: TOML, laid out as `registry.toml` describes.

    Returns:
        The sections "models" (name -> `ModelSpec`), "training", "sample_data" and "publications".

    Raises:
        ParameterError: The document has an unknown key, lacks a needed one or has a value that cannot be.
    """
    document = tomllib.loads(text)
    _only_known(document, {"models", "training", "sample_data", "publications"}, "the registry")
    training = document.get("training", {})
    for name, entry in training.items():
        known = {"model_type", "n_objects_per_batch", "n_sub_iteration", "attention_layers_to_update"}
        _only_known(entry, known, f"training.{name}")
        _only_one_of(entry["model_type"], ENCODERS, f"training.{name}.model_type")
    samples = document.get("sample_data", {})
    for name, entry in samples.items():
        _only_known(entry, {"file", "url", "hash"}, f"sample_data.{name}", required=True)
    return {
        "models": {name: _spec(name, entry) for name, entry in document.get("models", {}).items()},
        "training": _frozen(training),
        "sample_data": _frozen(samples),
        "publications": _frozen(document.get("publications", {})),
    }


def _spec(name: str, entry: dict[str, Any]) -> ModelSpec:
    where = f"models.{name}"
    _only_known(entry, {f.name for f in dataclasses.fields(ModelSpec)} - {"name"}, where)
    _only_one_of(entry.get("encoder"), ENCODERS, f"{where}.encoder")
    _only_one_of(entry.get("group"), GROUPS, f"{where}.group")
    _only_one_of(entry.get("decoder"), (*DECODERS, None), f"{where}.decoder")
    for kind, known in _DEFAULT_KEYS.items():
        _only_known(entry.get(kind, {}), known, f"{where}.{kind}")
    if sum(key in entry for key in ("url", "bundled_file")) != (entry["group"] != "publication"):
        raise ParameterError(f"{where} needs a url or a bundled_file, and a publication neither.")
    if ("decoder_url" in entry) != ("decoder_hash" in entry) or ("decoder_url" in entry and "decoder" not in entry):
        raise ParameterError(f"{where} needs decoder, decoder_url and decoder_hash together.")
    for key in ("hash", "decoder_hash"):
        if key in entry and entry[key].partition(":")[0] not in ("xxh128", "sha256"):
            raise ParameterError(f"{where}.{key} is 'xxh128:...' or 'sha256:...', got {entry[key]!r}.")
    values = {key: _frozen(value) for key, value in entry.items()}
    return ModelSpec(name=name, **values)


def _only_known(entry: Mapping[str, Any], known: set[str], where: str, required: bool = False) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ParameterError(f"Unknown key {unknown[0]!r} in {where}: expected one of {', '.join(sorted(known))}.")
    missing = sorted(known - set(entry))
    if required and missing:
        raise ParameterError(f"Missing key {missing[0]!r} in {where}.")


def _only_one_of(value: Any, allowed: Iterable[Any], where: str) -> None:
    if value not in allowed:
        raise ParameterError(f"{where} is one of {', '.join(map(str, allowed))}, got {value!r}.")


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(inner) for key, inner in value.items()})
    return tuple(value) if isinstance(value, list) else value
