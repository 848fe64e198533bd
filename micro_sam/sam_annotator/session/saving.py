"""Saving committed labels, and beside them the prompts they were made with. A file appears only when it is complete."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.io.labels import write_labels
from micro_sam.io.paths import replacing
from micro_sam.io.resolution import Resolution
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.prompts import Prompts


def prompts_path(path: Path) -> Path:
    """The file for the prompts that belong to labels."""
    name = path.name
    for suffix in (".ome.zarr", ".ome.tif", ".zarr", ".tiff", ".tif"):
        name = name.removesuffix(suffix)
    return path.with_name(f"{name}_prompts.json")


def iter_save(
    path: str | Path,
    labels: np.ndarray,
    origins: Mapping[int, Prompts],
    scale: Sequence[float],
    unit: str | None = None,
    journal: Path | None = None,
) -> Generator[Progress, None, None]:
    """Save labels and prompts.

    Args:
        path: The labels, .tif or .zarr; the prompts come into ``<name>_prompts.json`` beside them.
        labels: They.
        origins: For objects the prompts they were made with.
        scale: The size of a pixel.
        unit: Its unit.
        journal: Where it is written down how the labels were made.

    Raises:
        OutputError: It cannot be written.
    """
    yield Progress(0, 2, "Save labels")
    path = Path(path)
    write_labels(path, labels, resolution_of(scale, unit))
    yield Progress(1, 2, "Save prompts")
    write_origins(path, labels, origins, journal)
    yield Progress(2, 2, "Save prompts")


def write_origins(path: Path, labels: np.ndarray, origins: Mapping[int, Prompts], journal: Path | None) -> None:
    """Write the prompts that objects were made with into ``<name>_prompts.json`` beside their labels."""
    there = set(np.unique(labels).tolist()) - {0}
    described: dict[str, Any] = {
        "labels": path.name,
        "journal": None if journal is None else str(journal),
        "objects": {str(label): origins[label].to_json() for label in sorted(there & set(origins))},
    }
    with replacing(prompts_path(path)) as temporary:
        temporary.write_text(json.dumps(described, indent=1), encoding="utf-8")


def resolution_of(scale: Sequence[float], unit: str | None) -> Resolution | None:
    """A pixel size as files hold it, None where it is not known."""
    if all(value == 1 for value in scale):
        return None
    axes = "zyx"[-len(scale) :]
    return Resolution(dict(zip(axes, map(float, scale))), unit)
