"""Models for the BioEngine and other Triton inference servers, and for the browser: ONNX files in a model repository.

A model is a folder with ``config.pbtxt`` and ``1/model.onnx``
(https://docs.nvidia.com/deeplearning/triton-inference-server, "Model Repository").
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from micro_sam.bioimageio.model_source import SourceModel, read_source
from micro_sam.bioimageio.onnx_export import (
    OPSET,
    OnnxPart,
    check_onnx,
    encoder_part,
    instance_part,
    prompt_part,
    quantize_onnx,
    write_onnx,
)
from micro_sam.io.paths import check_folder_of, replacing

_TYPES = {"FLOAT": "TYPE_FP32", "INT64": "TYPE_INT64"}


def export_image_encoder(
    model_type: str,
    output_root: str | os.PathLike,
    export_name: str | None = None,
    checkpoint_path: str | os.PathLike | None = None,
) -> None:
    """Write the image encoder for an inference server.

    Its input is an RGB image (1, 3, h, w) in [0, 255] that was resized to a longer side of 1024, its output the image
    embeddings (1, 256, 64, 64).

    Args:
        model_type: A registered model, or with `checkpoint_path` its encoder ("vit_b").
        output_root: The model repository; made if it does not exist.
        export_name: The model's name there, "<model_type>-encoder" if not given.
        checkpoint_path: A training checkpoint or exported model.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        CheckpointError: The model cannot be read.
        OutputError: A file cannot be written.
    """
    check_onnx(OPSET)
    root = _make_root(output_root)
    source = read_source(model_type, checkpoint_path)
    _write_model(encoder_part(source.build_sam()), root / (export_name or f"{model_type}-encoder"), OPSET)


def export_onnx_model(
    model_type: str,
    output_root: str | os.PathLike,
    opset: int = 17,
    export_name: str | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    return_single_mask: bool = True,
    gelu_approximate: bool = False,
    use_stability_score: bool = False,
    return_extra_metrics: bool = False,
    quantize_model: bool = False,
) -> None:
    """Write the prompt decoder for an inference server or the browser.

    Inputs and outputs are those that Segment Anything documents: image_embeddings, point_coords, point_labels, mask_input,
    has_mask_input and orig_im_size; masks, iou_predictions and low_res_masks.

    Args:
        model_type: A registered model, or with `checkpoint_path` its encoder ("vit_b").
        output_root: The model repository; made if it does not exist.
        opset: Version of the ONNX operators.
        export_name: The model's name there, "<model_type>-decoder" if not given.
        checkpoint_path: A training checkpoint or exported model.
        return_single_mask: One mask an object instead of four.
        gelu_approximate: Approximate GELU by tanh.
        use_stability_score: Score masks by their stability instead of the predicted IoU.
        return_extra_metrics: Return stability scores and areas, too.
        quantize_model: Write int8 weights.

    Raises:
        MissingDependencyError: onnx, onnxscript or, for int8, onnxruntime is not installed.
        ParameterError: The opset is not supported.
        CheckpointError: The model cannot be read.
        OutputError: A file cannot be written.
    """
    check_onnx(opset, quantize_model)
    root = _make_root(output_root)
    source = read_source(model_type, checkpoint_path)
    options = _options(return_single_mask, use_stability_score, return_extra_metrics)
    part = prompt_part(source.build_sam(), **options)
    _write_model(part, root / (export_name or f"{model_type}-decoder"), opset, gelu_approximate, quantize_model)


def export_bioengine_model(
    model_type: str,
    output_root: str | os.PathLike,
    opset: int,
    export_name: str | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    return_single_mask: bool = True,
    gelu_approximate: bool = False,
    use_stability_score: bool = False,
    return_extra_metrics: bool = False,
) -> None:
    """Write image encoder, prompt decoder and, if the model has one, instance decoder for an inference server.

    They are called "<export_name>-encoder", "<export_name>-decoder" and "<export_name>-instances".

    Args:
        export_name: What the names begin with, the model type if not given.
        model_type, output_root, opset, checkpoint_path: See `export_onnx_model`.
        return_single_mask, gelu_approximate, use_stability_score, return_extra_metrics: See `export_onnx_model`.

    Raises:
        MicroSamError: As `export_onnx_model` does.
    """
    check_onnx(opset)
    root = _make_root(output_root)
    source = read_source(model_type, checkpoint_path)
    options = _options(return_single_mask, use_stability_score, return_extra_metrics)
    for ending, part in _parts(source, options):
        _write_model(part, root / f"{export_name or model_type}-{ending}", opset, gelu_approximate)


def _options(return_single_mask: bool, use_stability_score: bool, return_extra_metrics: bool) -> dict[str, bool]:
    return {
        "return_single_mask": return_single_mask,
        "use_stability_score": use_stability_score,
        "return_extra_metrics": return_extra_metrics,
    }


def _parts(source: SourceModel, options: dict[str, bool]) -> list[tuple[str, OnnxPart]]:
    sam = source.build_sam()
    parts = [("encoder", encoder_part(sam)), ("decoder", prompt_part(sam, **options))]
    return parts if source.decoder_state is None else [*parts, ("instances", instance_part(source))]


def _make_root(output_root: str | os.PathLike) -> Path:
    root = Path(output_root)
    check_folder_of(root)
    root.mkdir(exist_ok=True)
    return root


def _write_model(
    part: OnnxPart, folder: Path, opset: int, gelu_approximate: bool = False, quantize_model: bool = False
) -> None:
    """Write a model's folder; it gets its name, or takes the place of an older one, only once it is complete."""
    with replacing(folder) as temporary:
        version = temporary / "1"
        version.mkdir(parents=True)
        path = version / "model.onnx"
        write_onnx(part, path, opset, gelu_approximate)
        if quantize_model:
            quantize_onnx(path, path)
        (temporary / "config.pbtxt").write_text(_configuration(folder.name, path), encoding="utf-8")


def _configuration(name: str, path: Path) -> str:
    """The server's configuration of a model; sizes that are not fixed are -1."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            "max_batch_size: 0",
            f"input [{_tensors(graph.input)}\n]",
            f"output [{_tensors(graph.output)}\n]",
            "",
        ]
    )


def _tensors(values: Sequence) -> str:
    import onnx

    entries = []
    for value in values:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        kind = _TYPES[onnx.TensorProto.DataType.Name(tensor.elem_type)]
        entries.append(f'\n  {{ name: "{value.name}", data_type: {kind}, dims: {dims} }}')
    return ",".join(entries)
