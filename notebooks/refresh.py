"""Run the notebooks from top to bottom and store their outputs, without what belongs to the machine.

python notebooks/refresh.py [name ...]
"""

from __future__ import annotations

import argparse
import base64
import io
import logging
import re
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LARGEST = 1_000_000  # bytes of a notebook with its pictures
LARGE_PICTURE = 40_000  # bytes
QUALITY = 82  # of JPEGs; with colour in every pixel, so that thin outlines stay sharp

logger = logging.getLogger("refresh")


def notebooks() -> list[Path]:
    """All notebooks of this folder."""
    return sorted(HERE.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder, which receives the files it writes.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name=KERNEL["name"], resources={"metadata": {"path": folder}}
    ).execute()
    return notebook


def cleaned(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook without warnings and progress bars, and with the name of the folder taken out of its outputs."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                _without_folder(output, folder)
                _with_small_picture(output)
    return notebook


def _without_folder(output: nbformat.NotebookNode, folder: Path) -> None:
    for holder, key in (
        (output, "text"),
        (output.get("data", {}), "text/plain"),
        (output.get("data", {}), "text/html"),
    ):
        if key in holder:
            holder[key] = re.sub(rf"{re.escape(str(folder))}/?", "", holder[key])


def _with_small_picture(output: nbformat.NotebookNode) -> None:
    """Noise, of which microscopy images are full, makes large PNGs: such pictures become JPEGs."""
    data = output.get("data", {})
    png = base64.b64decode(data.get("image/png", ""))
    if len(png) > LARGE_PICTURE:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "jpeg", quality=QUALITY, subsampling=0)
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()


def refresh(path: Path) -> None:
    """Run a notebook and store it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        notebook = cleaned(execute(path, Path(folder)), Path(folder))
    text = nbformat.writes(notebook) + "\n"
    if len(text) > LARGEST:
        raise ValueError(
            f"{path.name} is {len(text)} bytes with its outputs, at most {LARGEST} are wanted: smaller pictures."
        )
    path.write_text(text, encoding="utf-8")
    logger.info("%s: %.0f s, %d kB", path.name, time.perf_counter() - started, len(text) // 1000)


def main() -> None:
    """Refresh all notebooks, or those that are named."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="Notebooks without their suffix; all if none is named.")
    names = parser.parse_args().names
    for path in notebooks():
        if not names or path.stem in names:
            refresh(path)


if __name__ == "__main__":
    main()
