from __future__ import annotations

import pytest
import torch

from micro_sam.errors import ParameterError
from micro_sam.models import precision
from micro_sam.models.precision import has_native_bfloat16, resolve_precision


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(precision.ENVIRONMENT_VARIABLE, raising=False)


def test_named_precisions_are_taken_as_they_are(monkeypatch):
    monkeypatch.setenv(precision.ENVIRONMENT_VARIABLE, "float32")
    assert resolve_precision("float32", "cpu") == torch.float32
    assert resolve_precision("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.parametrize("native, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_processor(monkeypatch, native, expected):
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: native)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize("capability, expected", [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", "cuda:0") == expected


def test_auto_is_float32_on_other_devices():
    assert not has_native_bfloat16("mps")
    assert resolve_precision("auto", "mps") == torch.float32


def test_the_environment_variable_decides_for_auto(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    monkeypatch.setenv(precision.ENVIRONMENT_VARIABLE, "float32")
    assert resolve_precision("auto", "cpu") == torch.float32


def test_unknown_precisions_are_refused(monkeypatch):
    with pytest.raises(ParameterError, match="'half'"):
        resolve_precision("half", "cpu")
    monkeypatch.setenv(precision.ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ParameterError, match="MICROSAM_PRECISION"):
        resolve_precision("auto", "cpu")


@pytest.mark.parametrize("amx, avx512, expected", [(True, True, True), (False, True, True), (False, False, False)])
def test_bfloat16_needs_matrix_units_or_instructions(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    precision.cpu_has_matrix_units.cache_clear()
    precision._cpu_has_bfloat16.cache_clear()
    try:
        assert precision.cpu_has_matrix_units() == amx
        assert has_native_bfloat16("cpu") == expected
    finally:
        precision.cpu_has_matrix_units.cache_clear()
        precision._cpu_has_bfloat16.cache_clear()
