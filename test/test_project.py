"""The project around the package: what is installed, and that the documentation tells the truth."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted([ROOT / "README.md", *(ROOT / "doc").glob("*.md")])


def _blocks(path: Path, *languages: str) -> list[str]:
    return [
        code for language, code in re.findall(r"```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        if language in languages
    ]  # fmt: skip


def _commands() -> list[tuple[str, str]]:
    lines = [
        (page.name, line.strip())
        for page in PAGES
        for block in _blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [(page, line) for page, line in lines if line.startswith("micro_sam.")]


@pytest.mark.parametrize(("page", "line"), _commands())
def test_commands_in_the_documentation_can_be_given(page, line):
    name, *arguments = shlex.split(line, comments=True)
    module, _, _ = PROJECT["scripts"][name].partition(":")
    importlib.import_module(module).build_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documentation_uses_names_that_exist(page):
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("micro_sam"):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_documentation_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_models_named_in_the_documentation_are_registered():
    from micro_sam.models.spec import model_names

    for page in PAGES:
        named = set(re.findall(r"`(vit_[a-z]_[a-z_]+(?:@[\d.]+)?)`", page.read_text(encoding="utf-8")))
        assert named <= set(model_names()), page.name


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_commands_are_installed(command):
    module, _, function = PROJECT["scripts"][command].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert command in {entry.name for entry in metadata.entry_points(group="console_scripts")}
    assert importlib.import_module(module).build_parser().prog == command


def test_everything_the_package_imports_is_a_declared_dependency():
    distributions = metadata.packages_distributions()
    for_users = [
        entry for name, entries in PROJECT["optional-dependencies"].items() if name != "test" for entry in entries
    ]
    declared = {_normal(re.split(r"[\[<>=; ]", entry)[0]) for entry in (*PROJECT["dependencies"], *for_users)}
    missing = set()
    for path in (ROOT / "micro_sam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"micro_sam"}:
                if not {_normal(found) for found in distributions.get(name, [name])} & declared:
                    missing.add((name, path.name))
    assert not missing


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_qt_without_the_gui_extra():
    names = {_normal(re.split(r"[\[<>=; ]", entry)[0]) for entry in PROJECT["dependencies"]}
    assert not names & {"pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert any("PyQt6" in entry for entry in PROJECT["optional-dependencies"]["gui"])


@pytest.mark.parametrize("script", [".ci/run", ".ci/system_packages"])
def test_scripts_are_executable_and_valid(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_the_wheel_holds_everything_that_is_not_python(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "micro_sam", source / "micro_sam", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(source).as_posix() for path in (source / "micro_sam").rglob("*") if path.is_file()}
    assert expected <= packed
    assert {"micro_sam/py.typed", "micro_sam/models/registry.toml"} <= packed
