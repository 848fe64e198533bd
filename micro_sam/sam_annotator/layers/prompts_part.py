"""Prompts as points and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.sam_annotator.layers.base import LayersBase
from micro_sam.sam_annotator.layers.names import COLORS, NEGATIVE, POINTS_NAME, POSITIVE, SHAPES_NAME
from micro_sam.sam_annotator.session.prompts import SHAPE_KINDS, Point, Prompts, Shape, rounded

if TYPE_CHECKING:
    from napari.layers import Layer, Points, Shapes

_SHAPE_MODES = {"rectangle": "add_rectangle", "ellipse": "add_ellipse", "polygon": "add_polygon"}
_FINISHED = ("added", "changed", "removed")


class PromptsPart(LayersBase):
    """Prompts as points and shapes."""

    def _add_points(self) -> Points:
        layer = self.viewer.add_points(
            ndim=self.ndim,
            name=POINTS_NAME,
            features={"label": np.array([], dtype=object)},
            feature_defaults={"label": POSITIVE},
            property_choices={"label": [POSITIVE, NEGATIVE]},
            face_color="label",
            face_color_cycle=list(COLORS.values()),
            border_color="white",
            border_width=0.15,
            size=self._point_size(),
            **self._transform(),
        )
        layer.face_color_mode = "cycle"
        # In a slice without points napari draws one of size 0, which a lower limit would make visible.
        layer.canvas_size_limits = (9 if self.ndim == 2 else 0, 18)
        self._connect(layer.events.data, self._on_prompts)
        self._connect(layer.events.mode, lambda event: self._watch_dragging(layer))
        layer.mode = "add"
        return layer

    def _add_shapes(self) -> Shapes:
        layer = self.viewer.add_shapes(
            ndim=self.ndim,
            name=SHAPES_NAME,
            edge_color=COLORS[POSITIVE],
            face_color="transparent",
            edge_width=max(1.0, self._point_size() / 6),
            **self._transform(),
        )
        self._connect(layer.events.data, self._on_prompts)
        self._connect(layer.events.mode, lambda event: self._watch_dragging(layer))
        layer.mode = "add_rectangle"
        return layer

    def _point_size(self) -> float:
        shape = next(iter(self._arrays.values())).shape
        return max(4.0, max(shape[-2:]) / 70)

    def read_prompts(self) -> Prompts:
        """The prompts as they are drawn."""
        points: tuple[Point, ...] = ()
        if self.points is not None and len(self.points.data):
            labels = self.points.features["label"].to_numpy()
            points = tuple(self._point(row, label) for row, label in zip(self.points.data, labels))
        return Prompts(points, tuple(self._read_shapes()))

    def _point(self, row: np.ndarray, label: str) -> Point:
        return Point(float(row[-2]), float(row[-1]), label != NEGATIVE, self._slice_of(row))

    def _read_shapes(self) -> Iterator[Shape]:
        if self.shapes is None:
            return
        for vertices, kind in zip(self.shapes.data, self.shapes.shape_type):
            if kind in SHAPE_KINDS:
                corners = tuple((float(v[-2]), float(v[-1])) for v in vertices)
                yield Shape(kind, corners, self._slice_of(vertices[0]))

    def write_prompts(self, prompts: Prompts) -> None:
        """Draw these prompts."""
        if self.points is None or self.shapes is None or rounded(self.read_prompts()) == prompts:
            return
        with self.muted():
            self._write_points(prompts.points)
            drawn = [(self._rows(shape.vertices_yx, shape.i), shape.kind) for shape in prompts.shapes]
            mode = self.shapes.mode
            self.shapes.data = []
            if drawn:
                self.shapes.add(drawn)
            self.shapes.mode = mode

    def _write_points(self, points: Sequence[Point]) -> None:
        layer = self.points
        rows = [self._rows(((point.y, point.x),), point.i)[0] for point in points]
        default = self.point_label
        layer.selected_data = set()
        layer.data = np.array(rows).reshape(len(rows), self.ndim)
        if points:
            labels = [POSITIVE if point.positive else NEGATIVE for point in points]
            layer.features = {"label": np.array(labels, dtype=object)}
            layer.refresh_colors()
        self.point_label = default

    def _rows(self, vertices_yx: Sequence[tuple[float, float]], i: int | None) -> np.ndarray:
        rows = np.array(vertices_yx, dtype=float)
        return rows if self.ndim == 2 else np.column_stack([np.full(len(rows), i), rows])

    @property
    def point_label(self) -> str:
        """What the next point will be: "positive" or "negative"."""
        if self.points is None:
            return POSITIVE
        return str(self.points.feature_defaults["label"].iloc[0])

    @point_label.setter
    def point_label(self, label: str) -> None:
        if self.points is not None:
            self.points.feature_defaults = {"label": label}

    def _on_prompts(self, event: Any) -> None:
        action = getattr(event, "action", None)
        if not self._muted and (action is None or str(getattr(action, "value", action)) in _FINISHED):
            self.prompts_changed.emit(self.read_prompts())

    def _watch_dragging(self, layer: Layer) -> None:
        """Look at what napari did with a move of the mouse: the handler that a mode brings has to come before ours."""
        if self._while_dragging in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._while_dragging)
        layer.mouse_drag_callbacks.append(self._while_dragging)

    def _while_dragging(self, layer: Layer, event: Any) -> Iterator[None]:
        yield
        while event.type == "mouse_move":
            if layer.mode in ("select", "direct", "add_rectangle", "add_ellipse"):
                self.prompts_dragged.emit(self.read_prompts())
            yield

    def _disconnect_from(self, layer: Layer) -> None:
        super()._disconnect_from(layer)
        if self._while_dragging in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._while_dragging)

    def use(self, tool: str) -> None:
        """Make a prompt tool active: "point", "rectangle", "ellipse" or "polygon"."""
        layer = self.points if tool == "point" else self.shapes
        if layer is None:
            return
        self.viewer.layers.selection = {layer}
        self.viewer.layers.selection.active = layer
        layer.mode = "add" if tool == "point" else _SHAPE_MODES[tool]
