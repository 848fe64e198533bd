"""Apply a classifier to images and their segmentations, without a window."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings import ImageSource, choose_tiling, iter_precompute
from micro_sam.errors import ParameterError
from micro_sam.io import load_image_data
from micro_sam.object_classification.classifier import TrainedClassifier, load_classifier
from micro_sam.object_classification.features import ObjectFeatures, iter_object_features
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

Input = str | os.PathLike | np.ndarray


@dataclass(frozen=True, eq=False)
class Classified:
    """The classes of all objects of a segmentation.

    Attributes:
        features: The objects.
        classes: The id of the class of each, (n,).
        probabilities: How probable each class is, (n, n_classes).
    """

    features: ObjectFeatures
    classes: np.ndarray
    probabilities: np.ndarray


def project_prediction_to_segmentation(
    segmentation: np.ndarray, object_prediction: np.ndarray, seg_ids: np.ndarray
) -> np.ndarray:
    """An image of classes: each pixel of an object gets the object's class, background 0.

    Args:
        segmentation: The objects' labels.
        object_prediction: The class of each object, (n,).
        seg_ids: The objects' ids, (n,), in the same order. Objects that are not among them become background.

    Returns:
        Classes of the shape of the segmentation, in the smallest unsigned type that holds them.

    Raises:
        ParameterError: There is not one class for each id.
    """
    classes, ids = np.asarray(object_prediction), np.asarray(seg_ids)
    if classes.shape != ids.shape or ids.ndim != 1:
        raise ParameterError(f"Expected one class for each id, got {classes.shape} classes and {ids.shape} ids.")
    segmentation = np.asarray(segmentation)
    dtype = np.min_scalar_type(int(classes.max())) if len(classes) else np.uint8
    if not len(ids):
        return np.zeros(segmentation.shape, dtype)
    order = np.argsort(ids)
    ids, classes = ids[order], classes[order].astype(dtype)
    place = np.minimum(np.searchsorted(ids, segmentation), len(ids) - 1)
    return np.where((ids[place] == segmentation) & (segmentation != 0), classes[place], dtype.type(0))


def classify(
    classifier: TrainedClassifier,
    image: Any,
    segmentation: np.ndarray,
    predictor: SamPredictor,
    embeddings: ImageEmbeddings | None = None,
    ndim: int | None = None,
    verbose: bool = True,
) -> Classified:
    """Classify the objects of a segmentation; see `iter_classify`."""
    return drain(iter_classify(classifier, image, segmentation, predictor, embeddings, ndim), verbose)


def iter_classify(
    classifier: TrainedClassifier,
    image: Any,
    segmentation: np.ndarray,
    predictor: SamPredictor,
    embeddings: ImageEmbeddings | None = None,
    ndim: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    normalization: str = "minmax",
    batch_size: int = 1,
) -> Generator[Progress, None, Classified]:
    """Classify the objects of a segmentation, in steps.

    Args:
        classifier: The classifier.
        image: The image, YX, YXC, ZYX or ZYXC.
        segmentation: Its labels.
        predictor: The model that the classifier was trained with.
        embeddings: The image's embeddings; computed if they are not given.
        ndim: 2 or 3; found from the shape of the image by default.
        tile_shape: Height and width of tiles; by default large images are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        normalization: "minmax" or "robust", as for training.
        batch_size: Tiles or slices encoded at the same time.

    Raises:
        ParameterError: Model, image or segmentation do not fit the classifier.
    """
    classifier.check_model(predictor)
    source = ImageSource.from_input(image, ndim)
    expected = source.shape if source.n_slices is None else (source.n_slices, *source.shape)
    if tuple(np.shape(segmentation)) != expected:
        raise ParameterError(f"The segmentation has the shape {np.shape(segmentation)}, but its image has {expected}.")
    if embeddings is None:
        tiling = choose_tiling(source.shape) if tile_shape is None else None
        tile_shape, halo = (tiling.tile_shape, tiling.halo) if tiling is not None else (tile_shape, halo)
        embeddings = yield from iter_precompute(
            predictor,
            image,
            ndim=source.ndim,
            tile_shape=tile_shape,
            halo=halo,
            lazy_loading=True,
            normalization=normalization,
            batch_size=batch_size,
        )
    features = yield from iter_object_features(embeddings, segmentation, image=source.array)
    probabilities = classifier.probabilities(features)
    return Classified(features, classifier.class_ids[probabilities.argmax(axis=1)], probabilities)


def run_prediction_with_object_classifier(
    images: Sequence[Input],
    segmentations: Sequence[Input],
    predictor: SamPredictor,
    rf_path: str | os.PathLike,
    image_key: str | None = None,
    segmentation_key: str | None = None,
    project_prediction: bool = True,
    ndim: int | None = None,
    *,
    verbose: bool = True,
) -> list[np.ndarray]:
    """Classify the objects of several images with a classifier that was saved.

    Args:
        images: The images, as files or arrays.
        segmentations: The labels of each.
        predictor: The model that the classifier was trained with.
        rf_path: The classifier's file.
        image_key: The data set inside the files of images, see `load_image_data`.
        segmentation_key: The same for segmentations.
        project_prediction: Return images of classes; otherwise the class of each object, in ascending order of ids.
        ndim: 2 or 3; found from the shape of the images by default.
        verbose: Show progress bars.

    Returns:
        For each image the classes of its objects, as ids that the classifier names.

    Raises:
        ParameterError: There are not as many segmentations as images, or something does not fit the classifier.
        InputError: The classifier or a file cannot be read.
    """
    if len(images) != len(segmentations):
        raise ParameterError(
            f"Expected a segmentation for each image, got {len(images)} images and {len(segmentations)} segmentations."
        )
    classifier = load_classifier(rf_path)
    classifier.check_model(predictor)
    results = []
    for image, segmentation in zip(images, segmentations):
        image, segmentation = _read(image, image_key), _read(segmentation, segmentation_key)
        found = classify(classifier, image, segmentation, predictor, ndim=ndim, verbose=verbose)
        if project_prediction:
            results.append(project_prediction_to_segmentation(segmentation, found.classes, found.features.ids))
        else:
            results.append(found.classes)
    return results


def _read(data: Input, key: str | None) -> Any:
    return load_image_data(data, key) if isinstance(data, str | os.PathLike) else data
