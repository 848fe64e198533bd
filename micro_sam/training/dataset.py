"""The default data set of a training: random patches of images and volumes with annotated instances."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import MissingInputError, ParameterError
from ..io.paths import expand_inputs
from .label_transform import UNKNOWN, InstanceTargets
from .sampling import Pair, open_pair

logger = logging.getLogger(__name__)

_FEWEST_SAMPLES, _MOST_SAMPLES = 50, 500


class MinInstances:
    """Accepts patches with enough objects.

    Args:
        min_num_instances: Fewest objects in a patch.
        min_size: Fewest pixels of an object that counts.
    """

    def __init__(self, min_num_instances: int = 2, min_size: int = 25) -> None:
        self.min_num_instances, self.min_size = min_num_instances, min_size

    def __call__(self, raw: np.ndarray, labels: np.ndarray) -> bool:
        """Whether a patch (C, h, w) with labels (h, w) is accepted."""
        return count_objects(labels, self.min_size) >= self.min_num_instances


class SamDataset(Dataset):
    """Random patches, each of one plane, with a contrast and three channels as the model sees them in use.

    A patch is sampled until the sampler accepts it; half of the time around an annotated pixel. If none is accepted, the
    one with most objects is taken, so that empty regions never end a training. Patches are padded with zeros, whose
    labels are unknown, where the image is smaller.

    Args:
        pairs: The images with their labels.
        patch_shape: (height, width).
        targets: Makes the targets from labels (H, W).
        sampler: Called with raw (C, h, w) and labels (h, w), says whether to accept them.
        raw_transform: Normalises raw patches (C, h, w); by default the plane's minimum and maximum become 0 and 255.
        n_samples: The length; by default as many patches as cover the data, between 50 and 500.
        is_train: Flip and turn patches, and draw new ones each time; if not, every index has its patch.
        max_sampling_attempts: How many patches to try.
    """

    ndim = 2

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch_shape: tuple[int, int],
        targets: Callable[[np.ndarray], np.ndarray],
        sampler: Callable[[np.ndarray, np.ndarray], bool] | None = None,
        raw_transform: Callable[[np.ndarray], np.ndarray] | None = None,
        n_samples: int | None = None,
        is_train: bool = True,
        max_sampling_attempts: int = 20,
    ) -> None:
        self.pairs, self.patch_shape, self.targets = list(pairs), tuple(patch_shape), targets
        self.sampler, self.raw_transform = sampler, raw_transform
        self.is_train, self.max_sampling_attempts = is_train, max_sampling_attempts
        patches = sum(pair.n_planes * max(1, prod(pair.shape[-2:]) // prod(self.patch_shape)) for pair in self.pairs)
        fewest = _FEWEST_SAMPLES if is_train else 1
        self.n_samples = min(_MOST_SAMPLES, max(fewest, patches)) if n_samples is None else n_samples

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An image (3, H, W) float32 in [0, 255] and its targets (channels, H, W) float32."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        seed = np.random.randint(2**31) if self.is_train else index
        rng = np.random.default_rng(seed)
        pair = self.pairs[index % len(self.pairs) if not self.is_train else rng.integers(len(self.pairs))]
        pair, plane, y, x = self._choose(pair, rng)
        image, labels = self._image(pair, plane, y, x), pair.read_labels(plane, y, x)
        image, labels = self._pad(image, 0), self._pad(labels, UNKNOWN)
        if self.is_train:
            image, labels = _turn(image, labels, rng)
        return torch.from_numpy(image), torch.from_numpy(self.targets(labels))

    def _choose(self, pair: Pair, rng: np.random.Generator) -> tuple[Pair, int, slice, slice]:
        best, most = None, -1
        for attempt in range(max(1, self.max_sampling_attempts)):
            if attempt and attempt % 5 == 0:  # perhaps it is this image that is empty
                pair = self.pairs[rng.integers(len(self.pairs))]
            place = self._random_place(pair, rng, around_object=bool(rng.random() < 0.5) or attempt > 5)
            labels = pair.read_labels(*place)
            if self.sampler is None or self.sampler(pair.read_raw(*place), labels):
                return (pair, *place)
            n = count_objects(labels)
            if n > most:
                best, most = (pair, *place), n
        logger.debug("no patch of %d was accepted, the one with %d objects is taken", self.max_sampling_attempts, most)
        return best

    def _random_place(self, pair: Pair, rng: np.random.Generator, around_object: bool) -> tuple[int, slice, slice]:
        plane = int(rng.integers(pair.n_planes))
        shape = pair.shape[-2:]
        target = None
        if around_object and any(n > p for n, p in zip(shape, self.patch_shape)):
            ys, xs = np.nonzero(pair.read_labels(plane, slice(None), slice(None)) > 0)
            if len(ys):
                chosen = rng.integers(len(ys))
                target = (ys[chosen], xs[chosen])
        slices = []
        for axis, (size, length) in enumerate(zip(shape, self.patch_shape)):
            last = max(0, size - length)
            low, high = (0, last) if target is None else (target[axis] - length + 1, target[axis])
            start = int(np.clip(rng.integers(low, high + 1), 0, last))
            slices.append(slice(start, min(size, start + length)))
        return plane, slices[0], slices[1]

    def _image(self, pair: Pair, plane: int, y: slice, x: slice) -> np.ndarray:
        raw = pair.read_raw(plane, y, x)[:3]
        raw = pair.contrast(plane).apply(raw) if self.raw_transform is None else np.asarray(self.raw_transform(raw))
        if len(raw) == 2:
            raw = np.concatenate([raw, np.zeros_like(raw[:1])])
        return np.broadcast_to(raw, (3, *raw.shape[-2:])).astype(np.float32)

    def _pad(self, array: np.ndarray, value: int) -> np.ndarray:
        pads = [(0, 0)] * (array.ndim - 2)
        pads += [(0, length - size) for length, size in zip(self.patch_shape, array.shape[-2:])]
        return np.pad(array, pads, constant_values=value)


def count_objects(labels: np.ndarray, min_size: int = 1) -> int:
    """Number of objects in labels, those smaller than `min_size` left out."""
    ids, counts = np.unique(labels, return_counts=True)
    return int(((ids > 0) & (counts >= min_size)).sum())


def _turn(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Flip, and turn where the patch is a square."""
    axes = [axis for axis in (-2, -1) if rng.random() < 0.5]
    if axes:
        image, labels = np.flip(image, axes), np.flip(labels, axes)
    if labels.shape[0] == labels.shape[1] and rng.random() < 0.5:
        image, labels = image.swapaxes(-1, -2), labels.swapaxes(-1, -2)
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def default_sam_dataset(
    raw_paths: Any,
    raw_key: str | None,
    label_paths: Any,
    label_key: str | None,
    patch_shape: tuple[int, ...],
    with_segmentation_decoder: bool,
    with_channels: bool | None = None,
    train_instance_segmentation_only: bool = False,
    sampler: Callable | None = None,
    raw_transform: Callable | None = None,
    n_samples: int | None = None,
    is_train: bool = True,
    min_size: int = 25,
    max_sampling_attempts: int | None = None,
    rois: Any = None,
    is_multi_tensor: bool = True,
    *,
    unknown_label: int | None = None,
    known_margin: int | None = None,
    label_transform: Callable | None = None,
) -> Dataset:
    """The data set for `train_sam` and `train_instance_segmentation`.

    Args:
        raw_paths: Images or volumes: a file, a folder (with a pattern such as ``*.tif`` as key), arrays, or a list of
            these. Any format of `micro_sam.io`, any number type, channels first, last or none.
        raw_key: The data set inside the files, or the pattern.
        label_paths: Their annotated instances, in the same order. 0 is background, negative is unknown.
        label_key: The same for the labels.
        patch_shape: (height, width); (1, height, width) for volumes, of which planes are sampled.
        with_segmentation_decoder: Make targets for the instance decoder, too.
        with_channels: Whether images have channels; found from the shapes if None.
        train_instance_segmentation_only: Make targets for the instance decoder only.
        sampler: Called with raw and labels of a patch, says whether to take it. By default patches with at least two
            objects are taken (one for validation).
        raw_transform: Normalises raw patches (C, h, w) to [0, 255]. By default the minimum and maximum of the whole
            plane become 0 and 255, as in use.
        n_samples: The length of the data set.
        is_train: Draw new patches every time, flipped and turned.
        min_size: Smaller objects are unknown to the losses, in pixels.
        max_sampling_attempts: How many patches the sampler may refuse before the best of them is taken.
        rois: A slice or slices that limit the data; a list of them for several images.
        is_multi_tensor: Whether a list of arrays holds several images. If not, each is a slice of one volume.
        unknown_label: A label that says that nothing is known, besides negative ones.
        known_margin: Of partly annotated images, only this many pixels around annotated objects are background for sure,
            the rest is unknown; None for all of the background.
        label_transform: Makes targets from labels (H, W) in the place of the default one.

    Returns:
        Pairs of an image (3, H, W) in [0, 255] and targets: instances (1, H, W), with decoder followed by foreground,
        centre distance and boundary distance (4, H, W), or these only (3, H, W). Unknown is -1.

    Raises:
        ParameterError: Numbers of images and labels, or shapes, do not match, or no object is annotated.
        ImageError: An image and its labels do not belong together.
        InputError: A file cannot be read.
    """
    patch = _plane_shape(patch_shape)
    raws, labels = (
        list_sources(raw_paths, raw_key, is_multi_tensor),
        list_sources(label_paths, label_key, is_multi_tensor),
    )
    if len(raws) != len(labels):
        raise ParameterError(f"There must be as many images as labels, got {len(raws)} and {len(labels)}.")
    rois = rois if isinstance(rois, list) else [rois] * len(raws)
    if len(rois) != len(raws):
        raise ParameterError(f"There must be as many regions of interest as images, got {len(rois)} and {len(raws)}.")
    pairs = [
        open_pair(
            raw, label, inner_key(raw, raw_key), inner_key(label, label_key), with_channels, roi, unknown_label,
            known_margin,
        )
        for raw, label, roi in zip(raws, labels, rois)
    ]  # fmt: skip
    pairs = _annotated(pairs)
    if label_transform is None:
        with_maps = with_segmentation_decoder or train_instance_segmentation_only
        label_transform = InstanceTargets(with_maps, not train_instance_segmentation_only, min_size)
    if sampler is None:
        sampler = MinInstances(2 if is_train else 1, min_size)
    attempts = 20 if max_sampling_attempts is None else max_sampling_attempts
    return SamDataset(pairs, patch, label_transform, sampler, raw_transform, n_samples, is_train, attempts)


