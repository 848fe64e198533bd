"""Writing ONNX files: image encoder, prompt decoder and instance decoder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.export import Dim

from micro_sam.bioimageio.model_source import SourceModel, missing, read_source
from micro_sam.bioimageio.onnx_modules import (
    ImageEncoderModule,
    InstanceDecoderModule,
    PromptDecoderModule,
    with_fast_gelu,
)
from micro_sam.errors import OutputError, ParameterError
from micro_sam.io.paths import check_folder_of
from micro_sam.mask_decoding import LOW_RES
from micro_sam.models.build_sam import EMBED_DIM, IMAGE_SIZE

logger = logging.getLogger(__name__)

OPSET = 18
_OPSETS = (17, 20)
_OLDEST_EXPORTED = 18
_LARGEST_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB, larger weights go into a file beside
_GRID = 64
_ANY_SIZE = {0: "objects", 2: "original_height", 3: "original_width"}
_OUTPUT_AXES = {
    "masks": _ANY_SIZE,
    "maps": {axis: _ANY_SIZE[axis] for axis in (2, 3)},
    **{key: {0: "objects"} for key in ("iou_predictions", "stability_scores", "areas", "low_res_masks")},
}


@dataclass(frozen=True)
class OnnxPart:
    """A part of a model that becomes one ONNX file.

    Attributes:
        name: "encoder", "decoder" or "instance_decoder".
        module: The network.
        inputs: Example inputs by name.
        outputs: Names of the outputs.
        dynamic: Which axes of the inputs have any size.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Any]


def encoder_part(sam: Sam) -> OnnxPart:
    """The image encoder, for images of any shape with a longer side of 1024."""
    height, width = (Dim(name, min=2, max=IMAGE_SIZE) for name in ("height", "width"))
    example = torch.rand(1, 3, IMAGE_SIZE * 3 // 4, IMAGE_SIZE) * 255
    axes = {"image": {2: height, 3: width}}
    return OnnxPart("encoder", ImageEncoderModule(sam), {"image": example}, ["image_embeddings"], axes)


def prompt_part(sam: Sam, **options: bool) -> OnnxPart:
    """The prompt decoder, for any number of objects and of points each; options of `PromptDecoderModule`."""
    module = PromptDecoderModule(sam, **options)
    objects, points = Dim("objects", min=1, max=4096), Dim("points", min=1, max=4096)
    inputs = {
        "image_embeddings": torch.rand(1, EMBED_DIM, _GRID, _GRID),
        "point_coords": torch.rand(2, 3, 2) * IMAGE_SIZE,
        "point_labels": torch.tensor([[1.0, 0, -1], [2, 3, -1]]),
        "mask_input": torch.rand(2, 1, LOW_RES, LOW_RES),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([300.0, 400]),
    }
    axes = {
        **dict.fromkeys(inputs),
        "point_coords": {0: objects, 1: points},
        "point_labels": {0: objects, 1: points},
        "mask_input": {0: objects},
    }
    return OnnxPart("decoder", module, inputs, module.output_names, axes)


def instance_part(source: SourceModel) -> OnnxPart:
    """The instance segmentation decoder.

    Raises:
        CheckpointError: The model has none.
    """
    inputs = {
        "image_embeddings": torch.rand(1, EMBED_DIM, _GRID, _GRID),
        "orig_im_size": torch.tensor([300.0, 400]),
    }
    module = InstanceDecoderModule(source.build_decoder())
    return OnnxPart("instance_decoder", module, inputs, ["maps"], dict.fromkeys(inputs))


def export_onnx_files(
    model_type: str,
    output_folder: str | os.PathLike,
    checkpoint_path: str | os.PathLike | None = None,
    decoder_path: str | os.PathLike | None = None,
    opset: int = OPSET,
    quantize_model: bool = False,
) -> list[Path]:
    """Write a whole model as ONNX files: ``encoder.onnx``, ``decoder.onnx`` and, if it has one, ``instance_decoder.onnx``.

    Inputs and outputs are those of the modules in `micro_sam.bioimageio.onnx_modules`.

    Args:
        model_type: A registered model, or with `checkpoint_path` its encoder ("vit_b").
        output_folder: The folder to write to; made if it does not exist.
        checkpoint_path: A training checkpoint or exported model.
        decoder_path: The instance decoder's file, if it is neither in the checkpoint nor beside it.
        opset: Version of the operators.
        quantize_model: Write int8 forms, too, with names ending in ``_int8.onnx``.

    Returns:
        The files.

    Raises:
        CheckpointError: The model cannot be read.
        MicroSamError: As `write_onnx` does.
    """
    check_onnx(opset, quantize_model)
    folder = Path(output_folder)
    check_folder_of(folder)
    folder.mkdir(exist_ok=True)
    source = read_source(model_type, checkpoint_path, decoder_path)
    sam = source.build_sam()
    parts = [encoder_part(sam), prompt_part(sam)]
    if source.decoder_state is not None:
        parts.append(instance_part(source))
    written = []
    for part in parts:
        path = folder / f"{part.name}.onnx"
        write_onnx(part, path, opset)
        written.append(path)
        if quantize_model:
            written.append(folder / f"{part.name}_int8.onnx")
            quantize_onnx(path, written[-1])
        logger.info("%s is written to %s", part.name, path)
    return written


def check_onnx(opset: int, quantize_model: bool = False) -> None:
    """Check what can be said before a model is read.

    Raises:
        MissingDependencyError: A package is not installed.
        ParameterError: The opset is not supported.
    """
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if quantize_model else [])):
        if find_spec(package) is None:
            raise missing(package, "onnx")
    if not _OPSETS[0] <= opset <= _OPSETS[1]:
        raise ParameterError(f"The opset lies between {_OPSETS[0]} and {_OPSETS[1]}, got {opset}.")


