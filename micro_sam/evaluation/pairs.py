"""Images with their annotations, and where results about them are written: what all experiments share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from ..io import load_image_data, unique_names

if TYPE_CHECKING:
    from ..models.predictor import SamPredictor

PathLike = str | os.PathLike


def names_of(image_paths: Sequence[PathLike], gt_paths: Sequence[PathLike] | None = None) -> list[str]:
    """A name for each image, unique among them, under which results are written.

    Raises:
        ParameterError: There is no image, or not as many annotations as images.
    """
    if len(image_paths) == 0:
        raise ParameterError("There is no image; expected at least one path.")
    if gt_paths is not None and len(gt_paths) != len(image_paths):
        raise ParameterError(f"Expected an annotation for each of the {len(image_paths)} images, got {len(gt_paths)}.")
    return unique_names([Path(path) for path in image_paths])


def load_labels(path: PathLike, key: str | None = None) -> np.ndarray:
    """Annotated instances as an integer array.

    Raises:
        ParameterError: The file does not hold integers.
    """
    labels = np.asarray(load_image_data(os.fspath(path), key))
    if not np.issubdtype(labels.dtype, np.integer):
        raise ParameterError(f"The annotation '{path}' must hold integer object ids, got {labels.dtype}.")
    return labels


def embeddings_of(
    predictor: SamPredictor,
    image: np.ndarray,
    embedding_dir: PathLike | None,
    name: str,
    tiling: Mapping[str, tuple[int, int]] | None = None,
) -> Any:
    """The embeddings of a 2d image, kept in ``<embedding_dir>/<name>.zarr`` if there is such a folder."""
    from ..embeddings import precompute_image_embeddings

    path = None if embedding_dir is None else Path(embedding_dir) / f"{name}.zarr"
    return precompute_image_embeddings(predictor, image, path, ndim=2, verbose=False, **(tiling or {}))
