"""The one place that knows the names of napari layers and the shapes of their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from micro_sam.errors import ImageError
from micro_sam.sam_annotator.session.diff import Window, united
from micro_sam.sam_annotator.session.image import AnnotatedImage
from micro_sam.sam_annotator.session.prompts import SHAPE_KINDS, Point, Prompts, Shape, rounded
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT, LAYER_PREFIX

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels, Layer, Points, Shapes

POINTS_NAME, SHAPES_NAME = "point_prompts", "prompts"
#: From the bottom up.
LABEL_NAMES = {COMMITTED: "committed_objects", AUTO: "auto_segmentation", CURRENT: "current_object"}
IMAGE_NAME = "image"
POSITIVE, NEGATIVE = "positive", "negative"
COLORS = {POSITIVE: "#2ecc40", NEGATIVE: "#ff4136"}
_CURRENT_COLORS = ("#00e5ff", "#ffd600", "#ff6d00", "#d500f9", "#76ff03", "#ff1744", "#2979ff", "#f50057")
_MAX_CHANNELS = 4
_SHAPE_MODES = {"rectangle": "add_rectangle", "ellipse": "add_ellipse", "polygon": "add_polygon"}
_FINISHED = ("added", "changed", "removed")


@dataclass(frozen=True)
class Hit:
    """An object under a position of the mouse.

    Attributes:
        key: The label array it belongs to; None if it is in a layer that is not part of the session yet.
        name: The layer.
        label: Its id, 0 for background.
        position: The pixel, in the order of the axes.
    """

    key: str | None
    name: str
    label: int
    position: tuple[int, ...]


class AnnotatorLayers:
    """The layers of one annotator in one viewer. It reads what a person does in them, and shows what the session says.

    Layers are held by reference, so that they may be renamed. One that is deleted is announced by `lost`.

    Args:
        viewer: The viewer.
        ndim: 2 for images, 3 for volumes and time series.
    """

    #: The prompts were changed by the person.
    prompts_changed = Signal(Prompts)
    #: (prompts): a prompt is being dragged or drawn.
    prompts_dragged = Signal(Prompts)
    #: (key, window, labels before): labels were painted by the person.
    painted = Signal(str, tuple, object)
    #: (key, labels): the whole content of a labels layer was replaced by a script.
    replaced = Signal(str, object)
    #: (layer names): layers of the annotator were deleted.
    lost = Signal(list)
    #: The image layers in the viewer, or the content of the annotated one, changed.
    images_changed = Signal()
    image_replaced = Signal()

    def __init__(self, viewer: Viewer, ndim: int = 2) -> None:
        self.viewer, self.ndim = viewer, ndim
        self.image: Image | None = None
        self.points: Points | None = None
        self.shapes: Shapes | None = None
        self.labels: dict[str, Labels] = {}
        self.keeps_committed = True
        self._arrays: Mapping[str, np.ndarray] = {}
        self._connections: list[tuple[Any, Callable]] = []
        self._muted = False
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            self._connect(event, self._on_layer_list)

    # The image

    def image_layers(self) -> list[Image]:
        """The image layers that can be annotated."""
        from napari.layers import Image

        return [layer for layer in self.viewer.layers if isinstance(layer, Image)]

    def read_image(self, layer: Image) -> AnnotatedImage:
        """What a layer shows, as an image of the annotator's dimensions.

        Raises:
            ImageError: It has too many or too few axes.
        """
        data = layer.data[0] if layer.multiscale else layer.data
        data = layer.metadata.get("micro_sam_array", data)
        channels = len(data.shape) > layer.ndim
        spatial = len(data.shape) - channels
        if not channels and spatial == self.ndim + 1 and data.shape[0] <= _MAX_CHANNELS:
            data, channels, spatial = _channels_last(data), True, self.ndim  # a slider over channels
        if spatial != self.ndim:
            raise ImageError(_wrong_axes(layer.name, tuple(data.shape), self.ndim))
        return AnnotatedImage.from_array(data, self.ndim, layer.name, np.asarray(layer.scale)[-self.ndim :])

    def set_image(self, layer: Image) -> None:
        """Annotate this layer."""
        if self.image is layer:
            return
        if self.image is not None:
            self._disconnect_from(self.image)
        self.image = layer
        self._connect(layer.events.data, lambda event: None if self._muted else self.image_replaced.emit())
        for name in ("scale", "translate", "rotate", "shear", "affine"):
            self._connect(getattr(layer.events, name), self._on_moved)
        self._on_moved()

    def _on_moved(self, event: Any = None) -> None:
        for layer in self.own():
            for name, value in self._transform().items():
                if not np.array_equal(np.asarray(getattr(layer, name)), np.asarray(value)):  # it draws everything anew
                    setattr(layer, name, value)

    def _transform(self) -> dict[str, Any]:
        """Where the layers lie in the world: where the image lies."""
        if self.image is None:
            return {}
        layer, n = self.image, self.ndim
        found = {"scale": np.asarray(layer.scale)[-n:], "translate": np.asarray(layer.translate)[-n:]}
        if layer.ndim == n:
            found |= {"rotate": layer.rotate, "shear": layer.shear, "affine": layer.affine}
        return found

    # Own layers

    def show(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Make the layers that are missing, and let labels layers show these arrays."""
        self._arrays = arrays
        with self.muted(), self._keeping_selection():
            for key, name in LABEL_NAMES.items():
                self._show_labels(key, name)
            if self.shapes is None:
                self.shapes = self._add_shapes()
            if self.points is None:
                self.points = self._add_points()

    def _show_labels(self, key: str, name: str) -> None:
        layer = self.labels.get(key)
        if layer is None:
            self.labels[key] = layer = self._add_labels(key, name)
        elif layer.data is not self._arrays[key]:
            layer.data = self._arrays[key]
            for attribute, value in self._transform().items():
                setattr(layer, attribute, value)

    def _add_labels(self, key: str, name: str) -> Labels:
        options: dict[str, Any] = {"opacity": 0.6}
        if key == CURRENT:
            from napari.utils.colormaps import CyclicLabelColormap

            colors = np.array([_rgba("#00000000"), *map(_rgba, _CURRENT_COLORS)])
            options = {"opacity": 0.7, "colormap": CyclicLabelColormap(colors=colors)}
        layer = self.viewer.add_labels(self._arrays[key], name=name, **options, **self._transform())
        self._connect(layer.events.paint, lambda event: self._on_paint(layer, event))
        self._connect(layer.events.data, lambda event: self._on_labels_data(layer))
        return layer

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
        layer.mouse_drag_callbacks.append(self._while_dragging)
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
        layer.mouse_drag_callbacks.append(self._while_dragging)
        layer.mode = "add_rectangle"
        return layer

    def _point_size(self) -> float:
        shape = next(iter(self._arrays.values())).shape
        return max(4.0, max(shape[-2:]) / 70)

    def own(self) -> list[Layer]:
        """The layers that are there, from the bottom up."""
        layers = [*self.labels.values(), self.shapes, self.points]
        return [layer for layer in layers if layer is not None]

    def retire(self) -> None:
        """Keep committed labels of an earlier image as a layer of the person, and take the other layers away.

        With ``keeps_committed`` off all layers stay, for the next image of the same kind: making them anew takes seconds.
        """
        if not self.keeps_committed:
            self.write_prompts(Prompts())
            return
        with self.muted():
            for key, layer in list(self.labels.items()):
                self._disconnect_from(layer)
                if key == COMMITTED and np.any(layer.data):
                    layer.name, layer.visible = f"{LABEL_NAMES[COMMITTED]} of {self._image_name()}", False
                elif layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
            for layer in (self.points, self.shapes):
                if layer is not None and layer in self.viewer.layers:
                    self._disconnect_from(layer)
                    self.viewer.layers.remove(layer)
        self.labels, self.points, self.shapes = {}, None, None

    def _image_name(self) -> str:
        return IMAGE_NAME if self.image is None else self.image.name

    # Prompts

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

    def _slice_of(self, row: np.ndarray) -> int | None:
        return None if self.ndim == 2 else int(np.round(row[0]))

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

    def _while_dragging(self, layer: Layer, event: Any) -> Iterator[None]:
        yield
        while event.type == "mouse_move":
            if layer.mode in ("select", "direct", "add_rectangle", "add_ellipse"):
                self.prompts_dragged.emit(self.read_prompts())
            yield

    # Labels

    def refresh(self, key: str, window: Window) -> None:
        """Labels changed inside a window."""
        layer = self.labels.get(key) or self._foreign(key)
        if layer is not None:
            layer.refresh(thumbnail=False, extent=False, highlight=False)

    def _foreign(self, key: str) -> Labels | None:
        from napari.layers import Labels

        name = key.removeprefix(LAYER_PREFIX)
        return next((x for x in self.viewer.layers if isinstance(x, Labels) and x.name == name), None)

    def add_foreign(self, name: str, array: np.ndarray) -> None:
        """Show labels of another layer that a journal brought back."""
        layer = self._foreign(LAYER_PREFIX + name)
        if layer is None:
            self.viewer.add_labels(array, name=name, **self._transform())
        else:
            layer.data = array

    def _key_of(self, layer: Layer) -> str | None:
        return next((key for key, own in self.labels.items() if own is layer), None)

    def hit(self, position: Sequence[float]) -> Hit | None:
        """The object at a position in the world: the first that is not background, in the order of the layer list from
        the top; the current object does not count. On background the committed labels."""
        from napari.layers import Labels

        background = None
        for layer in reversed(self.viewer.layers):
            key = self._key_of(layer)
            if not isinstance(layer, Labels) or not layer.visible or layer.multiscale or key == CURRENT:
                continue
            pixel = self._pixel(layer, position)
            if pixel is None:
                continue
            found = Hit(key, layer.name, int(layer.data[pixel]), pixel)
            if found.label:
                return found
            background = found if key == COMMITTED else background
        return background

    def _pixel(self, layer: Labels, position: Sequence[float]) -> tuple[int, ...] | None:
        where = np.round(layer.world_to_data(np.asarray(position)[-layer.ndim :])).astype(int)
        inside = layer.ndim == self.ndim and all(0 <= w < n for w, n in zip(where, layer.data.shape))
        return tuple(int(w) for w in where) if inside else None

    def foreign_array(self, name: str) -> np.ndarray:
        """The data of a labels layer that is not the annotator's."""
        return self._foreign(LAYER_PREFIX + name).data

    def to_plane(self, positions: Sequence[Sequence[float]]) -> tuple[np.ndarray, int | None]:
        """Positions in the world as (n, 2) pixels in (y, x), and the slice they lie in."""
        layer = self.labels[COMMITTED]
        rows = np.array([layer.world_to_data(np.asarray(p)[-self.ndim :]) for p in positions])
        return rows[:, -2:], self._slice_of(rows[0])

    def _on_paint(self, layer: Labels, event: Any) -> None:
        key = self._key_of(layer)
        if key is None or self._muted:
            return
        window, before = _before_painting(layer.data, event.value)
        if window is not None:
            self.painted.emit(key, window, before)

    def _on_labels_data(self, layer: Labels) -> None:
        key = self._key_of(layer)
        if key is None or self._muted or layer.data is self._arrays[key]:
            return
        new = np.asarray(layer.data)
        with self.muted():
            layer.data = self._arrays[key]
        self.replaced.emit(key, new)

    # The view

    def current_slice(self) -> int | None:
        """The slice that is looked at; None in an image."""
        if self.ndim == 2 or COMMITTED not in self.labels:
            return None
        row = self.labels[COMMITTED].world_to_data(np.asarray(self.viewer.dims.point)[-self.ndim :])
        return int(np.clip(np.round(row[0]), 0, self._arrays[COMMITTED].shape[0] - 1))

    def go_to(self, i: int) -> None:
        """Look at a slice or frame."""
        layer = self.labels.get(COMMITTED) or self.image
        if layer is not None and self.ndim > 2:
            place = layer.world_to_data(np.asarray(self.viewer.dims.point)[-layer.ndim :])
            place = (*place[: -self.ndim], i, *place[-self.ndim + 1 :])
            self.viewer.dims.set_point(self.viewer.dims.ndim - self.ndim, float(layer.data_to_world(place)[-self.ndim]))

    def focus(self) -> tuple[float, ...] | None:
        """What is looked at, (y, x) or (i, y, x) in pixels. May be called in any thread."""
        layer = self.image
        if layer is None:
            return None
        world = np.array(self.viewer.dims.point, dtype=float)
        world[-2:] = np.asarray(camera_of(self.viewer).center)[-2:]
        row = np.asarray(layer.world_to_data(world[-layer.ndim :]))[-self.ndim :]
        return tuple(float(v) for v in row)

    def units(self) -> str | None:
        """The unit of length of the image's scale, None for pixels."""
        unit = None if self.image is None else str(self.image.units[-1])
        return None if unit in (None, "pixel") else unit

    def use(self, tool: str) -> None:
        """Make a prompt tool active: "point", "rectangle", "ellipse" or "polygon"."""
        layer = self.points if tool == "point" else self.shapes
        if layer is None:
            return
        self.viewer.layers.selection = {layer}
        self.viewer.layers.selection.active = layer
        layer.mode = "add" if tool == "point" else _SHAPE_MODES[tool]

    def rest(self) -> None:
        """Let clicks place nothing, for tools of our own."""
        layer = self.labels.get(COMMITTED)
        if layer is not None:
            self.viewer.layers.selection = {layer}
            self.viewer.layers.selection.active = layer
            layer.mode = "pan_zoom"

    # Housekeeping

    @contextmanager
    def muted(self) -> Iterator[None]:
        """What happens to layers inside is not taken for what the person does."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    @contextmanager
    def _keeping_selection(self) -> Iterator[None]:
        """New layers do not change which one is active, unless there was none of ours."""
        active = self.viewer.layers.selection.active
        yield
        target = active if active in self.own() else self.points
        if target is not None and target in self.viewer.layers:
            self.viewer.layers.selection = {target}
            self.viewer.layers.selection.active = target

    def _on_layer_list(self, event: Any) -> None:
        if self._muted:
            return
        missing = [layer for layer in self.own() if layer not in self.viewer.layers]
        if self.image is not None and self.image not in self.viewer.layers:
            self._disconnect_from(self.image)
            self.image = None
        self.images_changed.emit()
        if missing:
            self._forget(missing)
            self.lost.emit([layer.name for layer in missing])

    def _forget(self, missing: Sequence[Layer]) -> None:
        for layer in missing:
            self._disconnect_from(layer)
        self.labels = {key: layer for key, layer in self.labels.items() if layer not in missing}
        self.points = None if self.points in missing else self.points
        self.shapes = None if self.shapes in missing else self.shapes

    def _connect(self, emitter: Any, listener: Callable) -> None:
        emitter.connect(listener)
        self._connections.append((emitter, listener))

    def _disconnect_from(self, layer: Layer) -> None:
        own = set(map(id, layer.events.emitters.values()))
        for emitter, listener in [pair for pair in self._connections if id(pair[0]) in own]:
            emitter.disconnect(listener)
            self._connections.remove((emitter, listener))
        if self._while_dragging in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._while_dragging)

    def close(self) -> None:
        """Let go of the viewer; the layers stay."""
        for layer in self.own():
            if self._while_dragging in layer.mouse_drag_callbacks:
                layer.mouse_drag_callbacks.remove(self._while_dragging)
        for emitter, listener in self._connections:
            emitter.disconnect(listener)
        self._connections.clear()
        self.labels, self.points, self.shapes, self.image, self._arrays = {}, None, None, None, {}


def _before_painting(data: np.ndarray, atoms: Sequence[Any]) -> tuple[Window | None, np.ndarray]:
    """What a labels layer held where it was painted, from the layer's own history (old and new kinds of napari)."""
    windows = [_atom_window(atom, data.shape) for atom in atoms]
    window = united([w for w in windows if all(s.stop > s.start for s in w)])
    if window is None:
        return None, np.zeros(0)
    before = np.array(data[window])
    origin = [s.start for s in window]
    for atom, own in reversed(list(zip(atoms, windows))):
        if hasattr(atom, "slice_key"):
            block = before[tuple(slice(s.start - o, s.stop - o) for s, o in zip(own, origin))]
            if atom.mask is None:
                block[...] = atom.old_values
            else:
                block[np.asarray(atom.mask).reshape(block.shape)] = atom.old_values
        else:
            indices, old, _ = atom
            before[tuple(np.asarray(axis) - o for axis, o in zip(indices, origin))] = old
    return window, before


