from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

import pytest

from micro_sam import __version__
from micro_sam.cli import info
from micro_sam.health import problems as health
from micro_sam.models.spec import model_names


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(folder))
    return folder


def _whats() -> str:
    return "\n".join(f"{problem.what} {problem.mend}" for problem in health.find_problems())


def test_the_report_says_version_device_cache_and_every_model(capsys, cache):
    assert info.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    assert __version__ in text and str(cache) in text and "MICROSAM_CACHEDIR" in text
    device = next(line for line in lines if line.startswith("Device"))
    assert device.split()[1].rstrip(":") in ("cpu", "cuda", "mps") and device.endswith(".")
    precision = next(line for line in lines if line.startswith("Precision"))
    assert precision.split()[1].rstrip(":") in ("float32", "bfloat16")
    for name in model_names():
        assert any(line.split()[:1] == [name] for line in lines)


def test_a_model_in_the_cache_is_reported(capsys, cache):
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "vit_b").write_bytes(b"x")
    info.main([])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("vit_b ")).endswith("downloaded")
    assert next(line for line in lines if line.startswith("vit_l ")).endswith("no, downloaded when used")


def test_a_damaged_model_is_a_problem(cache):
    assert "is damaged" not in _whats()
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "vit_b").write_bytes(b"x")
    assert f"'{cache / 'models' / 'vit_b'}' is damaged" in _whats()


def test_a_missing_package_is_a_problem(monkeypatch):
    version = metadata.version

    def without_imagecodecs(name):
        if name == "imagecodecs":
            raise metadata.PackageNotFoundError(name)
        return "2.18.0" if name == "zarr" else version(name)

    monkeypatch.setattr(metadata, "version", without_imagecodecs)
    assert "imagecodecs is missing. Run 'pip install \"imagecodecs\"'" in _whats()
    assert "zarr 2.18.0 is too old" in _whats()


def test_missing_qt_is_a_problem(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name.startswith("Py") else find_spec(name, *a)
    )
    assert "There is no Qt" in _whats() and "micro_sam[gui]" in _whats()


def test_a_missing_display_is_a_problem_only_where_there_is_qt(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert [problem.what for problem in health._window_problems()] == [
        "There is no display, so no window can be opened."
    ]
    monkeypatch.setenv("DISPLAY", ":0")
    assert not list(health._window_problems())


def test_a_cache_that_cannot_be_written_is_a_problem(cache, monkeypatch):
    cache.write_text("a file in the place of the folder")
    assert "cannot be a folder" in _whats()
    cache.unlink()
    monkeypatch.setattr(health, "_can_write", lambda folder: False)
    assert "cannot be written to" in _whats()


def test_broken_torch_is_a_problem_and_not_a_crash(monkeypatch, capsys):
    import_module = importlib.import_module

    def broken(name, *args):
        if name == "micro_sam.models.device":
            raise ImportError("libcudart.so is missing")
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert "PyTorch cannot be imported (libcudart.so is missing)" in _whats()
    assert info.main([]) == 0


def test_an_unused_gpu_is_a_problem(monkeypatch):
    from micro_sam.models import device

    report = device.DeviceReport(
        "cpu", "There is a GPU but PyTorch cannot use it.", "no CUDA in torch: install another."
    )
    monkeypatch.setattr(device, "explain_device", lambda: report)
    assert "The GPU is not used: no CUDA in torch. Install another." in _whats()


def test_a_healthy_installation_is_called_so(monkeypatch, capsys):
    monkeypatch.setattr(health, "find_problems", list)
    info.main([])
    assert capsys.readouterr().out.endswith("No problems found.\n")


def test_the_function_for_scripts_prints_the_same(capsys):
    from micro_sam.util import micro_sam_info

    micro_sam_info()
    assert capsys.readouterr().out.startswith(f"micro_sam  {__version__}")
