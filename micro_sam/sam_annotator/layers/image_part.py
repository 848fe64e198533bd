"""The image that is annotated, and where it lies in the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import ImageError
from micro_sam.sam_annotator.layers.base import LayersBase, camera_of
from micro_sam.sam_annotator.layers.names import IMAGE_NAME
from micro_sam.sam_annotator.session.image import AnnotatedImage

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

_MAX_CHANNELS = 4


class ImagePart(LayersBase):
    """The image that is annotated, and where it lies in the world."""

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
        for name in ("scale", "translate", "rotate", "shear", "affine", "units"):
            self._connect(getattr(layer.events, name), self._on_moved)
        self._on_moved()

    def _on_moved(self, event: Any = None) -> None:
        for layer in self.own():
            for name, value in self._transform().items():
                if not np.array_equal(np.asarray(getattr(layer, name)), np.asarray(value)):  # it draws everything anew
                    setattr(layer, name, value)

    def _image_name(self) -> str:
        return IMAGE_NAME if self.image is None else self.image.name

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


def _channels_last(data: Any) -> Any:
    if hasattr(data, "transpose"):
        return data.transpose(*range(1, len(data.shape)), 0)
    return np.moveaxis(np.asarray(data), 0, -1)


def _wrong_axes(name: str, shape: tuple[int, ...], ndim: int) -> str:
    wanted = {2: "an image (YX or RGB)", 3: "a volume or time series (ZYX or TYX)"}[ndim]
    other = "the 3d or tracking annotator, or choose one plane of it" if len(shape) > ndim else "the 2d annotator"
    return f"The layer '{name}' has the shape {shape}, but this annotator takes {wanted}; use {other}."


def add_image(
    viewer: Viewer,
    array: Any,
    ndim: int,
    name: str = IMAGE_NAME,
    scale: Sequence[float] | None = None,
    units: Sequence[str] | None = None,
) -> Image:
    """Show an array as an image layer: grey, or with channels on the last axis as colours.

    Args:
        viewer: Where.
        array: YX, YXC, ZYX or ZYXC, numpy or lazy.
        ndim: 2 or 3.
        name: The layer's name.
        scale: The size of a pixel.
        units: Its unit along each axis; pixels by default.
    """
    options = {"name": name, **({} if scale is None else {"scale": tuple(scale)[-ndim:]})}
    options |= {} if units is None else {"units": tuple(units)}
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
