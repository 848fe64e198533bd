"""The pixel size of an image, and how TIFF and OME-Zarr write it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree import ElementTree

#: Spellings in TIFF and OME files -> the unit names of OME-Zarr.
_UNITS = {
    "nanometer": ("nm", "nanometer", "nanometers", "nanometre"),
    "micrometer": ("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometers", "micrometre"),
    "millimeter": ("mm", "millimeter", "millimeters", "millimetre"),
    "centimeter": ("cm", "centimeter", "centimeters", "centimetre"),
    "meter": ("m", "meter", "meters", "metre"),
    "angstrom": ("å", "angstrom", "a"),
    "inch": ("in", "inch", "inches"),
}
_UNIT_OF = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings}
_OME_SYMBOLS = {
    "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m", "angstrom": "Å",
    "inch": "in",
}  # fmt: skip
_CENTIMETER = 3  # the value of the TIFF tag ResolutionUnit


@dataclass(frozen=True)
class Resolution:
    """What a file says about the size of its pixels.

    Attributes:
        size: Pixel size by axis letter (``z``, ``y``, ``x``) in ``unit``; axes the file says nothing about are absent.
        unit: Name of the unit as in OME-Zarr (``micrometer``), or None.
        tags: The TIFF tags XResolution and YResolution as (numerator, denominator) pairs and ResolutionUnit, or None.
        flavour: ``imagej`` or ``ome`` if the file carries their metadata.
        origin: Position of the first pixel's centre by axis letter, in ``unit``; axes that begin at 0 may be absent.
    """

    size: Mapping[str, float]
    unit: str | None = None
    tags: tuple[tuple[int, int], tuple[int, int], int] | None = None
    flavour: str | None = None
    origin: Mapping[str, float] = field(default_factory=dict)

    def scale(self, axes: str) -> list[float]:
        """Pixel size along each of the axes, 1 where it is not known."""
        return [float(self.size.get(axis.lower(), 1.0)) for axis in axes]

    def shift(self, axes: str) -> list[float]:
        """Position of the first pixel along each of the axes, 0 where it is not known."""
        return [float(self.origin.get(axis.lower(), 0.0)) for axis in axes]

    def at_level(self, factors: Mapping[str, float]) -> Resolution:
        """The resolution of a smaller version of the image, of which a pixel covers ``factors`` pixels by axis letter."""
        size = {axis: value * factors.get(axis, 1.0) for axis, value in self.size.items()}
        return replace(self, size=size, tags=None)

    @property
    def ome_unit(self) -> str | None:
        """The unit as OME-XML writes it (``µm``)."""
        return _OME_SYMBOLS.get(self.unit or "")


def unit_name(text: str | None) -> str | None:
    """The OME-Zarr name of a unit in any usual spelling, or None if it is not a length."""
    return _UNIT_OF.get((text or "").strip().lower())


def resolution_of_tif(tif: Any) -> Resolution | None:
    """Read the resolution from an open `tifffile.TiffFile`: from its OME or ImageJ metadata, or from its tags."""
    tags = _tags(tif.pages[0].tags)
    if tif.is_ome:
        size, unit = _ome_size(tif.ome_metadata)
        return Resolution(size, unit, tags, "ome")
    if tif.is_imagej:
        size, unit = _imagej_size(tif.imagej_metadata or {}, tags)
        return Resolution(size, unit, tags, "imagej")
    if tags is None:
        return None
    # Tags in inches say how large to print, not how large a pixel was; they are kept but not taken as a pixel size.
    size = _size_from_tags(tags) if tags[2] == _CENTIMETER else {}
    return Resolution({axis: 1e4 * value for axis, value in size.items()}, "micrometer" if size else None, tags)


def _tags(tags: Any) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    pairs = [tuple(int(value) for value in tags[name].value) for name in ("XResolution", "YResolution")]
    if any(len(pair) != 2 or 0 in pair for pair in pairs):
        return None
    unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2  # inch, TIFF 6.0's default
    return pairs[0], pairs[1], unit


def _size_from_tags(tags: tuple[tuple[int, int], tuple[int, int], int]) -> dict[str, float]:
    (x_pixels, x_per), (y_pixels, y_per), _ = tags
    return {"y": y_per / y_pixels, "x": x_per / x_pixels}


def _imagej_size(metadata: Mapping[str, Any], tags: Any) -> tuple[dict[str, float], str | None]:
    unit = unit_name(str(metadata.get("unit", "")))
    if unit is None:
        return {}, None
    size = _size_from_tags(tags) if tags is not None else {}
    if "spacing" in metadata:
        size["z"] = float(metadata["spacing"])
    return size, unit


def _ome_size(xml: str | None) -> tuple[dict[str, float], str | None]:
    try:
        root = ElementTree.fromstring(xml or "")
    except ElementTree.ParseError:
        return {}, None
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return {}, None
    size = {axis: pixels.get(f"PhysicalSize{axis.upper()}") for axis in "zyx"}
    unit = unit_name(pixels.get("PhysicalSizeXUnit", "µm"))
    return {axis: float(value) for axis, value in size.items() if value is not None}, unit
