"""Who imports whom, and what is loaded when: the layers of the package and its lazy start."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import micro_sam

PACKAGE = Path(micro_sam.__file__).parent

# From the bottom up; a module may import from its own layer and from those below it.
LAYERS = (
    {"errors", "progress", "lazy", "user_settings", "__init__"},
    {"models", "io"},
    {"embeddings"},
    {
        "labels",
        "prompts",
        "mask_decoding",
        "embedding_access",
        "prompt_based_segmentation",
        "prompt_generators",
        "inference",
        "instance_segmentation",
        "multi_dimensional_segmentation",
        "visualization",
        "object_classification",
    },
    {
        "automatic_segmentation",
        "automatic_tracking",
        "precompute_state",
        "sample_data",
        "evaluation",
        "training",
        "bioimageio",
        "distributed",
        "health",
        "exports",
    },
    {"sam_annotator"},
    {"cli"},
    {"util"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))
GUI = ("napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "magicgui", "vispy")


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a module imports, wherever in it, except for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["micro_sam", *path.relative_to(PACKAGE).parent.parts]
    for node in _without_type_checking(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _without_type_checking(child)


def _part(name: str) -> str | None:
    """The part of micro_sam that an absolute name belongs to."""
    first, _, rest = name.partition(".")
    if first != "micro_sam":
        return None
    part = rest.partition(".")[0]
    return part if part in RANK else "__init__"


def _part_of_file(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def test_every_part_has_a_place_in_the_layers():
    assert {_part_of_file(path) for path in MODULES} <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = RANK[_part_of_file(path)]
    upward = sorted({name for name in _imports(path) if (part := _part(name)) and RANK[part] > own})
    assert not upward, f"{path.relative_to(PACKAGE)} imports from a layer above it: {upward}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_annotator_knows_windows(path):
    shows_models = path.match("evaluation/model_comparison.py")  # in one function, on demand
    if _part_of_file(path) != "sam_annotator" and not shows_models:
        assert not [name for name in _imports(path) if name.partition(".")[0] in GUI]


def _loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


HEAVY = ("torch", "torchvision", "segment_anything", "skimage", "scipy", "zarr", "h5py", "pandas", "dask", "numba")


@pytest.mark.parametrize(
    "code",
    [
        "import micro_sam",
        "import micro_sam.util",
        "import micro_sam.io, micro_sam.embeddings, micro_sam.instance_segmentation, micro_sam.models",
        "import micro_sam.cli.automatic_segmentation as c; c.build_parser()",
        "import micro_sam.cli.precompute_embeddings as c; c.build_parser()",
        "import micro_sam.cli.info as c; c.build_parser()",
        "import micro_sam.bioimageio, micro_sam.cli.export_model as c; c.build_parser()",
    ],
)
def test_starting_loads_nothing_heavy(code):
    assert not _loaded_by(code) & {*HEAVY, *GUI}


def test_the_whole_2d_library_loads_no_window():
    code = """
import micro_sam.util as util
[getattr(util, name) for name in util.__all__]
import micro_sam.automatic_segmentation, micro_sam.precompute_state, micro_sam.inference
import micro_sam.prompt_based_segmentation, micro_sam.instance_segmentation as i
[getattr(i, name) for name in i.__all__]
"""
    assert not _loaded_by(code) & set(GUI)
