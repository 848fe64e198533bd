"""What a training is assembled from: the trainable model, normalisation of raw data, labels -> prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from ..embeddings.preprocessing import NormalizationRange
from ..errors import ParameterError
from ..models.accelerate import accelerate_sam
from ..models.predictor import get_sam_model
from ..models.spec import DEFAULT_MODEL
from ..prompt_generators import PointAndBoxPromptGenerator
from .trainable_sam import TrainableSAM

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


def identity(x: Any) -> Any:
    """Return the argument."""
    return x


def normalize_to_8bit(raw: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Scale from the finite minimum and maximum to [0, 255]; float32, what is not finite becomes 0 or 255."""
    if isinstance(raw, torch.Tensor):
        return torch.from_numpy(normalize_to_8bit(raw.cpu().numpy())).to(raw.device)
    return NormalizationRange.of(raw).apply(raw).astype(np.float32)


def require_8bit(x: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Leave values in the range of 8 bit as they are, scale everything else to [0, 255].

    Values in [0, 1] are taken as a fraction of 255; others (16 bit, negative, floating point) are scaled from their
    minimum and maximum.
    """
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1 and not _is_integer(x):
        return x * 255
    return x if low >= 0 and high <= 255 and high > 1 else normalize_to_8bit(x)


def _is_integer(x: np.ndarray | torch.Tensor) -> bool:
    return not x.is_floating_point() if isinstance(x, torch.Tensor) else np.issubdtype(x.dtype, np.integer)


def _normalize_percentile(x: np.ndarray) -> np.ndarray:
    low, high = np.percentile(x, (1, 99))
    return NormalizationRange(float(low), float(high)).apply(x).astype(np.float32)


def get_raw_transform(preprocess: str | None = None) -> Callable | None:
    """How raw data is normalised.

    Args:
        preprocess: "normalize_minmax" (each patch from its minimum and maximum), "normalize_percentile" (from its 1st
            and 99th percentile), or None for `require_8bit`.

    Raises:
        ParameterError: It is none of these.
    """
    known = {None: require_8bit, "normalize_minmax": normalize_to_8bit, "normalize_percentile": _normalize_percentile}
    if preprocess not in known:
        raise ParameterError(
            f"preprocess is one of normalize_minmax, normalize_percentile or none, got {preprocess!r}."
        )
    return known[preprocess]


def get_trainable_sam_model(
    model_type: str = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    freeze: str | Sequence[str] | None = None,
    return_state: bool = False,
    peft_kwargs: dict[str, Any] | None = None,
    flexible_load_checkpoint: bool = False,
    activation_checkpointing: bool = False,
    **model_kwargs: Any,
) -> Any:
    """Load a model for training.

    Args:
        model_type: A registered model; with `checkpoint_path` it names the encoder.
        device: Where to train; the best device there is by default.
        checkpoint_path: A model file of your own to start from.
        freeze: Parts that are not trained: "image_encoder", "prompt_encoder", "mask_decoder".
        return_state: Return the content of the checkpoint, too.
        peft_kwargs: Arguments of `micro_sam.models.peft_sam.PEFT_Sam` for parameter-efficient finetuning.
        flexible_load_checkpoint: Load the weights that fit and leave the rest as it is built.
        activation_checkpointing: Save memory in the encoder, see `TrainableSAM`.
        model_kwargs: `num_multimask_outputs` and `image_size`, as in `build_sam`.

    Returns:
        The model; with `return_state` a tuple (model, state).

    Raises:
        ParameterError: There is no part of that name, or all parts are frozen.
    """
    names = [freeze] if isinstance(freeze, str) else list(freeze or [])
    for name in names:
        if name not in PARTS:
            raise ParameterError(f"freeze names parts of the model, {', '.join(PARTS)}, got {name!r}.")
    if "image_encoder" in names and peft_kwargs:
        raise ParameterError(
            "peft_kwargs train parts of the image encoder, which freeze excludes: leave out one of them."
        )
    _, sam, state = get_sam_model(
        model_type, device, checkpoint_path, return_sam=True, return_state=True, peft_kwargs=peft_kwargs,
        flexible_load_checkpoint=flexible_load_checkpoint, accelerate=False, **model_kwargs,
    )  # fmt: skip
    for name in names:
        getattr(sam, name).requires_grad_(False)
    sam.prompt_encoder.pe_layer.requires_grad_(False)
    model = TrainableSAM(accelerate_sam(sam), activation_checkpointing).to(sam.device)
    return (model, state) if return_state else model


class ConvertToSamInputs:
    """Turns batches of images and labels into prompts in Segment Anything's format.

    Args:
        transform: Maps pixels of the image to the encoder's frame; None leaves coordinates as they are.
        dilation_strength: Width of the ring around an object from which negative points are drawn, in pixels.
        box_distortion_factor: How far corners of boxes are moved at most, as a share of the side; None leaves them.
    """

    def __init__(
        self,
        transform: ResizeLongestSide | None,
        dilation_strength: int = 10,
        box_distortion_factor: float | None = None,
    ) -> None:
        self.transform = transform
        self.dilation_strength = dilation_strength
        self.box_distortion_factor = box_distortion_factor

    def __call__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        n_pos: int,
        n_neg: int,
        get_boxes: bool = False,
        n_samples: int | None = None,
    ) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
        """Choose objects and make their first prompts.

        Args:
            x: Images (B, C, H, W).
            y: Labels (B, 1, H, W): 0 is background, negative is unknown.
            n_pos: Positive points per object.
            n_neg: Negative points per object.
            get_boxes: Make boxes.
            n_samples: At most this many objects per image, chosen at random; None takes all.

        Returns:
            A mapping per image ("image" (3, H, W), "original_size", and where asked for "point_coords" (n, k, 2),
            "point_labels" (n, k), "boxes" (n, 4), in (x, y) of the frame), and the ids of its chosen objects. Images
            without objects have prompts of length 0.
        """
        if n_pos + n_neg == 0 and not get_boxes:
            raise ParameterError("Prompts need points or boxes: ask for at least one of them.")
        items, ids = [], []
        for image, labels in zip(x, y):
            item, chosen = self._convert(image, labels[0].cpu().long(), n_pos, n_neg, get_boxes, n_samples)
            items.append(item)
            ids.append(chosen)
        return items, ids

    def _convert(
        self, image: torch.Tensor, labels: torch.Tensor, n_pos: int, n_neg: int, get_boxes: bool, n_samples: int | None
    ) -> tuple[dict[str, Any], torch.Tensor]:
        size = tuple(labels.shape)
        ids = torch.unique(labels)
        ids = ids[ids > 0]
        if n_samples is not None:
            ids = ids[torch.randperm(len(ids))[:n_samples]]
        item: dict[str, Any] = {"image": image.expand(3, -1, -1) if len(image) == 1 else image, "original_size": size}
        boxes = _boxes(labels, ids)
        if n_pos + n_neg:
            points, point_labels = self._points(labels, ids, boxes, n_pos, n_neg)
            item |= {"point_coords": self._to_frame(points, size), "point_labels": point_labels}
        if get_boxes:
            corners = self._distort(boxes.float(), size).reshape(-1, 2, 2)
            item["boxes"] = self._to_frame(corners, size).reshape(-1, 4)
        return item, ids

    def _points(
        self, labels: torch.Tensor, ids: torch.Tensor, boxes: torch.Tensor, n_pos: int, n_neg: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each object's points are drawn from a crop around it, which is all they depend on."""
        if len(ids) == 0:
            return torch.zeros(0, n_pos + n_neg, 2), torch.zeros(0, n_pos + n_neg, dtype=torch.long)
        generator = PointAndBoxPromptGenerator(n_pos, n_neg, self.dilation_strength)
        reach = 2 * self.dilation_strength + 1 if n_neg else 0
        points, point_labels = [], []
        for i, (x0, y0, x1, y1) in zip(ids, boxes.tolist()):
            left, top = max(0, x0 - reach), max(0, y0 - reach)
            crop = labels[top : y1 + reach, left : x1 + reach] == i
            drawn, kinds, _, _ = generator(crop[None, None], [(y0 - top, x0 - left, y1 - top, x1 - left)])
            points.append(drawn + torch.tensor([left, top]))
            point_labels.append(kinds)
        return torch.cat(points).float(), torch.cat(point_labels)

    def _distort(self, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Move the corners of boxes (n, 4)."""
        if not self.box_distortion_factor or len(boxes) == 0:
            return boxes
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = boxes + (2 * torch.rand(boxes.shape) - 1) * self.box_distortion_factor * sides
        limits = torch.tensor([size[1], size[0]] * 2, dtype=moved.dtype)
        return torch.minimum(moved.clamp(min=0), limits)

    def _to_frame(self, coords: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return coords if self.transform is None else self.transform.apply_coords_torch(coords, size)


class ConvertToSemanticSamInputs:
    """Turns batches of images into Segment Anything's format, without prompts."""

    def __call__(self, x: torch.Tensor, y: torch.Tensor | None) -> list[dict[str, Any]]:
        """A mapping per image: "image" (3, H, W) and "original_size".

        Args:
            x: Images (B, 1 or 3, H, W).
            y: Their classes, not used.
        """
        images = [image.expand(3, *image.shape[1:]) if len(image) == 1 else image for image in x]
        return [{"image": image, "original_size": tuple(image.shape[1:])} for image in images]


def _boxes(labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(n, 4) [min_x, min_y, max_x, max_y] of objects, maxima exclusive, in one pass over the image."""
    if len(ids) == 0:
        return torch.zeros(0, 4, dtype=torch.long)
    ys, xs = torch.nonzero(labels > 0, as_tuple=True)
    _, index = torch.unique(labels[ys, xs], return_inverse=True)
    n = int(index.max()) + 1
    low = [torch.full((n,), 2**31).scatter_reduce(0, index, v, "amin") for v in (xs, ys)]
    high = [torch.full((n,), -1).scatter_reduce(0, index, v, "amax") + 1 for v in (xs, ys)]
    all_ids = torch.unique(labels)
    all_ids = all_ids[all_ids > 0]
    return torch.stack([*low, *high], 1)[torch.searchsorted(all_ids, ids)]


class ResizeRawTrafo:
    """Brings raw data to a shape by padding, or by scaling its longest side first.

    Args:
        desired_shape: (height, width) of the result.
        do_rescaling: Scale values to [0, 255].
        valid_channels: Which of the channels to keep, a number or several; None keeps all.
        padding: numpy's padding mode.
        ensure_rgb: Repeat a single channel three times.
    """

    def __init__(
        self,
        desired_shape: tuple[int, ...],
        do_rescaling: bool = False,
        valid_channels: int | tuple[int, ...] | None = None,
        padding: str = "constant",
        ensure_rgb: bool = True,
    ) -> None:
        self.desired_shape, self.do_rescaling, self.valid_channels = tuple(desired_shape), do_rescaling, valid_channels
        self.padding, self.ensure_rgb = padding, ensure_rgb

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Transform raw data (H, W) or (C, H, W); float32."""
        if self.valid_channels is not None and raw.ndim == 3:
            channels = self.valid_channels
            raw = raw[[channels] if isinstance(channels, int) else list(channels)]
        raw = normalize_to_8bit(raw) if self.do_rescaling else raw.astype(np.float32)
        if self.ensure_rgb:
            raw = np.stack([raw] * 3) if raw.ndim == 2 else np.concatenate([raw] * 3) if len(raw) == 1 else raw
        return _fit(raw, self.desired_shape, self.padding, order=1)


class ResizeLabelTrafo:
    """Brings labels to a shape as `ResizeRawTrafo` brings raw data, and removes small objects.

    Args:
        desired_shape: (height, width) of the result.
        min_size: Smallest object that is kept, in pixels of the result.
        padding: numpy's padding mode.
    """

    def __init__(self, desired_shape: tuple[int, ...], min_size: int = 0, padding: str = "constant") -> None:
        self.desired_shape, self.min_size, self.padding = tuple(desired_shape), min_size, padding

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Transform labels (H, W)."""
        labels = _fit(labels, self.desired_shape, self.padding, order=0)
        ids, counts = np.unique(labels, return_counts=True)
        return np.where(np.isin(labels, ids[counts < self.min_size]), 0, labels).astype(labels.dtype)


def _fit(array: np.ndarray, shape: tuple[int, ...], padding: str, order: int) -> np.ndarray:
    """Scale the longest of the last axes to fit and pad the rest."""
    from skimage.transform import resize

    spatial = array.shape[-len(shape) :]
    factor = min(target / size for target, size in zip(shape, spatial))
    scaled = tuple(min(target, max(1, round(size * factor))) for target, size in zip(shape, spatial))
    if scaled != spatial:
        new_shape = array.shape[: -len(shape)] + scaled
        array = resize(array, new_shape, order=order, preserve_range=True, anti_aliasing=order > 0).astype(array.dtype)
    pads = [(0, 0)] * (array.ndim - len(shape)) + [(0, target - size) for target, size in zip(shape, scaled)]
    return np.pad(array, pads, mode=padding)