def write_onnx(part: OnnxPart, path: str | os.PathLike, opset: int = OPSET, gelu_approximate: bool = False) -> None:
    """Write one part; the file gets its name only once it is complete.

    Weights of 1.9 GB and more lie beside it in ``<name>.onnx.data``.

    Args:
        part: What to write.
        path: The .onnx file.
        opset: Version of the operators.
        gelu_approximate: Approximate GELU by tanh.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        ParameterError: The opset is not supported, or not for this part.
        OutputError: The file cannot be written.
    """
    check_onnx(opset)
    path = Path(path)
    module = with_fast_gelu(part.module) if gelu_approximate else part.module
    module = module.eval()
    size = sum(value.nbytes for value in module.state_dict().values())
    with _moved_into(path) as folder, _quiet(), torch.no_grad():
        if opset < _OLDEST_EXPORTED:
            _export_old(part, module, folder / path.name, opset, size > _LARGEST_FILE)
        else:
            _export(part, module, folder / path.name, opset, size > _LARGEST_FILE)


def _export(part: OnnxPart, module: nn.Module, path: Path, opset: int, external_data: bool) -> None:
    program = torch.onnx.export(
        module,
        tuple(part.inputs.values()),
        dynamo=True,
        opset_version=opset,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_shapes=dict(part.dynamic),
        verbose=False,
    )
    program.save(path, external_data=external_data)


def _export_old(part: OnnxPart, module: nn.Module, path: Path, opset: int, external_data: bool) -> None:
    """PyTorch's older exporter: files that the newer one makes for an old opset are not valid."""
    if external_data:
        raise ParameterError(f"A {part.name} of this size needs opset {_OLDEST_EXPORTED} or newer, got {opset}.")
    axes = {name: {axis: dim.__name__ for axis, dim in (dims or {}).items()} for name, dims in part.dynamic.items()}
    axes |= {name: _OUTPUT_AXES[name] for name in part.outputs if name in _OUTPUT_AXES}
    torch.onnx.export(
        module,
        tuple(part.inputs.values()),
        path,
        dynamo=False,
        opset_version=opset,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_axes={name: dims for name, dims in axes.items() if dims},
    )


def quantize_onnx(path: str | os.PathLike, output_path: str | os.PathLike) -> None:
    """Write an int8 form of an ONNX file: weights of matrix products as int8, activations quantised as they come.

    Convolutions stay as they are: onnxruntime computes them slower in int8 than in float32.

    Args:
        path: The float32 file.
        output_path: The file to write.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        OutputError: The file cannot be written.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise missing("onnxruntime", "onnx") from error
    import onnx

    path, output_path = Path(path), Path(output_path)
    large = path.with_name(f"{path.name}.data").exists()
    model = onnx.load(path)
    del model.graph.value_info[:]  # the quantiser transposes weights, after which noted shapes are wrong
    with _quiet(), _moved_into(output_path) as folder:
        quantize_dynamic(
            model,
            folder / output_path.name,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )


@contextlib.contextmanager
def _moved_into(path: Path) -> Iterator[Path]:
    """A folder whose files are moved beside ``path`` at the end, the one of its name last."""
    try:
        with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                os.replace(file, path.with_name(file.name))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"'{path}' could not be written ({reason}); check the disk and the permissions.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print, warn and log (to the root logger, too) about their own affairs."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir", "")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
