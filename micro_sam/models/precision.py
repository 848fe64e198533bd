"""Which number format a network computes in: ``"auto"``, ``"float32"`` or ``"bfloat16"``."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from micro_sam.errors import ParameterError
from micro_sam.user_settings import setting

PRECISIONS = ("auto", "float32", "bfloat16")
ENVIRONMENT_VARIABLE = "MICROSAM_PRECISION"


def resolve_precision(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype in which encoders and decoders compute on a device.

    ``"auto"`` is bfloat16 where the hardware multiplies matrices in it (CPUs with AMX or AVX512 bfloat16, NVIDIA GPUs
    from compute capability 8.0 on) and float32 everywhere else. The environment variable ``MICROSAM_PRECISION``,
    or else what is set in `micro_sam.user_settings`, decides in the place of ``"auto"``.

    Args:
        precision: One of "auto", "float32", "bfloat16".
        device: The device the network runs on.

    Returns:
        ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        ParameterError: If the precision, or the value of the environment variable, is not one of the three.
    """
    _check(precision, "precision")
    if precision == "auto":
        precision = setting("precision")
        _check(precision, f"the environment variable {ENVIRONMENT_VARIABLE}")
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_native_bfloat16(device: torch.device | str) -> bool:
    """Whether the device computes matrix products in bfloat16 faster than in float32."""
    device = torch.device(device)
    if device.type == "cpu":
        return _cpu_has_bfloat16()
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return False


@functools.cache
def cpu_has_matrix_units() -> bool:
    """Whether the processor has units for matrix products in bfloat16 (AMX), which torch's fused attention uses."""
    return _cpu_supports("_is_amx_tile_supported", "amx_bf16")


@functools.cache
def _cpu_has_bfloat16() -> bool:
    return cpu_has_matrix_units() or _cpu_supports("_is_avx512_bf16_supported", "avx512_bf16")


def _cpu_supports(check: str, flag: str) -> bool:
    """Ask torch, and the kernel where this torch has no answer."""
    if ask := getattr(torch.cpu, check, None):
        return bool(ask())
    try:
        return flag in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _check(precision: str, what: str) -> None:
    if precision not in PRECISIONS:
        raise ParameterError(f"Expected {what} to be one of {', '.join(PRECISIONS)}, got {precision!r}.")
