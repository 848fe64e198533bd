"""How a mask of one slice becomes prompts in the next, and the other settings of propagation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from numbers import Real
from typing import Any

from micro_sam.errors import ParameterError

_KEYS = {"use_box": "box", "use_mask": "mask", "use_points": "points", "use_single_point": "single_point"}
_NAMED = {
    "box": {"box": True},
    "mask": {"box": True, "mask": True},
    "points": {"points": True},
    "points_and_mask": {"points": True, "mask": True},
    "single_point": {"single_point": True},
}
PROJECTIONS = tuple(_NAMED)


@dataclass(frozen=True)
class Projection:
    """Which prompts are derived from the mask of the neighbouring slice.

    Attributes:
        box: The box around it.
        mask: The mask itself.
        points: A point in its middle, and negative points around it.
        single_point: Only the point in its middle; of the three masks this gives, the one most like the neighbour's.
    """

    box: bool = False
    mask: bool = False
    points: bool = False
    single_point: bool = False

    def __post_init__(self) -> None:
        if not (self.box or self.mask or self.points or self.single_point):
            raise ParameterError("A projection needs at least one of box, mask, points and single_point.")

    @classmethod
    def of(cls, value: str | Mapping[str, bool] | Projection) -> Projection:
        """A projection from its name (one of `PROJECTIONS`) or from a dict with ``use_box``, ``use_mask``,
        ``use_points`` and ``use_single_point``; keys that are missing count as False.

        Raises:
            ParameterError: An unknown name or key, or nothing is used.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - set(_KEYS))
            if unknown:
                raise ParameterError(f"A projection has the keys {', '.join(_KEYS)}, got {unknown[0]!r}.")
            return cls(**{_KEYS[key]: bool(used) for key, used in value.items()})
        name = str(value).replace(" ", "_")
        if name not in _NAMED:
            raise ParameterError(f"The projection is one of {', '.join(PROJECTIONS)} or a dict, got {value!r}.")
        return cls(**_NAMED[name])

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prompts are a single point, which often fits several objects."""
        return self.single_point and not (self.box or self.mask or self.points)


def _described(label: str, bounds: tuple[float | None, float | None] | None, help: str) -> dict[str, Any]:
    return {"label": label, "range": bounds, "help": help}


@dataclass(frozen=True)
class PropagationSettings:
    """Settings of propagation; ``range`` in the metadata of a field is inclusive, None leaves a side open.

    Raises:
        ParameterError: A value is out of range.
    """

    projection: str | Mapping[str, bool] | Projection = field(
        default="mask",
        metadata=_described("Projection", None, f"What a slice's mask becomes in the next: {', '.join(PROJECTIONS)}."),
    )
    iou_threshold: float = field(
        default=0.5,
        metadata=_described(
            "IoU threshold",
            (0.0, 1.0),
            "An object ends where its mask overlaps the one before by less than this (IoU).",
        ),
    )
    box_extension: float = field(
        default=0.025,
        metadata=_described(
            "Box extension", (0.0, None), "Enlarge boxes on every side: below 1 a fraction of the side, else pixels."
        ),
    )
    follow_splits: bool = field(
        default=True,
        metadata=_described(
            "Follow splits", None, "Prompt each part of an object that has come apart, so that branches are followed."
        ),
    )
    motion_smoothing: float | None = field(
        default=None,
        metadata=_described(
            "Motion smoothing",
            (0.0, 1.0),
            "Shift prompts by the object's motion, of which this share is kept at each step; None for objects at rest.",
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "projection", Projection.of(self.projection))
        for item in fields(self):
            value, bounds = getattr(self, item.name), item.metadata["range"]
            if bounds is not None and not (value is None and item.default is None):
                _check(item.name, value, *bounds)


def _check(name: str, value: Any, low: float | None, high: float | None) -> None:
    if not isinstance(value, Real) or not isfinite(value):
        raise ParameterError(f"{name} is a number, got {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ParameterError(f"{name} must be {span}, got {value!r}.")
