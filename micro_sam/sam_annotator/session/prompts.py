"""What a person has placed on the image, as frozen values: points, boxes, ellipses and polygons, each in a slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from micro_sam.errors import PromptError

ShapeKind = Literal["rectangle", "ellipse", "polygon"]
SHAPE_KINDS = ("rectangle", "ellipse", "polygon")
TRACK, DIVISION = "track", "division"


@dataclass(frozen=True)
class Point:
    """A point prompt.

    Attributes:
        y: Row, in pixels.
        x: Column, in pixels.
        positive: Whether the object is here, or is not.
        i: The slice or frame; None in an image.
        track_id: The track it belongs to, when tracking.
        state: "track" or "division", when tracking.
    """

    y: float
    x: float
    positive: bool = True
    i: int | None = None
    track_id: int | None = None
    state: str = TRACK


@dataclass(frozen=True)
class Shape:
    """A shape prompt: a rectangle is a box around the object, an ellipse or polygon is a rough mask of it.

    Attributes:
        kind: "rectangle", "ellipse" (given by the corners of its box) or "polygon".
        vertices_yx: The corners, in pixels.
        i: The slice or frame; None in an image.
        track_id: The track it belongs to, when tracking.
        state: "track" or "division", when tracking.
    """

    kind: ShapeKind
    vertices_yx: tuple[tuple[float, float], ...]
    i: int | None = None
    track_id: int | None = None
    state: str = TRACK

    def __post_init__(self) -> None:
        if self.kind not in SHAPE_KINDS:
            raise PromptError(
                f"A shape prompt is one of {', '.join(SHAPE_KINDS)}, got {self.kind!r}; draw one of these."
            )

    def box_yxyx(self, shape: tuple[int, int]) -> np.ndarray | None:
        """[min_y, min_x, max_y, max_x] clipped to an image, or None if nothing of it lies inside or it has no extent."""
        vertices = np.asarray(self.vertices_yx, dtype=float)
        limits = np.array(shape, dtype=float)
        low, high = np.clip(vertices.min(axis=0), 0, limits), np.clip(vertices.max(axis=0), 0, limits)
        return np.concatenate([low, high]) if (high - low > 0.5).all() else None

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """The pixels inside, as bool array of an image's shape."""
        from skimage.draw import polygon2mask

        vertices = np.asarray(self.vertices_yx, dtype=float)
        if self.kind == "ellipse":
            vertices = _ellipse_outline(vertices)
        return polygon2mask(shape, vertices)


def _ellipse_outline(corners: np.ndarray) -> np.ndarray:
    """The outline of the ellipse in a (possibly rotated) box of four corners."""
    centre = corners.mean(axis=0)
    half_a, half_b = (corners[1] - corners[0]) / 2, (corners[2] - corners[1]) / 2
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    return centre + np.cos(angles) * half_a + np.sin(angles) * half_b


@dataclass(frozen=True)
class Prompts:
    """All prompts on an image, volume or time series.

    Attributes:
        points: The points.
        shapes: The shapes.
    """

    points: tuple[Point, ...] = ()
    shapes: tuple[Shape, ...] = ()

    def __len__(self) -> int:
        return len(self.points) + len(self.shapes)

    @property
    def has_positive(self) -> bool:
        """Whether anything says where an object is."""
        return bool(self.shapes) or any(point.positive for point in self.points)

    def in_slice(self, i: int | None) -> Prompts:
        """The prompts in one slice or frame (None for an image)."""
        return Prompts(tuple(p for p in self.points if p.i == i), tuple(s for s in self.shapes if s.i == i))

    def of_track(self, track_id: int | None) -> Prompts:
        """The prompts of one track."""
        return Prompts(
            tuple(p for p in self.points if p.track_id == track_id),
            tuple(s for s in self.shapes if s.track_id == track_id),
        )

    def slices(self) -> list[int | None]:
        """The slices that have prompts, in order."""
        return sorted({p.i for p in (*self.points, *self.shapes)}, key=lambda i: -1 if i is None else i)

    def without_slice(self, i: int | None) -> Prompts:
        """The prompts of all other slices."""
        return Prompts(tuple(p for p in self.points if p.i != i), tuple(s for s in self.shapes if s.i != i))

    def to_json(self) -> dict[str, Any]:
        """A description that `from_json` reads; what has its default is left out."""
        return {"points": [_brief(p) for p in self.points], "shapes": [_brief(s) for s in self.shapes]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prompts:
        """The inverse of `to_json`."""
        return cls(tuple(Point(**p) for p in value["points"]), tuple(_shape(s) for s in value["shapes"]))


def _brief(prompt: Point | Shape) -> dict[str, Any]:
    values = asdict(prompt)
    if values.get("i") is None:
        del values["i"]
    if values["track_id"] is None and values["state"] == TRACK:
        del values["track_id"], values["state"]
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: Any) -> Any:
    """Coordinates with as many digits as a person can place them."""
    if isinstance(value, float):
        return round(value, 3)
    return [_rounded(v) for v in value] if isinstance(value, (tuple, list)) else value


def _shape(value: Mapping[str, Any]) -> Shape:
    shape = Shape(**value)
    return replace(shape, vertices_yx=tuple(tuple(map(float, vertex)) for vertex in shape.vertices_yx))


def rounded(prompts: Prompts) -> Prompts:
    """The prompts as the journal writes them down, so that what is replayed is what was segmented."""
    return Prompts.from_json(prompts.to_json())


def inside(points: Iterable[Point], shape: tuple[int, int]) -> tuple[Point, ...]:
    """The points that lie in a plane of this shape."""
    return tuple(p for p in points if -0.5 <= p.y <= shape[0] - 0.5 and -0.5 <= p.x <= shape[1] - 0.5)


def what_changed(before: Prompts, after: Prompts) -> str:
    """The difference between prompts, for a person."""
    for name in ("points", "shapes"):
        old, new = getattr(before, name), getattr(after, name)
        what = "point" if name == "points" else (new or old or [None])[-1]
        what = what if isinstance(what, str) or what is None else what.kind
        if len(old) != len(new):
            return f"{'Placed' if len(new) > len(old) else 'Removed'} a {what}"
        if old != new:
            return f"Changed a {what}"
    return "Changed prompts"
