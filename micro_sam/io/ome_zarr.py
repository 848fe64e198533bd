"""The metadata of OME-Zarr images, versions 0.4 and 0.5 (https://ngff.openmicroscopy.org), read with yaozarrs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from micro_sam.io.resolution import Resolution, unit_name

logger = logging.getLogger(__name__)

_LAYOUT = "bioformats2raw.layout"


@dataclass(frozen=True)
class Level:
    """One array of a multiscale image.

    Attributes:
        path: Its path inside the image's group; the first level has the full resolution.
        axes: One upper case letter per axis, None if the metadata does not say.
        resolution: Its pixel size and position, None if the metadata does not say.
    """

    path: str
    axes: str | None
    resolution: Resolution | None


def levels_of(group: Any) -> list[Level]:
    """The levels of the (first) multiscale image in a zarr group, the full resolution first; none for other groups.

    Metadata that is not valid OME-Zarr 0.4 or 0.5 gives levels without axes and resolution, with a warning.
    """
    attributes = dict(group.attrs)
    multiscales = _ome(attributes).get("multiscales")
    if not multiscales:
        return []
    from yaozarrs import v04, v05

    if "ome" in attributes:
        model, document = v05.Multiscale, multiscales[0]
    else:
        model, document = v04.Multiscale, {"version": "0.4", **multiscales[0]}
    try:
        multiscale = model.model_validate(document)
    except ValueError as error:
        reason = " ".join(" ".join(str(error).splitlines()[1:3]).split())  # the first thing that is wrong, and where
        logger.warning(
            "'%s' has no valid OME-Zarr metadata (%s); its pixel size is not used.", group.store_path, reason
        )
        return [
            Level(str(dataset["path"]), _plain_axes(multiscales[0]), None) for dataset in multiscales[0]["datasets"]
        ]
    return [_level(multiscale, dataset) for dataset in multiscale.datasets]


def first_series(group: Any) -> Any:
    """The first image of a collection as bioformats2raw writes it, with a warning if there are more; else the group."""
    if _LAYOUT not in _ome(dict(group.attrs)) or "0" not in group:
        return group
    if "1" in group:
        logger.warning("'%s' holds several images; only '0' is used, name another one with a key.", group.store_path)
    return group["0"]


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    return attributes.get("ome", attributes)


def _plain_axes(multiscale: Mapping[str, Any]) -> str | None:
    """Axes as versions before 0.4 wrote them, or as a careless writer did."""
    names = [axis.get("name") if isinstance(axis, Mapping) else axis for axis in multiscale.get("axes") or ()]
    return "".join(str(name)[:1].upper() for name in names) or None


def _level(multiscale: Any, dataset: Any) -> Level:
    axes = [axis.name for axis in multiscale.axes]
    scale, origin = [1.0] * len(axes), [0.0] * len(axes)
    for transformation in [*dataset.coordinateTransformations, *(multiscale.coordinateTransformations or ())]:
        scale, origin = _transformed(transformation, scale, origin)
    letters = "".join(name[:1].upper() for name in axes)
    units = [axis.unit for axis in multiscale.axes if axis.type == "space" and getattr(axis, "unit", None)]
    unit = unit_name(str(units[0])) if units else None
    size = _spatial(axes, scale)
    return Level(dataset.path, letters, Resolution(size, unit, origin=_spatial(axes, origin) if any(origin) else {}))


def _transformed(
    transformation: Any, scale: Sequence[float], origin: Sequence[float]
) -> tuple[list[float], list[float]]:
    if transformation.type == "scale":
        factors = transformation.scale
        return [s * f for s, f in zip(scale, factors)], [o * f for o, f in zip(origin, factors)]
    return list(scale), [o + t for o, t in zip(origin, transformation.translation)]


def _spatial(axes: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    by_name = {name.lower(): float(value) for name, value in zip(axes, values)}
    return {axis: by_name[axis] for axis in "zyx" if axis in by_name}
