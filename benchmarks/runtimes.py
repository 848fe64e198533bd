"""Image encoders in onnxruntime and OpenVINO on the CPU, as further contestants of `encoders.py`.

Both get the same ONNX file of the plain encoder and as many threads as PyTorch has. int8 means weights of matrix products
as int8 and their activations quantised as they come (onnxruntime's dynamic quantisation); convolutions and attention
between activations stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from micro_sam.bioimageio.onnx_export import OnnxPart, quantize_onnx, write_onnx

RUNTIMES = ("onnxruntime", "openvino")
_OPSET = 17  # written in seconds; newer ones take a minute
Network = Callable[[torch.Tensor], torch.Tensor]


def runtime_forms(encoder: nn.Module, runtimes: list[str], folder: Path) -> dict[str, Network]:
    """The encoder in the runtimes that are asked for and installed: name -> network.

    Args:
        encoder: The plain encoder, for (1, 3, 1024, 1024).
        runtimes: Some of `RUNTIMES`.
        folder: Where to write the ONNX files.
    """
    wanted = [runtime for runtime in runtimes if find_spec(runtime) is not None]
    if not wanted:
        return {}
    plain, int8 = folder / "encoder.onnx", folder / "encoder_int8.onnx"
    example = {"image": torch.rand(1, 3, encoder.img_size, encoder.img_size)}
    write_onnx(OnnxPart("encoder", encoder, example, ["image_embeddings"], {"image": None}), plain, _OPSET)
    if find_spec("onnxruntime") is not None:
        quantize_onnx(plain, int8)
    forms: dict[str, Network] = {}
    if "onnxruntime" in wanted:
        forms = {"ort": in_onnxruntime(plain), "ort int8": in_onnxruntime(int8)}
    if "openvino" in wanted:
        forms |= {"ov": in_openvino(plain, "f32"), "ov bf16": in_openvino(plain, "bf16")}
        if int8.exists():
            forms["ov int8"] = in_openvino(int8, "f32")
    return forms


def in_onnxruntime(path: Path) -> Network:
    """A file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def in_openvino(path: Path, precision: str) -> Network:
    """A file in OpenVINO, computed in "f32" or "bf16"."""
    import openvino

    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(path, "CPU", config)
    return lambda x: torch.from_numpy(np.array(model([x.numpy()])[0], dtype=np.float32))
