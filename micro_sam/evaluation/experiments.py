"""Which prompts to try: settings of experiments that answer how good a model is for so many points or a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from ..errors import ParameterError


class ExperimentSetting(TypedDict):
    """The prompts of one experiment.

    Attributes:
        use_points: Whether points are given.
        use_boxes: Whether the bounding box is given.
        n_positives: Positive points for each object.
        n_negatives: Negative points for each object.
    """

    use_points: bool
    use_boxes: bool
    n_positives: int
    n_negatives: int


ExperimentSettings = list[ExperimentSetting]

_POSITIVES = (1, 2, 4, 8, 16)
_NEGATIVES = (0, 1, 2, 4, 8, 16)


def _setting(use_boxes: bool, n_positives: int, n_negatives: int) -> ExperimentSetting:
    return {
        "use_points": n_positives + n_negatives > 0,
        "use_boxes": use_boxes,
        "n_positives": n_positives,
        "n_negatives": n_negatives,
    }


def full_experiment_settings(
    use_boxes: bool = False, positive_range: Sequence[int] | None = None, negative_range: Sequence[int] | None = None
) -> ExperimentSettings:
    """Every combination of numbers of positive and negative points.

    Args:
        use_boxes: Give the box as well.
        positive_range: Numbers of positive points. Default: 1, 2, 4, 8, 16; with boxes also 0.
        negative_range: Numbers of negative points. Default: 0, 1, 2, 4, 8, 16.

    Raises:
        ParameterError: A number is negative.
    """
    positives = ((0, *_POSITIVES) if use_boxes else _POSITIVES) if positive_range is None else positive_range
    negatives = _NEGATIVES if negative_range is None else negative_range
    if min([0, *positives, *negatives]) < 0:
        raise ParameterError("The numbers of points must not be negative.")
    return [_setting(use_boxes, p, n) for p in positives for n in negatives if use_boxes or p + n > 0]


def default_experiment_settings() -> ExperimentSettings:
    """One point, two positive and four negative points, four and eight, and the box alone."""
    return [_setting(False, 1, 0), _setting(False, 2, 4), _setting(False, 4, 8), _setting(True, 0, 0)]


def get_experiment_setting_name(setting: ExperimentSetting) -> str:
    """A name fit for a folder: ``points/p2-n4``, ``box/p0-n0``."""
    kind = "box" if setting["use_boxes"] else "points"
    return f"{kind}/p{setting['n_positives']}-n{setting['n_negatives']}"
