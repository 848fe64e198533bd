from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from micro_sam.errors import DeviceError
from micro_sam.models import device as devices
from micro_sam.models.device import explain_device, get_device


@pytest.fixture
def machine(monkeypatch):
    """A function that sets what this computer seems to have."""

    def have(gpus=0, mps=False, driver=False, build="13.0", hidden=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        properties = SimpleNamespace(name="Some GPU", total_memory=24 * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(devices, "_has_nvidia_driver", lambda: driver)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if hidden is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        devices._warn_once.cache_clear()

    return have


def test_the_best_device_is_chosen_and_the_reason_told(machine):
    machine(gpus=1, mps=True, driver=True)
    assert get_device() == get_device("auto") == torch.device("cuda")
    assert explain_device().reason == "There is a CUDA GPU: Some GPU with 24 GiB."
    machine(mps=True)
    assert get_device() == torch.device("mps")
    machine()
    assert get_device() == torch.device("cpu")
    assert explain_device().problem is None
    assert "no GPU that PyTorch can use" in explain_device().reason


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"build": None}, "PyTorch was built without CUDA: install a CUDA build"),
        ({"hidden": ""}, "CUDA_VISIBLE_DEVICES hides all GPUs: unset it"),
        ({}, "the NVIDIA driver does not work with PyTorch's CUDA 13.0"),
    ],
)
def test_a_gpu_that_is_not_used_is_never_silent(machine, caplog, state, problem):
    machine(driver=True, **state)
    assert problem in explain_device().problem
    assert get_device() == torch.device("cpu")
    get_device()
    assert caplog.text.count(problem) == 1
    with pytest.raises(DeviceError, match=problem):
        get_device("cuda")


def test_devices_that_are_not_there_are_refused(machine):
    machine()
    with pytest.raises(DeviceError, match="no CUDA GPU is visible here: use 'cpu'"):
        get_device("cuda")
    with pytest.raises(DeviceError, match="'mps' needs a Mac"):
        get_device("mps")
    with pytest.raises(DeviceError, match="no kind of device named 'gpu'"):
        get_device("gpu")
    with pytest.raises(DeviceError, match="does not run on a device of type 'meta'"):
        get_device("meta")
    machine(gpus=2, driver=True)
    assert get_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="no device 'cuda:2': there are 2 CUDA GPUs, numbered from 0"):
        get_device("cuda:2")


def test_a_torch_device_is_accepted():
    assert get_device(torch.device("cpu")) == get_device("cpu") == torch.device("cpu")
