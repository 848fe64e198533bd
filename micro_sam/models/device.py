"""Which compute device is used, and why."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..errors import DeviceError
from ..user_settings import origin_of, setting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceReport:
    """The device that is used by default.

    Attributes:
        device: The device.
        reason: Why this one, in one sentence.
        problem: What keeps a better one from being used and how to mend it, None if nothing does.
    """

    device: torch.device
    reason: str
    problem: str | None = None


def get_device(device: str | torch.device | None = None) -> torch.device:
    """The device to compute on.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps" or a torch.device; "auto" for the best one there is. None for the one that
            MICROSAM_DEVICE or the settings name, if they name one.

    Raises:
        DeviceError: There is no such device here; the message says why.
    """
    if device is None:
        return _default_device()
    if device == "auto":
        report = explain_device()
        if report.problem is not None:
            _warn_once(report.problem)
        return report.device
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"There is no kind of device named {device!r}: use 'cpu', 'cuda' or 'mps'.") from error
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("The device 'mps' needs a Mac with an Apple GPU: use 'cpu' here.")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"micro_sam does not run on a device of type {device.type!r}: use 'cpu', 'cuda' or 'mps'.")
    return device


def _default_device() -> torch.device:
    wanted = setting("device")
    try:
        return get_device(wanted)
    except DeviceError as error:
        where = "the settings say" if origin_of("device") == "settings" else f"{origin_of('device')} says"
        raise DeviceError(f"{str(error).rstrip('.')} ({where} {wanted!r}).") from error


def explain_device() -> DeviceReport:
    """The device that is used when none is asked for, with the reason."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        return DeviceReport(torch.device("cuda"), f"There is a CUDA GPU: {properties.name} with {memory:.0f} GiB.")
    if torch.backends.mps.is_available():
        return DeviceReport(torch.device("mps"), "There is an Apple GPU.")
    problem = _why_no_gpu()
    reason = "There is no GPU that PyTorch can use" if problem is None else "There is a GPU but PyTorch cannot use it"
    return DeviceReport(torch.device("cpu"), f"{reason}; the CPU has {os.cpu_count()} cores.", problem)


def available_devices() -> list[str]:
    """The names of the devices there are, besides "auto"."""
    found = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()) if torch.cuda.is_available())]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        problem = _why_no_gpu() or "no CUDA GPU is visible here: use 'cpu'."
        raise DeviceError(f"The device {str(device)!r} cannot be used: {problem}")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise DeviceError(f"There is no device {str(device)!r}: there are {count} CUDA GPUs, numbered from 0.")


def _why_no_gpu() -> str | None:
    """What is wrong if an NVIDIA GPU is installed that PyTorch does not use; None if there is none."""
    if not _has_nvidia_driver():
        return None
    if torch.version.cuda is None:
        return (
            "an NVIDIA driver is installed but PyTorch was built without CUDA: install a CUDA build of torch, see "
            "https://pytorch.org/get-started/locally."
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "the environment variable CUDA_VISIBLE_DEVICES hides all GPUs: unset it."
    return (
        f"the NVIDIA driver does not work with PyTorch's CUDA {torch.version.cuda}: check that nvidia-smi lists the GPU, "
        "and update the driver or install a torch build for an older CUDA."
    )


def _has_nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or os.path.exists("/proc/driver/nvidia/version")


@lru_cache(maxsize=8)
def _warn_once(problem: str) -> None:
    logger.warning("No GPU is used: %s", problem)