def default_sam_loader(
    batch_size: int = 1, num_workers: int = 0, shuffle: bool | None = None, **kwargs: Any
) -> DataLoader:
    """A loader of `default_sam_dataset`.

    Args:
        batch_size: Patches per batch.
        num_workers: Processes that load patches beside the training.
        shuffle: Whether to shuffle; by default for training only.
        **kwargs: Arguments of `default_sam_dataset` and of torch's ``DataLoader``.
    """
    names = _argument_names(default_sam_dataset)
    dataset = default_sam_dataset(**{k: v for k, v in kwargs.items() if k in names})
    rest = {k: v for k, v in kwargs.items() if k not in names}
    unknown = sorted(set(rest) - _argument_names(DataLoader.__init__))
    if unknown:
        raise ParameterError(f"{unknown[0]!r} is no argument of default_sam_dataset or of torch's DataLoader.")
    shuffle = kwargs.get("is_train", True) if shuffle is None else shuffle
    loader = DataLoader(dataset, batch_size, shuffle=shuffle, num_workers=num_workers, **rest)
    loader.shuffle = shuffle  # torch-em's trainers look for it
    return loader


def _argument_names(function: Callable) -> set[str]:
    code = function.__code__
    return set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _plane_shape(patch_shape: Sequence[int]) -> tuple[int, int]:
    shape = tuple(int(n) for n in patch_shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or min(shape) < 16:
        raise ParameterError(
            f"patch_shape is (height, width), or (1, height, width) for volumes, with at least 16 pixels, got {shape}."
        )
    return shape


def _is_file(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def list_sources(sources: Any, key: str | None, is_multi_tensor: bool = True) -> list[Any]:
    """One entry per image: files of folders are listed, arrays in a list are images or the slices of one volume."""
    if _is_file(sources) or hasattr(sources, "shape"):
        sources = [sources]
    sources = list(sources)
    if not sources:
        raise ParameterError("There is no image to train on: name at least one.")
    if not is_multi_tensor and not any(map(_is_file, sources)):
        return [np.stack([np.asarray(source) for source in sources])]
    listed: list[Any] = []
    for source in sources:
        is_pattern = _is_file(source) and Path(source).is_dir() and key is not None and "*" in key
        listed += expand_inputs([source], key) if is_pattern else [source]
        if _is_file(source) and not Path(source).exists():
            raise MissingInputError(f"There is no file or folder '{source}'; check the path.")
    return listed


def inner_key(source: Any, key: str | None) -> str | None:
    """The key of the data set inside a file; None for arrays and where it is the pattern of a folder."""
    return key if _is_file(source) and key is not None and "*" not in key else None


def _annotated(pairs: list[Pair]) -> list[Pair]:
    """The pairs that may hold objects: small ones are looked at, those without any are left out with a warning."""
    kept = []
    for pair in pairs:
        small = prod(pair.shape) <= 2**24
        if small and not any((pair.read_labels(z, slice(None), slice(None)) > 0).any() for z in range(pair.n_planes)):
            logger.warning("%s has no annotated object and is left out.", pair.name)
            continue
        kept.append(pair)
    if not kept:
        raise ParameterError("No label image holds an object: training needs annotated instances, 0 is background.")
    return kept
