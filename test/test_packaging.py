"""What is installed: the source distribution, the napari manifest, the conda environments, the extras."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from npe2 import PluginManifest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENTS = ("environment_cpu.yaml", "environment_gpu.yaml")
#: Names of packages that differ between conda-forge and PyPI.
_CONDA_NAMES = {"pytorch-cpu": "torch", "pytorch-gpu": "torch", "pytorch": "torch"}


def test_the_manifest_is_valid_and_its_commands_exist():
    result = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(ROOT / "micro_sam" / "napari.yaml"), "--imports"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0 and "valid!" in result.stdout, result.stdout + result.stderr


def test_napari_finds_the_manifest_of_the_installed_package():
    manifest = PluginManifest.from_distribution("micro_sam")
    assert manifest.name == "micro_sam"
    assert {"micro_sam.annotator_2d", "micro_sam.annotator_3d"} <= {
        command.id for command in manifest.contributions.commands
    }


def test_the_source_distribution_holds_the_package_its_tests_and_environments(tmp_path):
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    tracked = _copy_of_the_source(tmp_path / "source")
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tracked, capture_output=True, text=True, check=True
    )
    name = result.stdout.split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        packed = {member.partition("/")[2] for member in archive.getnames()}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "micro_sam").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= packed
    assert {"pyproject.toml", "README.md", "LICENSE", *ENVIRONMENTS, "test/conftest.py"} <= packed


def _copy_of_the_source(target: Path) -> Path:
    """What a checkout holds, without what tests and builds leave behind; the weights are linked."""
    import shutil

    ignore = shutil.ignore_patterns("__pycache__", ".pytest_cache", "_build", "*.egg-info")
    target.mkdir()
    for name in ("micro_sam", "test", "doc"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, target)
    return target


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_conda_environments_agree_with_the_project(name):
    content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert content["name"] == "micro_sam" and content["channels"] == ["conda-forge"]
    [pip] = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    found = dict(
        re.match(r"([\w-]+)\s*(.*)", entry).groups() for entry in content["dependencies"] if isinstance(entry, str)
    )
    assert found.pop("python") == PROJECT["requires-python"]
    assert "pip" in found
    declared = {re.split(r"[\[<>=; ]", entry)[0] for entry in PROJECT["dependencies"]}
    assert {_CONDA_NAMES.get(package, package) for package in set(found) - {"pip"}} <= declared
    [installed] = pip
    extras = re.fullmatch(r"\.\[(.*)\]", installed)
    assert extras is not None and set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "gui" in extras[1].split(",")


def test_both_conda_environments_differ_in_pytorch_only():
    cpu, gpu = (yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["dependencies"] for name in ENVIRONMENTS)
    assert [entry for entry in cpu if entry not in gpu] == ["pytorch-cpu"]
    assert [entry for entry in gpu if entry not in cpu] == ["pytorch-gpu"]


def test_what_tests_import_is_in_the_test_extra():
    wanted = {"bioimageio.core", "onnx", "onnxruntime", "onnxscript", "pyyaml"}
    declared = {re.split(r"[\[<>=; ]", entry)[0] for entry in PROJECT["optional-dependencies"]["test"]}
    assert wanted <= declared | set(PROJECT["dependencies"])


def test_messages_about_missing_packages_name_extras_that_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "micro_sam").rglob("*.py"))
    named = set(re.findall(r"micro_sam\[([a-z]+)\]", text)) | set(re.findall(r'missing\("[\w.]+", "(\w+)"\)', text))
    assert named and named <= set(PROJECT["optional-dependencies"])
