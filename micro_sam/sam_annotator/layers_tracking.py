"""Layers of the tracking annotator: prompts carry a track and a state, and committed tracks are drawn as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from micro_sam.sam_annotator.layers import NEGATIVE, POSITIVE, AnnotatorLayers
from micro_sam.sam_annotator.session.prompts import DIVISION, SHAPE_KINDS, TRACK, Point, Prompts, Shape

if TYPE_CHECKING:
    from napari.layers import Image, Points, Shapes, Tracks

TRACKS_NAME = "tracks"
STATES = (TRACK, DIVISION)
STATE_COLORS = {TRACK: "white", DIVISION: "#ffd600"}
_TEXT = {"string": "{track_id}", "size": 8, "color": "white", "anchor": "upper_left", "translation": [-4, 4]}


class TrackingLayers(AnnotatorLayers):
    """The layers of a time series, see `AnnotatorLayers`."""

    #: The prompt that napari takes as the default of the next ones changed.
    chosen = Signal()

    def __init__(self, viewer: Any, ndim: int = 3) -> None:
        super().__init__(viewer, ndim)
        self.tracks: Tracks | None = None
        self._active, self._state = 1, TRACK

    def set_image(self, layer: Image) -> None:
        """Annotate this layer."""
        super().set_image(layer)
        if self.viewer.dims.ndim == 3:
            self.viewer.dims.axis_labels = ("time", "y", "x")

    # Prompts

    def _add_points(self) -> Points:
        layer = super()._add_points()
        n_points = len(layer.data)
        layer.features = {**_columns(n_points, self._active, self._state), "label": np.full(n_points, POSITIVE, object)}
        layer.border_color_cycle = list(STATE_COLORS.values())
        layer.border_color = "state"
        layer.border_color_mode = "cycle"
        layer.text = {**_TEXT, "translation": [0, -4, 4]}
        self.points = layer
        self._write_defaults()
        self._connect(layer.events.feature_defaults, lambda event: None if self._muted else self.chosen.emit())
        return layer

    def _add_shapes(self) -> Shapes:
        layer = super()._add_shapes()
        layer.features = _columns(len(layer.data), self._active, self._state)
        layer.feature_defaults = {"track_id": str(self._active), "state": self._state}
        return layer

    @property
    def active_track(self) -> int:
        """The track that the next prompts belong to."""
        return self._active

    @property
    def state(self) -> str:
        """What the next prompts say: "track", or "division" in the last frame of a mother."""
        return self._state

    def next_prompts(self, track: int, state: str = TRACK) -> None:
        """Say what the next prompts belong to and say."""
        self._active, self._state = int(track), state
        self._write_defaults()

    def take_defaults(self) -> bool:
        """Take over what napari has as the default of the next point; whether it is something else than before."""
        if self.points is None or "track_id" not in self.points.feature_defaults:
            return False
        track, state = (str(self.points.feature_defaults[name].iloc[0]) for name in ("track_id", "state"))
        if not track.isdigit() or (int(track), state) == (self._active, self._state):
            return False
        self.next_prompts(int(track), state)
        return True

    def _write_defaults(self, label: str | None = None) -> None:
        own = {"track_id": str(self._active), "state": self._state}
        with self.muted():
            if self.points is not None:
                self.points.feature_defaults = {"label": label or self.point_label, **own}
            if self.shapes is not None:
                self.shapes.feature_defaults = own

    @property
    def point_label(self) -> str:
        """What the next point will be: "positive" or "negative"."""
        if self.points is None or "label" not in self.points.feature_defaults:
            return POSITIVE
        found = str(self.points.feature_defaults["label"].iloc[0])
        return found if found == NEGATIVE else POSITIVE

    @point_label.setter
    def point_label(self, label: str) -> None:
        self._write_defaults(label)

    def read_prompts(self) -> Prompts:
        """The prompts as they are drawn, with their tracks and states."""
        plain = super().read_prompts()
        points = [replace(p, **said) for p, said in zip(plain.points, _said(self.points))]
        kinds = [] if self.shapes is None else list(self.shapes.shape_type)
        said = [found for found, kind in zip(_said(self.shapes), kinds) if kind in SHAPE_KINDS]
        return Prompts(tuple(points), tuple(replace(s, **own) for s, own in zip(plain.shapes, said)))

    def write_prompts(self, prompts: Prompts) -> None:
        """Draw these prompts."""
        super().write_prompts(prompts)
        if self.shapes is not None and len(self.shapes.data) == len(prompts.shapes):
            with self.muted():
                self.shapes.features = _features(prompts.shapes)
                self._write_defaults()

    def _write_points(self, points: Sequence[Point]) -> None:
        layer, default = self.points, self.point_label
        rows = [self._rows(((point.y, point.x),), point.i)[0] for point in points]
        layer.selected_data = set()
        layer.data = np.array(rows).reshape(len(rows), self.ndim)
        labels = [POSITIVE if point.positive else NEGATIVE for point in points]
        layer.features = {"label": np.array(labels, dtype=object), **_features(points)}
        layer.refresh_colors()
        self._write_defaults(default)

    # Tracks

    def show_tracks(self, points: np.ndarray, mothers: Mapping[int, int]) -> None:
        """Draw committed tracks and which come from which.

        Args:
            points: One row per track and frame, sorted: track, frame, y, x.
            mothers: Daughter -> mother.
        """
        if self.tracks is not None and self.tracks not in self.viewer.layers:
            self.tracks = None
        with self.muted(), self._keeping_selection():
            if not len(points):
                self._remove_tracks()
                return
            graph = {daughter: [mother] for daughter, mother in mothers.items()}
            if self.tracks is None:
                self.tracks = self.viewer.add_tracks(points, graph=graph, name=TRACKS_NAME, **self._transform())
                self.tracks.tail_width, self.tracks.tail_length = 3, max(10, len(np.unique(points[:, 1])))
            else:
                self.tracks.graph = {}
                self.tracks.data = points
                self.tracks.graph = graph

    def _remove_tracks(self) -> None:
        tracks, self.tracks = self.tracks, None
        if tracks is not None and tracks in self.viewer.layers:
            self.viewer.layers.remove(tracks)

    def _on_moved(self, event: Any = None) -> None:
        super()._on_moved(event)
        if self.tracks is not None:
            for name, value in self._transform().items():
                setattr(self.tracks, name, value)

    def retire(self) -> None:
        """Keep committed labels of an earlier series as a layer of the person, and take the other layers away."""
        with self.muted():
            self._remove_tracks()
        super().retire()

    def close(self) -> None:
        """Let go of the viewer; the layers stay."""
        super().close()
        self.tracks = None

    # The view

    def go_to(self, frame: int) -> None:
        """Look at a frame."""
        layer = next(iter(self.labels.values()), None)
        if layer is not None:
            world = layer.data_to_world((frame, 0, 0))[0]
            self.viewer.dims.set_point(self.viewer.dims.ndim - 3, world)


def _columns(n_prompts: int, track: int, state: str) -> dict[str, np.ndarray]:
    return {
        "track_id": np.full(n_prompts, str(track), dtype=object),
        "state": np.full(n_prompts, state, dtype=object),
    }


def _features(prompts: Sequence[Point | Shape]) -> dict[str, np.ndarray]:
    return {
        "track_id": np.array([str(p.track_id) for p in prompts], dtype=object),
        "state": np.array([p.state for p in prompts], dtype=object),
    }


def _said(layer: Points | Shapes | None) -> Iterator[dict[str, Any]]:
    """Track and state of each prompt in a layer."""
    if layer is None or not len(layer.data):
        return
    for track, state in zip(layer.features["track_id"], layer.features["state"]):
        number = str(track)
        yield {
            "track_id": int(number) if number.isdigit() else None,
            "state": DIVISION if state == DIVISION else TRACK,
        }
