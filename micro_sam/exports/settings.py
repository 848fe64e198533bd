"""What can be chosen about exports and imports. Forms, flags and documentation derive from the fields.

A field carries ``label``, ``range`` (None if it has none), ``help`` and, if there are only some values, ``choices``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from micro_sam.errors import ParameterError


def _choice(default: str, choices: tuple[str, ...], label: str, help: str) -> Any:
    return field(default=default, metadata={"label": label, "range": None, "help": help, "choices": choices})


def _switch(default: bool, label: str, help: str) -> Any:
    return field(default=default, metadata={"label": label, "range": None, "help": help})


def _check_choices(settings: Any) -> None:
    for item in fields(settings):
        choices, value = item.metadata.get("choices"), getattr(settings, item.name)
        if choices is not None and value not in choices:
            raise ParameterError(f"{item.name} is one of {', '.join(choices)}, got {value!r}.")


@dataclass(frozen=True)
class ExportSettings:
    """How objects are exported; each setting belongs to the formats that its help names."""

    qupath_object: str = _choice(
        "annotation",
        ("annotation", "detection", "cell"),
        "QuPath objects",
        "GeoJSON: what objects become in QuPath; annotations can be edited there, thousands are faster as detections.",
    )
    coco_masks: str = _choice(
        "rle",
        ("rle", "polygon"),
        "COCO masks",
        "COCO: masks run by run, which keeps every pixel, or polygons, which keep no holes.",
    )
    shape_descriptors: bool = _switch(
        True, "Shape descriptors", "Table: also measure perimeter, axes, eccentricity, circularity and solidity."
    )

    def __post_init__(self) -> None:
        _check_choices(self)


@dataclass(frozen=True)
class ImportSettings:
    """How files are imported."""

    scale: float = field(
        default=1.0,
        metadata={
            "label": "Scale",
            "range": (0.001, 1000.0),
            "help": "How many pixels of the image one pixel of the file is wide, if it was made on a smaller or larger copy.",
        },
    )

    def __post_init__(self) -> None:
        low, high = fields(self)[0].metadata["range"]
        if not low <= self.scale <= high:
            raise ParameterError(f"scale is between {low:g} and {high:g}, got {self.scale}.")
