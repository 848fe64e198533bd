"""The images of a training, and which of them, or which part of the only one, are held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from ..errors import ParameterError
from .dataset import default_sam_loader, inner_key, list_sources
from .preflight import PreflightReport, check_training_data
from .sampling import Pair, open_pair
from .settings import TrainingSettings
from .util import get_raw_transform

logger = logging.getLogger(__name__)

_LARGEST = 2**26  # pixels of an image whose objects are counted


@dataclass(frozen=True)
class TrainingData:
    """Images and their labels, as `default_sam_dataset` takes them.

    Attributes:
        images: Files, folders or arrays.
        labels: Their annotated instances.
        image_key: The data set inside the files, or the pattern of folders.
        label_key: The same for the labels.
        names: What arrays are called in what is said about them; by default they are numbered.
    """

    images: Any
    labels: Any
    image_key: str | None = None
    label_key: str | None = None
    names: tuple[str, ...] | None = None


def check_data(data: TrainingData, settings: TrainingSettings) -> PreflightReport:
    """Look at the data of a training, see `check_training_data`."""
    return check_training_data(
        data.images, data.labels, data.image_key, data.label_key, settings.patch_shape, settings.min_size,
        settings.unknown_label, names=data.names,
    )  # fmt: skip


def checked(data: TrainingData, settings: TrainingSettings) -> PreflightReport:
    """The same; raises `ParameterError` if it cannot be trained on."""
    report = check_data(data, settings)
    logger.info("The training data:\n%s", report.table())
    report.raise_if_wrong()
    return report


def split_data(
    data: TrainingData, validation: TrainingData | None, report: PreflightReport, settings: TrainingSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `default_sam_dataset` for training and validation, without the images that are skipped."""
    images, labels = _usable(data, report.usable_indices())
    if validation is not None:
        found = checked(validation, settings)
        return _arguments(data, images, labels), _arguments(validation, *_usable(validation, found.usable_indices()))
    if len(images) > 1:
        n_held_out = min(len(images) - 1, max(1, round(settings.val_fraction * len(images))))
        held_out = set(np.random.default_rng(settings.seed).permutation(len(images))[:n_held_out].tolist())
        parts = [[i for i in range(len(images)) if (i in held_out) == wanted] for wanted in (False, True)]
        return tuple(_arguments(data, [images[i] for i in p], [labels[i] for i in p]) for p in parts)
    pair = open_pair(
        images[0], labels[0], inner_key(images[0], data.image_key), inner_key(labels[0], data.label_key), None, None,
        settings.unknown_label,
    )  # fmt: skip
    both = _arguments(data, images, labels)
    return tuple({**both, "rois": [roi]} for roi in split_regions(pair, max(settings.val_fraction, 0.1)))


def split_regions(pair: Pair, fraction: float) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Cut the only image in two, so that objects lie in both parts: the last planes or rows are held out.

    Args:
        pair: The image.
        fraction: The share of the objects that is held out.

    Raises:
        ParameterError: There are not two objects in different planes or rows.
    """
    for axis in range(len(pair.shape) - 1):
        counts = _objects_along(pair, axis)
        before = np.cumsum(counts)[:-1]
        possible = np.flatnonzero((before > 0) & (before < counts.sum()))
        if len(possible):
            distance = np.abs(before[possible] - (1 - fraction) * counts.sum())
            nearest = possible[distance == distance.min()]
            border = int(nearest[len(nearest) // 2]) + 1  # in the middle of the gap between objects
            logger.info(
                "The last %d of %d rows or planes of the only image are held out", len(counts) - border, len(counts)
            )
            whole = (slice(None),) * axis
            return (*whole, slice(0, border)), (*whole, slice(border, None))
    raise ParameterError(
        f"The only image, {pair.name}, has too few objects to hold some out: annotate at least two in different rows, or "
        "give images for validation."
    )


def _objects_along(pair: Pair, axis: int) -> np.ndarray:
    """How many objects there are at every place along an axis; of rows those count in which an object has its middle."""
    n = pair.shape[axis]
    if axis == len(pair.shape) - 2 and pair.n_planes * prod(pair.shape[-2:]) > _LARGEST:
        return np.ones(n, int)
    counts = np.zeros(n, int)
    for plane in range(pair.n_planes):
        labels = pair.read_labels(plane, slice(None), slice(None))
        ids = np.unique(labels[labels > 0])
        if axis < len(pair.shape) - 2:
            counts[plane] = len(ids)
            continue
        rows, columns = np.nonzero(labels > 0)
        index = np.searchsorted(ids, labels[rows, columns])
        sizes = np.bincount(index, minlength=len(ids))
        counts += np.bincount((np.bincount(index, rows, len(ids)) / np.maximum(sizes, 1)).astype(int), minlength=n)
    return counts


def make_loader(data: dict[str, Any], settings: TrainingSettings, is_train: bool) -> DataLoader:
    """A loader for training or validation of what `split_data` gave."""
    only = settings.segmentation_decoder == "only"
    return default_sam_loader(
        **data, batch_size=settings.batch_size, num_workers=settings.num_workers, patch_shape=settings.patch_shape,
        with_segmentation_decoder=settings.segmentation_decoder == "instances",
        train_instance_segmentation_only=only and is_train, min_size=settings.min_size, is_train=is_train,
        raw_transform=None if settings.preprocess is None else get_raw_transform(settings.preprocess),
        unknown_label=settings.unknown_label, known_margin=settings.known_margin,
        n_samples=settings.n_samples if is_train else None,
        label_transform=_maps_behind_instances(settings) if only and not is_train else None,
    )  # fmt: skip


def _maps_behind_instances(settings: TrainingSettings) -> Any:
    """Validation needs the instances for scoring, too; the trainer takes the last three channels."""
    from .label_transform import InstanceTargets

    return InstanceTargets(with_maps=True, min_size=settings.min_size)


def _usable(data: TrainingData, indices: Sequence[int]) -> tuple[list[Any], list[Any]]:
    images, labels = list_sources(data.images, data.image_key), list_sources(data.labels, data.label_key)
    return [images[i] for i in indices], [labels[i] for i in indices]


def _arguments(data: TrainingData, images: list[Any], labels: list[Any]) -> dict[str, Any]:
    return {"raw_paths": images, "raw_key": data.image_key, "label_paths": labels, "label_key": data.label_key}
