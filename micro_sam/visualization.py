"""What embeddings look like: their principal components as pictures that lie over the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from micro_sam.embeddings.access import ImageEmbeddings, get_tiles_in_mask, get_tiling, is_tiled, n_slices
from micro_sam.embeddings.tiling import Tile
from micro_sam.errors import ParameterError

__all__ = ["compute_pca", "project_embeddings_for_visualization"]


def compute_pca(embeddings: np.ndarray, n_components: int = 3, as_rgb: bool = True) -> np.ndarray:
    """Principal components of embeddings, taken over all their pixels.

    Args:
        embeddings: (C, H, W) of an image or (Z, C, H, W) of slices; axes of length 1 before the channels are dropped.
        n_components: How many components.
        as_rgb: Stretch each component from its smallest to its largest value to 0 ... 255, as uint8. With three
            components that is an RGB image.

    Returns:
        (H, W, n_components) or (Z, H, W, n_components), uint8 or float32.

    Raises:
        ParameterError: The shape is another one, or there are not that many components.
    """
    values = np.asarray(embeddings, dtype=np.float32)
    if values.ndim == 5 and values.shape[1] == 1:
        values = values[:, 0]
    elif values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (3, 4):
        raise ParameterError(f"Expected embeddings (C, H, W) or (Z, C, H, W), got the shape {np.shape(embeddings)}.")
    pixels = np.moveaxis(values, -3, -1)
    pca = _Pca(pixels.shape[-1], n_components)
    pca.add(pixels)
    return _shown(pca.project(pixels), as_rgb)


def project_embeddings_for_visualization(
    image_embeddings: ImageEmbeddings, n_components: int = 3, as_rgb: bool = True
) -> tuple[np.ndarray, tuple[float, ...]]:
    """A picture of the embeddings of an image, volume or time series, tiled or not, and its scale.

    Embeddings are read slice by slice and tile by tile, twice. What the encoder's padding got is left out; a pixel belongs to
    the tile that is responsible for it; tiles that were not computed stay 0.

    Args:
        image_embeddings: From `precompute_image_embeddings`.
        n_components: How many principal components.
        as_rgb: As in `compute_pca`.

    Returns:
        (h, w, n_components) or (Z, h, w, n_components), and the size of its pixels in those of the image, (y, x) or
        (1, y, x): the ``scale`` of a napari layer.

    Raises:
        ParameterError: There are not that many components.
    """
    slices = n_slices(image_embeddings)
    grid = _Grid.of(image_embeddings)
    pca = _Pca(256, n_components)
    planes = [None] if slices is None else range(slices)
    for i in planes:
        for _, pixels in _parts(image_embeddings, grid, i):
            pca.add(pixels)
    leading = () if slices is None else (slices,)
    picture = np.full((*leading, *grid.shape, n_components), np.nan, np.float32)
    for i in planes:
        for window, pixels in _parts(image_embeddings, grid, i):
            picture[(..., *window, slice(None)) if i is None else (i, *window)] = pca.project(pixels)
    return _shown(picture, as_rgb), (1.0,) * len(leading) + grid.scale


@dataclass(frozen=True)
class _Grid:
    """The picture's pixels: how many, and how large in pixels of the image, both (y, x)."""

    shape: tuple[int, int]
    scale: tuple[float, float]

    @classmethod
    def of(cls, image_embeddings: ImageEmbeddings) -> _Grid:
        if not is_tiled(image_embeddings):
            height, width = (int(n) for n in image_embeddings["original_size"])
            side, plane = max(height, width), (height, width)
        else:
            tiling = get_tiling(image_embeddings)
            side, plane = max(max(tile.shape) for tile in tiling), tiling.shape
        shape = tuple(max(1, round(64 * n / side)) for n in plane)
        return cls(shape, tuple(n / k for n, k in zip(plane, shape)))

    def window(self, part: tuple[slice, slice]) -> tuple[slice, slice]:
        """The pixels whose centres lie in a part of the image."""
        return tuple(
            slice(int(np.ceil(p.start / s - 0.5)), min(n, int(np.ceil(p.stop / s - 0.5))))
            for p, s, n in zip(part, self.scale, self.shape)
        )


def _parts(
    image_embeddings: ImageEmbeddings, grid: _Grid, i: int | None
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Windows of the picture in slice i, and the features of their pixels (h, w, C)."""
    features = image_embeddings["features"]
    if not is_tiled(image_embeddings):
        whole = np.asarray(features[...] if i is None else features[i])[0]
        window = tuple(slice(0, n) for n in grid.shape)
        yield window, _sampled(whole, image_embeddings["original_size"], grid, window, (0, 0))
        return
    tiling = get_tiling(image_embeddings)
    for tile_id in get_tiles_in_mask(image_embeddings, i):
        tile: Tile = tiling.tile(tile_id)
        array = features[str(tile_id)]
        whole = np.asarray(array[...] if i is None else array[i])[0]
        window = grid.window(tile.inner)
        yield window, _sampled(whole, tile.shape, grid, window, tile.offset)


def _sampled(
    features: np.ndarray,
    shape: Sequence[int],
    grid: _Grid,
    window: tuple[slice, slice],
    offset: tuple[int, int],
) -> np.ndarray:
    """The nearest feature at every pixel of a window; the longest side of ``shape`` has 64 features."""
    size = max(int(n) for n in shape) / features.shape[-1]
    rows, columns = (
        np.clip((((np.arange(w.start, w.stop) + 0.5) * s - o) / size).astype(int), 0, features.shape[-1] - 1)
        for w, s, o in zip(window, grid.scale, offset)
    )
    return np.moveaxis(features[:, rows][:, :, columns], 0, -1)


class _Pca:
    """Principal components from sums, so that not all pixels need be there at once."""

    def __init__(self, n_channels: int, n_components: int) -> None:
        if not 1 <= n_components <= n_channels:
            raise ParameterError(f"n_components is between 1 and {n_channels}, got {n_components}.")
        self._n, self._components = 0, n_components
        self._sum, self._products = np.zeros(n_channels), np.zeros((n_channels, n_channels))
        self._axes: np.ndarray | None = None

    def add(self, pixels: np.ndarray) -> None:
        """Take in pixels (..., C)."""
        flat = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
        self._n += len(flat)
        self._sum += flat.sum(0)
        self._products += flat.T @ flat

    def project(self, pixels: np.ndarray) -> np.ndarray:
        """(..., n_components) float32; of each axis the entry that is largest in size is positive."""
        mean = self._sum / max(self._n, 1)
        if self._axes is None:
            covariance = self._products / max(self._n, 1) - np.outer(mean, mean)
            axes = np.linalg.eigh(covariance)[1][:, ::-1][:, : self._components]
            largest = axes[np.abs(axes).argmax(0), np.arange(self._components)]
            self._axes = axes * np.sign(largest)
        return ((pixels - mean) @ self._axes).astype(np.float32)


def _shown(picture: np.ndarray, as_rgb: bool) -> np.ndarray:
    """Components stretched to 0 ... 255 one by one, or as they are; what is not there is 0."""
    if not as_rgb:
        return np.nan_to_num(picture)
    axes = tuple(range(picture.ndim - 1))
    low, high = np.nanmin(picture, axes), np.nanmax(picture, axes)
    return np.nan_to_num((picture - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)
