"""The notebooks run from top to bottom, offline, and what is stored in them is what a person sees on the web."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


@pytest.fixture(scope="module")
def refresh():
    """The script that stores the outputs."""
    spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_from_top_to_bottom(path, refresh, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    for name in ("http_proxy", "https_proxy"):  # a download would fail at once
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = refresh.execute(path, tmp_path)  # the notebooks judge their results themselves
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source)
    assert sum("assert " in cell.source for cell in code) >= 2, "A notebook says what it expects."
    assert _pictures(done) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_stored_notebook_shows_its_pictures_and_nothing_of_the_machine(path, refresh):
    text = path.read_text(encoding="utf-8")
    stored = nbformat.reads(text, as_version=4)
    nbformat.validate(stored)
    assert len(text) < refresh.LARGEST and _pictures(stored) >= 3
    assert stored.metadata == {"kernelspec": refresh.KERNEL, "language_info": {"name": "python"}}
    assert stored.cells[0].source.startswith("# "), "It begins with a title."
    assert sum(cell.cell_type == "markdown" for cell in stored.cells) >= 5, "Text stands between the cells."
    outputs = [output for cell in stored.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr" or output.output_type == "error"]
    told = re.sub(r'"image/\w+": "[^"]*"', "", text)
    assert not re.search(r"/(tmp|home|root|usr)/|[A-Z]:\\\\Users", told)


def _pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs)
