"""A model as a package for the BioImage.IO model zoo (format: https://github.com/bioimage-io/spec-bioimage-io, 0.5)."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from micro_sam.bioimageio.automatic_adaptor import AutomaticSegmentationAdaptor
from micro_sam.bioimageio.model_source import SourceModel, missing, read_source
from micro_sam.bioimageio.package_info import PackageInfo
from micro_sam.bioimageio.predictor_adaptor import PredictorAdaptor, SamAdaptor
from micro_sam.errors import ImageError, OutputError, ParameterError
from micro_sam.instance_segmentation.settings import settings_for
from micro_sam.io.paths import check_folder_of, replacing
from micro_sam.models.export import save_checkpoint
from micro_sam.models.spec import get_spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """What goes into a package: the model, what is said about it, and what it computes for the test image.

    Attributes:
        source: The model.
        info: What is said about it.
        settings: Parameters of automatic segmentation, None for a package for prompts.
        inputs: Test inputs by tensor name.
        outputs: What the model computes from them.
        labels: Labels to draw on the cover.
    """

    source: SourceModel
    info: PackageInfo
    settings: Mapping[str, Any] | None
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    labels: np.ndarray

    @property
    def weights_name(self) -> str:
        return f"{self.source.encoder}.pt"


def export_sam_model(
    image: np.ndarray,
    label_image: np.ndarray,
    model_type: str,
    name: str,
    output_path: str | os.PathLike,
    checkpoint_path: str | os.PathLike | None = None,
    *,
    decoder_path: str | os.PathLike | None = None,
    automatic: bool = False,
    settings: Mapping[str, Any] | None = None,
    verify: bool = True,
    **kwargs: Any,
) -> None:
    """Write a model as a package for the BioImage.IO model zoo.

    The package runs with bioimageio.core, and micro_sam opens it as a checkpoint. There are two kinds: prompts and an
    image in, masks out (the instance segmentation decoder is attached if the model has one); or with `automatic` an image
    in, instance labels out.

    Args:
        image: The test image (YX, or YXC with 3 channels). It becomes part of the package and of its cover.
        label_image: Integer labels of the same shape, from which test prompts are made.
        model_type: A registered model, or with `checkpoint_path` its encoder ("vit_b").
        name: What the model is called in the zoo.
        output_path: The .zip file to write; ".zip" is added to other names. It gets its name only once it is complete.
        checkpoint_path: A training checkpoint or exported model.
        decoder_path: The decoder's file, if it is neither in the checkpoint nor beside it.
        automatic: Write the package for automatic segmentation.
        settings: Parameters of automatic segmentation (`InstanceSegmentationWithDecoder.generate`), over those that the
            model has.
        verify: Run bioimageio.core's tests on the finished package before it gets its name.
        **kwargs: The fields of `PackageInfo`: description, authors, license, cite, tags, documentation, version, ...

    Raises:
        MissingDependencyError: bioimageio.core is not installed.
        ParameterError: An argument is unknown or out of range, or what is said about the model is not valid.
        ImageError: Image and labels do not fit.
        CheckpointError: The model cannot be read, or automatic segmentation is wanted without decoder.
        OutputError: The file cannot be written, or the finished package does not pass the tests.
    """
    if find_spec("bioimageio") is None or find_spec("bioimageio.core") is None:
        raise missing("bioimageio.core", "bioimageio")
    path = Path(output_path)
    path = path if path.suffix.lower() == ".zip" else path.with_name(f"{path.name}.zip")
    check_folder_of(path)
    if settings is not None and not automatic:
        raise ParameterError("settings belong to automatic segmentation: pass automatic=True, or leave them out.")
    info = PackageInfo.of(name, kwargs)
    _check_info(info, model_type, automatic)
    source = read_source(model_type, checkpoint_path, decoder_path)
    prepare = _prepare_automatic if automatic else _prepare_prompts
    plan = prepare(source, info, np.asarray(image), np.asarray(label_image), settings)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
        _write(plan, Path(folder), path, verify)
    logger.info("The package is written to %s", path)


def _check_info(info: PackageInfo, model_type: str, automatic: bool) -> None:
    from micro_sam.bioimageio.description import check_info

    spec = get_spec(model_type)
    with _valid():
        check_info(info, spec, automatic)
    if not info.authors:
        logger.warning("The package names no author: pass authors=[{'name': ...}] before you publish it.")


@contextlib.contextmanager
def _valid() -> Iterator[None]:
    """What pydantic says first about a description that is not valid, as a `ParameterError`."""
    try:
        yield
    except ValueError as error:
        problems = error.errors() if hasattr(error, "errors") else []
        reason = f"{'.'.join(map(str, problems[0]['loc']))}: {problems[0]['msg']}" if problems else str(error)
        raise ParameterError(f"The package would not be valid, at {reason}.") from error


def _prepare_prompts(
    source: SourceModel, info: PackageInfo, image: np.ndarray, labels: np.ndarray, _: Mapping[str, Any] | None
) -> _Plan:
    from micro_sam.bioimageio.tensors import image_tensor, prompts_from_labels

    tensor = image_tensor(image)
    inputs = {"image": tensor, **prompts_from_labels(labels, tensor.shape[2:])}
    adaptor = _loaded(PredictorAdaptor(source.encoder), source.model_state)
    inputs["embeddings"] = adaptor(_float(tensor))[2].numpy()
    masks, scores, embeddings = adaptor(*(_float(value) for value in inputs.values()))
    if not masks.any():
        raise ImageError("The model finds none of the objects in the test image: choose another image or labels.")
    outputs = {"masks": masks.numpy(), "scores": scores.numpy(), "embeddings_out": embeddings.numpy()}
    return _Plan(source, info, None, inputs, outputs, labels)


def _prepare_automatic(
    source: SourceModel, info: PackageInfo, image: np.ndarray, labels: np.ndarray, settings: Mapping[str, Any] | None
) -> _Plan:
    from micro_sam.bioimageio.tensors import image_tensor, prompts_from_labels

    tensor = image_tensor(image)
    prompts_from_labels(labels, tensor.shape[2:])  # refuses labels of another image
    values = settings_for("ais", source.defaults.get("ais"), **(settings or {})).generate_kwargs()
    adaptor = AutomaticSegmentationAdaptor(source.encoder, values)
    _loaded(adaptor, {"model_state": source.model_state, "decoder_state": source.checked_decoder()})
    found, maps = (value.numpy() for value in adaptor(_float(tensor)))
    if not found.any():
        raise ImageError("Automatic segmentation finds no object in the test image: choose another image or settings.")
    return _Plan(source, info, values, {"image": tensor}, {"labels": found, "maps": maps}, found[0, 0])


def _loaded(adaptor: SamAdaptor, state: Mapping[str, Any]) -> SamAdaptor:
    adaptor.load_state_dict(state)
    return adaptor.eval()


def _float(array: np.ndarray) -> torch.Tensor:
    """As bioimageio.core passes it: labels of points stay whole numbers."""
    return torch.from_numpy(array if array.dtype == np.int64 else array.astype(np.float32))


def _write(plan: _Plan, folder: Path, path: Path, verify: bool) -> None:
    """Write all files to a folder and pack them."""
    from bioimageio.spec import ValidationContext, save_bioimageio_package

    from micro_sam.bioimageio.description import Files, describe_package
    from micro_sam.bioimageio.package_files import (
        decoder_name,
        write_cover,
        write_documentation,
        write_environment,
        write_tensors,
    )

    source, weights = plan.source, folder / plan.weights_name
    attachments = []
    if plan.settings is not None:
        save_checkpoint({"model_state": source.model_state, "decoder_state": source.decoder_state}, weights)
    else:
        save_checkpoint(source.model_state, weights)
        if source.decoder_state is not None:
            attachments.append(folder / decoder_name(plan.weights_name))
            save_checkpoint(source.decoder_state, attachments[0])
    image = plan.inputs["image"][0].transpose(1, 2, 0)
    files = Files(
        weights=weights,
        documentation=write_documentation(folder, plan.info, source.encoder, plan.weights_name, plan.settings),
        environment=write_environment(folder),
        cover=write_cover(folder, image, plan.labels),
        inputs=write_tensors(folder, plan.inputs, "test_input"),
        outputs=write_tensors(folder, plan.outputs, "test_output"),
        attachments=attachments,
    )
    with _valid():
        description = describe_package(source, plan.info, plan.settings, files)
    with replacing(path) as temporary:
        packed = folder / "package.zip"
        with ValidationContext(perform_io_checks=False, file_name="bioimageio.yaml"):
            save_bioimageio_package(description, output_path=packed)
        if verify:
            check_package(packed)
        packed.replace(temporary)


def check_package(path: str | os.PathLike) -> None:
    """Run bioimageio.core's tests on a package: its format, its test tensors, and inputs of other sizes.

    Raises:
        MissingDependencyError: bioimageio.core is not installed.
        OutputError: A test fails; the message names the first.
    """
    try:
        from bioimageio.core import test_model
    except ImportError as error:
        raise missing("bioimageio.core", "bioimageio") from error
    summary = test_model(Path(path), devices=["cpu"])
    failures = [detail for detail in summary.details if detail.status == "failed"]
    if summary.status != "passed" or failures:
        reason = "; ".join(f"{detail.name}: {error.msg}" for detail in failures for error in detail.errors[:1])
        raise OutputError(f"The package does not pass the tests of bioimageio.core ({reason or summary.status}).")
