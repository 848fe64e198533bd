"""Labels: those of the annotator and those of other layers; what is painted, and what is under the mouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.sam_annotator.layers.base import LayersBase
from micro_sam.sam_annotator.session.diff import Window, united
from micro_sam.sam_annotator.session.state import COMMITTED, CURRENT, LAYER_PREFIX

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

_CURRENT_COLORS = ("#00e5ff", "#ffd600", "#ff6d00", "#d500f9", "#76ff03", "#ff1744", "#2979ff", "#f50057")


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


class LabelsPart(LayersBase):
    """Labels: those of the annotator and those of other layers; what is painted, and what is under the mouse."""

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

    def foreign_array(self, name: str) -> np.ndarray:
        """The data of a labels layer that is not the annotator's."""
        return self._foreign(LAYER_PREFIX + name).data

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

    def selected_labels(self) -> Hit | None:
        """The labels layer that is selected in the layer list; None if another kind of layer is, or the current object."""
        from napari.layers import Labels

        layer = self.viewer.layers.selection.active
        if not isinstance(layer, Labels) or layer.multiscale or self._key_of(layer) == CURRENT:
            return None
        return Hit(self._key_of(layer), layer.name, 0, ())

    def _pixel(self, layer: Labels, position: Sequence[float]) -> tuple[int, ...] | None:
        where = np.round(layer.world_to_data(np.asarray(position)[-layer.ndim :])).astype(int)
        inside = layer.ndim == self.ndim and all(0 <= w < n for w, n in zip(where, layer.data.shape))
        return tuple(int(w) for w in where) if inside else None

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

    def rest(self) -> None:
        """Let clicks place nothing, for tools of our own."""
        layer = self.labels.get(COMMITTED)
        if layer is not None:
            self.viewer.layers.selection = {layer}
            self.viewer.layers.selection.active = layer
            layer.mode = "pan_zoom"


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


def _rgba(color: str) -> np.ndarray:
    from napari.utils.colormaps.standardize_color import transform_color

    return transform_color(color)[0]