def _atom_window(atom: Any, shape: Sequence[int]) -> Window:
    if hasattr(atom, "slice_key"):
        return tuple(
            slice(*s.indices(n)[:2]) if isinstance(s, slice) else slice(int(s), int(s) + 1)
            for s, n in zip(atom.slice_key, shape)
        )
    return tuple(slice(int(np.min(axis)), int(np.max(axis)) + 1) if np.size(axis) else slice(0, 0) for axis in atom[0])


def _channels_last(data: Any) -> Any:
    if hasattr(data, "transpose"):
        return data.transpose(*range(1, len(data.shape)), 0)
    return np.moveaxis(np.asarray(data), 0, -1)


def _rgba(color: str) -> np.ndarray:
    from napari.utils.colormaps.standardize_color import transform_color

    return transform_color(color)[0]


def _wrong_axes(name: str, shape: tuple[int, ...], ndim: int) -> str:
    wanted = {2: "an image (YX or RGB)", 3: "a volume or time series (ZYX or TYX)"}[ndim]
    other = "the 3d or tracking annotator, or choose one plane of it" if len(shape) > ndim else "the 2d annotator"
    return f"The layer '{name}' has the shape {shape}, but this annotator takes {wanted}; use {other}."


def add_image(
    viewer: Viewer, array: Any, ndim: int, name: str = IMAGE_NAME, scale: Sequence[float] | None = None
) -> Image:
    """Show an array as an image layer: grey, or with channels on the last axis as colours.

    Args:
        viewer: Where.
        array: YX, YXC, ZYX or ZYXC, numpy or lazy.
        ndim: 2 or 3.
        name: The layer's name.
        scale: The size of a pixel.
    """
    options = {"name": name, **({} if scale is None else {"scale": tuple(scale)[-ndim:]})}
    if len(array.shape) == ndim:
        return viewer.add_image(array, **options)
    layer = viewer.add_image(_displayable(array), rgb=True, **options)
    layer.metadata["micro_sam_array"] = array
    return layer


def _displayable(array: Any) -> Any:
    """Channels as red, green and blue in 8 bits."""
    shown = np.asarray(array[..., : min(3, array.shape[-1])])
    if shown.shape[-1] == 2:
        shown = np.concatenate([shown, np.zeros_like(shown[..., :1])], axis=-1)
    elif shown.shape[-1] == 1:
        shown = np.repeat(shown, 3, axis=-1)
    if shown.dtype == np.uint8:
        return shown
    low, high = float(shown.min()), float(shown.max())
    return ((shown.astype(np.float32) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def camera_of(viewer: Viewer) -> Any:
    """The camera, which has its own place since napari 0.9."""
    return getattr(viewer, "scene", viewer).camera
