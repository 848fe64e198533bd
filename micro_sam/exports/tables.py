"""Measurements as .csv or .parquet."""

from __future__ import annotations

from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

from micro_sam.errors import MissingDependencyError
from micro_sam.exports.content import LabelledImage
from micro_sam.exports.measurements import iter_measure
from micro_sam.exports.settings import ExportSettings
from micro_sam.io.paths import replacing
from micro_sam.progress import Progress


def check(path: Path) -> None:
    """Raise a `MissingDependencyError` if what writes the table is not installed."""
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingDependencyError(
            "Tables are written as .parquet by the package pyarrow, which is not installed; run pip install "
            "'micro_sam[export]', or write .csv."
        )


def iter_write(path: Path, content: LabelledImage, settings: ExportSettings) -> Generator[Progress, None, None]:
    """Measure all objects and write the table."""
    check(path)
    table = yield from iter_measure(content, settings.shape_descriptors)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)
