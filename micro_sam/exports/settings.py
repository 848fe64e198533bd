"""What can be chosen about exports and imports. Forms, flags and documentation derive from the fields.

A field carries ``label``, ``range`` (None if it has none), ``help``, if there are only some values ``choices``, and for exports
``formats``, the names of those that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from micro_sam.errors import ParameterError


def _setting(default: Any, formats: tuple[str, ...], label: str, help: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {"label": label, "range": None, "help": help, "formats": formats}
    return field(default=default, metadata=metadata | ({"choices": choices} if choices else {}))


def _check_choices(settings: Any) -> None:
    for item in fields(settings):
        choices, value = item.metadata.get("choices"), getattr(settings, item.name)
        if choices is not None and value not in choices:
            raise ParameterError(f"{item.name} is one of {', '.join(choices)}, got {value!r}.")


@dataclass(frozen=True)
class ExportSettings:
    """How objects are exported."""

    qupath_object: str = _setting(
        "annotation",
        ("geojson",),
        "QuPath objects",
        "GeoJSON: what objects become in QuPath; annotations can be edited there, thousands are faster as detections.",
        ("annotation", "detection", "cell"),
    )
    coco_masks: str = _setting(
        "rle",
        ("coco",),
        "COCO masks",
        "COCO: masks run by run, which keeps every pixel, or polygons, which keep no holes.",
        ("rle", "polygon"),
    )
    shape_descriptors: bool = _setting(
        True,
        ("csv", "parquet"),
        "Shape descriptors",
        "Table: also measure axes and solidity, and in planes perimeter, circularity and eccentricity.",
    )

    def __post_init__(self) -> None:
        _check_choices(self)

    @classmethod
    def names_for(cls, format: str) -> list[str]:
        """The settings that belong to a format."""
        return [item.name for item in fields(cls) if format in item.metadata["formats"]]


@dataclass(frozen=True)
class ImportSettings:
    """How files are imported."""

    scale: float = field(
        default=1.0,
        metadata={
            "label": "Import scale",
            "range": (0.01, 100.0),
            "help": "How many pixels of the image one pixel of the file is wide, if it was made on a smaller or larger copy.",
        },
    )

    def __post_init__(self) -> None:
        low, high = fields(self)[0].metadata["range"]
        if not low <= self.scale <= high:
            raise ParameterError(f"scale is between {low:g} and {high:g}, got {self.scale}.")
