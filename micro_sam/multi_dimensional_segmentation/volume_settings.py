"""The settings of automatic segmentation of volumes; flags and documentation derive from them. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from numbers import Real
from typing import Any

from micro_sam.errors import ParameterError

METHODS = ("auto", "slices", "volume")


def _setting(default: Any, label: str, bounds: tuple[float | None, float | None] | None, help: str, kind: type):
    return field(default=default, metadata={"label": label, "range": bounds, "help": help, "kind": kind})


@dataclass(frozen=True)
class VolumeSettings:
    """How a volume is segmented automatically.

    Raises:
        ParameterError: A value is out of range, or settings do not fit each other.
    """

    volume_method: str = _setting(
        "auto",
        "Method",
        None,
        "slices: segment slices and link their objects; volume: one watershed in 3d on the decoder's predictions; auto: "
        "volume for --mode ais, slices otherwise or with --gap_closing.",
        str,
    )
    gap_closing: int | None = _setting(
        None, "Gap closing", (0, None), "Link objects across up to this many slices in which they are missing.", int
    )
    min_z_extent: int | None = _setting(
        None, "Smallest z extent", (0, None), "Remove objects that reach over fewer slices.", int
    )
    z_smoothing: float = _setting(
        1.0, "Smoothing across slices", (0.0, 50.0), "Sigma in slices, for method volume; 0 for none.", float
    )
    beta: float = _setting(
        0.5, "Reluctance to link", (0.001, 0.999), "For method slices: larger values link less.", float
    )

    def __post_init__(self) -> None:
        if self.volume_method not in METHODS:
            raise ParameterError(f"The volume method is one of {', '.join(METHODS)}, got {self.volume_method!r}.")
        for item in fields(self):
            _check(item.name, getattr(self, item.name), item.metadata)
        if self.volume_method == "volume" and self.gap_closing:
            raise ParameterError("gap_closing belongs to the volume method 'slices'; leave it out, or choose that one.")


def _check(name: str, value: Any, metadata: Any) -> None:
    bounds = metadata["range"]
    if bounds is None or value is None:
        return
    low, high = bounds
    whole = metadata["kind"] is int
    if not isinstance(value, Real) or not isfinite(value) or (whole and value != int(value)):
        raise ParameterError(f"{name} is a {'whole ' if whole else ''}number, got {value!r}.")
    if value < low or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ParameterError(f"{name} must be {span}, got {value!r}.")


def volume_arguments() -> frozenset[str]:
    """The names of all settings."""
    return frozenset(item.name for item in fields(VolumeSettings))
