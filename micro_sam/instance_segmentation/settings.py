"""The parameters of automatic segmentation as dataclasses: forms, command line flags and documentation derive from them.

This module imports neither torch nor numpy, so that a command can list its flags without loading the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isnan
from numbers import Real
from typing import Any, ClassVar

from micro_sam.errors import ParameterError

MODES = ("amg", "ais", "apg")
INIT, GENERATE = "init", "generate"

_REGISTRY_NAMES = {
    "center_distance_thresh": "center_distance_threshold",
    "boundary_distance_thresh": "boundary_distance_threshold",
    "foreground_thresh": "foreground_threshold",
    "min_object_size": "min_size",
}


def _setting(
    default: Any, label: str, bounds: tuple[float | None, float | None] | None, help: str, stage: str = GENERATE
):
    """A field; ``bounds`` are inclusive, None leaves a side open; ``stage`` says whether initializing depends on it."""
    return field(default=default, metadata={"label": label, "range": bounds, "help": help, "stage": stage})


class _Settings:
    """What the settings of all modes can do."""

    mode: ClassVar[str]

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_range(item.name, getattr(self, item.name), item.metadata["range"])

    def init_kwargs(self) -> dict[str, Any]:
        """The arguments for making the segmenter."""
        return self._stage(INIT)

    def generate_kwargs(self) -> dict[str, Any]:
        """The arguments for its ``generate``."""
        return self._stage(GENERATE)

    def _stage(self, stage: str) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["stage"] == stage}


@dataclass(frozen=True)
class AMGSettings(_Settings):
    """Automatic mask generation: a grid of point prompts (Kirillov et al., "Segment Anything", 2023)."""

    mode: ClassVar[str] = "amg"
    points_per_side: int = _setting(32, "Points per side", (1, 256), "Prompts along one side of the image.", INIT)
    crop_n_layers: int = _setting(
        0, "Crop layers", (0, 4), "Repeat on this many layers of smaller and smaller crops of the image.", INIT
    )
    pred_iou_thresh: float = _setting(
        0.88, "Predicted IoU", (0.0, 1.0), "Keep masks whose quality, as the model predicts it, is above this."
    )
    stability_score_thresh: float = _setting(
        0.95, "Stability", (0.0, 1.0), "Keep masks that change at most this much when the mask threshold moves."
    )
    box_nms_thresh: float = _setting(
        0.7, "Box overlap", (0.0, 1.0), "Of two masks whose boxes overlap more than this (IoU), the better one is kept."
    )
    crop_nms_thresh: float = _setting(
        0.7, "Box overlap between crops", (0.0, 1.0), "The same for masks that come from different crops."
    )
    min_mask_region_area: int = _setting(
        0, "Smallest region", (0, None), "Remove regions and fill holes smaller than this, in pixels."
    )
    with_background: bool = _setting(
        True, "Image has background", None, "Make the largest mask background if it is larger than the unlabelled rest."
    )


@dataclass(frozen=True)
class AISSettings(_Settings):
    """Instance segmentation with the decoder: a watershed on its predictions (Archit et al., Nature Methods 2025)."""

    mode: ClassVar[str] = "ais"
    center_distance_threshold: float = _setting(
        0.5, "Centre distance", (0.0, 1.0), "Seeds lie where the distance to the object centre is below this."
    )
    boundary_distance_threshold: float = _setting(
        0.5, "Boundary distance", (0.0, 1.0), "Seeds lie where the (inverted) distance to the boundary is below this."
    )
    foreground_threshold: float = _setting(
        0.5, "Foreground", (0.0, 1.0), "Objects lie where the foreground probability is above this."
    )
    foreground_smoothing: float = _setting(
        1.0, "Foreground smoothing", (0.0, 50.0), "Sigma, in pixels, for smoothing the foreground; 0 for none."
    )
    distance_smoothing: float = _setting(
        1.6, "Distance smoothing", (0.0, 50.0), "Sigma, in pixels, for smoothing both distances; 0 for none."
    )
    min_size: int = _setting(0, "Smallest object", (0, None), "Remove objects smaller than this, in pixels.")


@dataclass(frozen=True)
class APGSettings(_Settings):
    """Automatic prompt generation: prompts from the decoder's predictions, masks from the prompts."""

    mode: ClassVar[str] = "apg"
    min_size: int = _setting(25, "Smallest object", (0, None), "Remove objects smaller than this, in pixels.")
    center_distance_threshold: float = _setting(
        0.5, "Centre distance", (0.0, 1.0), "Prompts lie where the distance to the object centre is below this."
    )
    boundary_distance_threshold: float = _setting(
        0.5, "Boundary distance", (0.0, 1.0), "Prompts lie where the (inverted) distance to the boundary is below this."
    )
    foreground_threshold: float = _setting(
        0.5, "Foreground", (0.0, 1.0), "Prompts lie where the foreground probability is above this."
    )
    multimasking: bool = _setting(
        False, "Several masks a prompt", None, "Let the model propose three masks for each prompt and take the best."
    )
    batch_size: int = _setting(32, "Batch size", (1, 4096), "Prompts decoded at the same time.")
    nms_threshold: float = _setting(
        0.9, "Overlap", (0.0, 1.0), "Of two masks that overlap more than this, the better one is kept."
    )
    intersection_over_min: bool = _setting(
        False, "Overlap of the smaller", None, "Measure overlap by the smaller mask's area instead of the union."
    )
    refine_with_box_prompts: bool = _setting(
        False, "Refine with boxes", None, "Decode each mask a second time, from the box around the first."
    )


SETTINGS: dict[str, type[_Settings]] = {cls.mode: cls for cls in (AMGSettings, AISSettings, APGSettings)}


def settings_for(mode: str, defaults: Mapping[str, Any] | None = None, **values: Any) -> _Settings:
    """The settings of a mode.

    Args:
        mode: "amg", "ais" or "apg".
        defaults: Defaults of a model as the registry has them; names that do not belong to the mode are skipped.
        **values: Values that win over the defaults. None leaves the default.

    Raises:
        ParameterError: An unknown mode or name, or a value out of range.
    """
    if mode not in SETTINGS:
        raise ParameterError(f"The segmentation mode is one of {', '.join(MODES)}, got {mode!r}.")
    cls = SETTINGS[mode]
    names = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ParameterError(
            f"{', '.join(unknown)} is no parameter of mode {mode!r}; it has {', '.join(sorted(names))}."
        )
    merged = {}
    for name, value in (defaults or {}).items():
        name = (
            "min_mask_region_area" if mode == "amg" and name == "min_object_size" else _REGISTRY_NAMES.get(name, name)
        )
        if name in names:
            merged[name] = value
    merged.update({name: value for name, value in values.items() if value is not None})
    return cls(**merged)


def _check_range(name: str, value: Any, bounds: tuple[float | None, float | None] | None) -> None:
    if bounds is None:
        return
    low, high = bounds
    if not isinstance(value, Real) or isnan(value):
        raise ParameterError(f"{name} is a number, got {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ParameterError(f"{name} must be {span}, got {value!r}.")


def check_thresholds(**values: float) -> None:
    """Raise `ParameterError` unless every value is a number in [0, 1]."""
    for name, value in values.items():
        _check_range(name, value, (0.0, 1.0))
