"""Settings of the documentation; `make doc` builds it to doc/_build/html."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent

project = "micro_sam"
author = "The micro_sam developers"
release = version = installed_version("micro_sam")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "README.md"]
html_theme = "furo"
html_title = f"micro_sam {release}"
html_static_path = ["images"]
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode = "off"  # notebooks carry their outputs; the tests run them

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_mock_imports = ["bitsandbytes", "trackastra"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields of dataclasses and named tuples are described once
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
suppress_warnings = ["myst.header"]

linkcheck_timeout = 20
linkcheck_anchors = False


def copy_notebooks() -> None:
    """Sphinx only sees what lies below its source folder."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    for path in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy2(path, target / path.name)


copy_notebooks()


def adapt_links(app: Sphinx, name: str, source: list[str]) -> None:
    """What differs between the files and the web pages.

    Notebooks lie in ``../notebooks/``, and below the source folder are copies; links that show the name of a page's file show
    its title.
    """
    text = source[0].replace("](../notebooks/", "](notebooks/")
    source[0] = re.sub(r"\[\w+\.md\]\((\w+\.md)", r"[](\1", text)


def setup(app: Sphinx) -> None:
    """Connect what Sphinx calls."""
    app.connect("source-read", adapt_links)
