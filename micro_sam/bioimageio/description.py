"""The description file of a package (``bioimageio.yaml``), built with bioimageio.spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bioimageio.spec import ValidationContext
from bioimageio.spec.common import FileDescr, Sha256
from bioimageio.spec.generic import v0_3
from bioimageio.spec.model import v0_5

from micro_sam.bioimageio.model_source import SourceModel
from micro_sam.bioimageio.package_info import PackageInfo
from micro_sam.bioimageio.tensors import automatic_inputs, automatic_outputs, prompt_inputs, prompt_outputs
from micro_sam.models.download import file_hash
from micro_sam.models.spec import ModelSpec

_TAGS = ("segment-anything", "segmentation", "instance-segmentation", "microscopy", "2d", "pytorch", "micro-sam")
_MODULE = "micro_sam.bioimageio"


@dataclass(frozen=True)
class Files:
    """The files of a package; `inputs` and `outputs` are test tensors by the tensors' names."""

    weights: Path
    documentation: Path
    environment: Path
    cover: Path
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    attachments: Sequence[Path] = ()


def describe_package(
    source: SourceModel, info: PackageInfo, settings: Mapping[str, Any] | None, files: Files
) -> v0_5.ModelDescr:
    """Describe a package and check the description, its files and test tensors included.

    Args:
        source: The model.
        info: What is said about it.
        settings: Parameters of automatic segmentation, None for a package for prompts.
        files: The files that belong to it.

    Raises:
        pydantic.ValidationError: The description is not valid.
    """
    inputs, outputs = (prompt_inputs, prompt_outputs) if settings is None else (automatic_inputs, automatic_outputs)
    with ValidationContext(perform_io_checks=False):
        content = _content(source, info, settings, files)
        content["inputs"] = _tensors(v0_5.InputTensorDescr, inputs(), files.inputs)
        content["outputs"] = _tensors(v0_5.OutputTensorDescr, outputs(), files.outputs)
        return v0_5.ModelDescr(**content)


def _tensors(kind: type, entries: Mapping[str, Mapping[str, Any]], paths: Mapping[str, Path]) -> list[Any]:
    return [kind(id=v0_5.TensorId(name), test_tensor=_file(paths[name]), **entry) for name, entry in entries.items()]


def _file(path: Path) -> FileDescr:
    return FileDescr(source=path, sha256=_hash(path))


def _hash(path: Path) -> Sha256:
    return Sha256(file_hash(path, like="sha256:").partition(":")[2])


def check_info(info: PackageInfo, spec: ModelSpec, automatic: bool) -> None:
    """Check what a person says about a model, before anything is computed.

    Raises:
        pydantic.ValidationError: Something of it is not valid.
    """
    with ValidationContext(perform_io_checks=False):
        v0_3.GenericDescr(format_version="0.3.4", type="generic", **_said(info, spec.encoder, spec, automatic))


def _said(info: PackageInfo, encoder: str, spec: ModelSpec | None, automatic: bool) -> dict[str, Any]:
    return {
        "name": info.name,
        "description": info.summary(encoder, automatic),
        "authors": [v0_5.Author(**author) for author in info.named_authors()],
        "maintainers": [v0_5.Maintainer(**entry) for entry in info.maintainers],
        "cite": [v0_5.CiteEntry(**entry) for entry in info.citations(encoder, spec)],
        "license": info.license,
        "tags": list(dict.fromkeys([*info.tags, *_TAGS])),
        "version": info.version,
        "git_repo": info.git_repo,
        "links": list(info.links),
    }


def _content(
    source: SourceModel, info: PackageInfo, settings: Mapping[str, Any] | None, files: Files
) -> dict[str, Any]:
    return {
        **_said(info, source.encoder, source.spec, settings is not None),
        "documentation": _file(files.documentation),
        "covers": [_file(files.cover)],
        "attachments": [_file(path) for path in files.attachments],
        "weights": v0_5.WeightsDescr(pytorch_state_dict=_weights(source, settings, files)),
        "config": _config(source, settings),
    }


def _weights(
    source: SourceModel, settings: Mapping[str, Any] | None, files: Files
) -> v0_5.PytorchStateDictWeightsDescr:
    if settings is None:
        module, name, arguments = "predictor_adaptor", "PredictorAdaptor", {}
    else:
        module, name, arguments = "automatic_adaptor", "AutomaticSegmentationAdaptor", {"settings": dict(settings)}
    architecture = v0_5.ArchitectureFromLibraryDescr(
        callable=v0_5.Identifier(name),
        import_from=f"{_MODULE}.{module}",
        kwargs={"model_type": source.encoder, **arguments},
    )
    return v0_5.PytorchStateDictWeightsDescr(
        source=files.weights,
        sha256=_hash(files.weights),
        architecture=architecture,
        pytorch_version=v0_5.Version(torch.__version__.partition("+")[0]),
        dependencies=_file(files.environment),
    )


def _config(source: SourceModel, settings: Mapping[str, Any] | None) -> v0_5.Config:
    """What micro_sam reads when it opens the package as a checkpoint, beside what the zoo shows."""
    defaults = {mode: dict(values) for mode, values in source.defaults.items() if values}
    if settings is not None:
        defaults["ais"] = dict(settings)
    own = {"name": source.name, "encoder": source.encoder, "defaults": defaults}
    count = sum(value.numel() for value in source.model_state.values())
    zoo = v0_5.BioimageioConfig(
        task="segmentation",
        architecture_type="Segment Anything",
        model_parameter_count=count,
        reproducibility_tolerance=[v0_5.ReproducibilityTolerance(relative_tolerance=1e-2, absolute_tolerance=1e-3)],
    )
    return v0_5.Config(bioimageio=zoo, micro_sam=own)
