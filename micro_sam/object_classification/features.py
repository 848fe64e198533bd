"""Features of the objects of a segmentation: the model's embedding pooled over each, its shape and its brightness."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from micro_sam.embedding_access import ImageEmbeddings, image_shape
from micro_sam.embeddings import n_slices
from micro_sam.embeddings.metadata import FEATURE_SHAPE
from micro_sam.errors import ParameterError
from micro_sam.labels import object_windows
from micro_sam.object_classification.pooling import Pool, cell_weights, pieces_of, read_features
from micro_sam.object_classification.shapes import (
    intensity_features,
    intensity_names,
    intensity_range,
    shape_features,
    shape_names,
)
from micro_sam.progress import Progress, drain

_POOLING, _MEASURING = "Collect features of the objects", "Measure the objects"
_EVERY = 50


@dataclass(frozen=True, eq=False)
class ObjectFeatures:
    """The features of all objects of a segmentation.

    Attributes:
        ids: The objects' labels in ascending order, (n,).
        values: Their features, (n, n_features), float32.
        names: What each feature is.
        ndim: 2 for images, 3 for volumes and time series.
        windows: Where each object lies, by label.
    """

    ids: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    ndim: int
    windows: Mapping[int, tuple[slice, ...]]


def compute_object_features(
    image_embeddings: ImageEmbeddings,
    segmentation: np.ndarray,
    resize_embedding_shape: tuple[int, int] = (256, 256),
    verbose: bool = True,
    *,
    image: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of all objects for classifying them.

    Per object these are mean and standard deviation of the embedding over its pixels (512 values), its shape, and with
    an image its brightness relative to the image's range. In volumes an object's pixels are those of all its slices; in a time series the pixels with
    the same id in all frames are one object, that is a track.

    Args:
        image_embeddings: From `precompute_image_embeddings`, with or without tiles. Where tiles overlap, each pixel takes
            the tile in whose inner block it lies, so that objects on a seam are pooled from both sides.
        segmentation: Integer labels of the same plane or volume, YX or ZYX; 0 is background.
        resize_embedding_shape: At about how many places along (y, x) the embedding of a plane or tile is sampled, by
            bilinear interpolation. Small objects are sampled at each of their pixels.
        verbose: Show a progress bar.
        image: The image, for features of brightness.

    Returns:
        The objects' ids (n,), and their features (n, n_features) as float32.

    Raises:
        ParameterError: The segmentation has another shape than the image, holds no objects, or objects without embedding.
    """
    found = drain(iter_object_features(image_embeddings, segmentation, resize_embedding_shape, image=image), verbose)
    return found.ids, found.values


def iter_object_features(
    image_embeddings: ImageEmbeddings,
    segmentation: Any,
    resize_embedding_shape: tuple[int, int] = (256, 256),
    *,
    image: Any = None,
) -> Generator[Progress, None, ObjectFeatures]:
    """`compute_object_features` as a generator that also says what the features are.

    Yields:
        `Progress` for every plane or tile, and while objects are measured.
    """
    segmentation = _checked(image_embeddings, segmentation, image)
    windows = object_windows(segmentation)
    if not windows:
        raise ParameterError("The segmentation holds no objects; segment some first.")
    ids = np.array(list(windows), dtype=np.int64)
    pooled = yield from _iter_pool(image_embeddings, segmentation, ids, resize_embedding_shape)
    measured = yield from _iter_measure(segmentation, windows, image)
    values = np.hstack([pooled, measured]).astype(np.float32)
    return ObjectFeatures(ids, values, feature_names(segmentation.ndim, image), segmentation.ndim, windows)


def feature_names(ndim: int, image: Any = None) -> tuple[str, ...]:
    """What the features are: of images (2) or volumes (3), with brightness if there is an image."""
    embedding = tuple(f"embedding_{kind}_{k}" for kind in ("mean", "std") for k in range(FEATURE_SHAPE[0]))
    channels = 0 if image is None else 1 if len(image.shape) == ndim else min(3, image.shape[-1])
    return (*embedding, *shape_names(ndim), *intensity_names(channels))


def _checked(embeddings: ImageEmbeddings, segmentation: Any, image: Any) -> np.ndarray:
    segmentation = np.asarray(segmentation)
    slices, plane = n_slices(embeddings), image_shape(embeddings)
    expected = plane if slices is None else (slices, *plane)
    if segmentation.shape != expected:
        raise ParameterError(f"The segmentation has the shape {segmentation.shape}, but its image has {expected}.")
    if segmentation.dtype == bool or not np.issubdtype(segmentation.dtype, np.integer):
        raise ParameterError(
            f"A segmentation has a whole number for each object, this one is of type {segmentation.dtype}; "
            "label its connected components first."
        )
    if segmentation.dtype.kind == "i" and segmentation.size and segmentation.min() < 0:
        raise ParameterError(f"The labels of objects are above 0, this segmentation holds {segmentation.min()}.")
    if image is not None and tuple(image.shape[: len(expected)]) != expected:
        raise ParameterError(f"The image has the shape {tuple(image.shape)}, but its embeddings belong to {expected}.")
    return segmentation


def _iter_pool(
    embeddings: ImageEmbeddings, segmentation: np.ndarray, ids: np.ndarray, grid_shape: tuple[int, int]
) -> Generator[Progress, None, np.ndarray]:
    pool, rows_of = Pool.of(len(ids)), _RowLookup(ids)
    planes = list(_planes(segmentation))
    work = [(i, plane, piece) for i, plane in planes for piece in pieces_of(embeddings, i)]
    for done, (i, plane, piece) in enumerate(work):
        yield Progress(done, len(work), _POOLING)
        weights = cell_weights(rows_of(plane[piece.window]), piece, grid_shape)
        if weights is not None:
            pool.add(read_features(embeddings, i, piece.tile_id), *weights)
    yield Progress(len(work), len(work), _POOLING)
    left_out = ids[pool.weights == 0]
    if len(left_out):
        raise ParameterError(
            f"{len(left_out)} objects, the first with id {left_out[0]}, lie where no embeddings were computed; "
            "compute them without a mask, or with one that covers all objects."
        )
    return pool.mean_and_std()


def _planes(segmentation: np.ndarray) -> Iterator[tuple[int | None, np.ndarray]]:
    return iter([(None, segmentation)]) if segmentation.ndim == 2 else enumerate(segmentation)


class _RowLookup:
    """From labels to the number of the object, -1 for background."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids
        self._table: np.ndarray | None = None
        if ids[-1] < 2**24:
            self._table = np.full(int(ids[-1]) + 1, -1, np.int64)
            self._table[ids] = np.arange(len(ids))

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        if self._table is not None:
            return self._table[labels]
        return np.where(labels == 0, -1, np.searchsorted(self._ids, labels))


def _iter_measure(
    segmentation: np.ndarray, windows: Mapping[int, tuple[slice, ...]], image: Any
) -> Generator[Progress, None, np.ndarray]:
    found = []
    range_ = None if image is None else intensity_range(image, segmentation.ndim)
    for done, (label, window) in enumerate(windows.items()):
        if done % _EVERY == 0:
            yield Progress(done, len(windows), _MEASURING)
        row = shape_features(segmentation[window] == label)
        found.append(row if image is None else row + intensity_features(image, segmentation, label, window, range_))
    yield Progress(len(windows), len(windows), _MEASURING)
    return np.array(found)
