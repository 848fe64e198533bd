"""The one place that calls Segment Anything's prompt encoder and mask decoder (Kirillov et al., 2023).

Prompts in pixels of the image -> mask logits at low resolution; and from there, exactly as Segment Anything upscales,
to the image's resolution: whole, or only the window that holds the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from segment_anything import SamPredictor
from torch.nn import functional as F

from micro_sam.errors import PromptError

LOW_RES = 256


@dataclass(frozen=True)
class Prompts:
    """Prompts for n objects, in pixels of the image the embeddings belong to.

    Attributes:
        points: (n, k, 2) in (x, y), or None.
        labels: (n, k), 1 positive, 0 negative, -1 no point.
        boxes: (n, 4) as [min_x, min_y, max_x, max_y], or None.
        masks: Low resolution logits (n, 1, 256, 256), or None.
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: torch.Tensor | np.ndarray | None = None

    def __len__(self) -> int:
        return next((len(p) for p in (self.points, self.boxes, self.masks) if p is not None), 0)

    def __getitem__(self, which: slice | np.ndarray) -> Prompts:
        parts = (self.points, self.labels, self.boxes, self.masks)
        return Prompts(*(None if part is None else part[which] for part in parts))


def scale_xy(predictor: SamPredictor) -> np.ndarray:
    """Factors (x, y) from pixels of the image to pixels of the resized image the encoder saw."""
    (height, width), (new_height, new_width) = predictor.original_size, predictor.input_size
    return np.array([new_width / width, new_height / height])


@torch.no_grad()
def decode(predictor: SamPredictor, prompts: Prompts, multimask: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode one batch of prompts.

    Args:
        predictor: With an image (or embeddings) set.
        prompts: For n objects.
        multimask: Three masks for each object instead of one.

    Returns:
        Logits (n, 1 or 3, 256, 256) and predicted IoUs (n, 1 or 3), float32 on the predictor's device.

    Raises:
        PromptError: There is no prompt, or no image is set.
    """
    if len(prompts) == 0:
        raise PromptError("There is no prompt: give points, a box or a mask.")
    if not predictor.is_image_set:
        raise PromptError("The predictor has no image: set one, or pass image_embeddings.")
    device, model = predictor.device, predictor.model
    scale = scale_xy(predictor)
    points = boxes = masks = None
    if prompts.points is not None:
        coordinates = torch.as_tensor(np.asarray(prompts.points) * scale, dtype=torch.float32, device=device)
        points = (coordinates, torch.as_tensor(np.asarray(prompts.labels), dtype=torch.int, device=device))
    if prompts.boxes is not None:
        boxes = np.asarray(prompts.boxes) * np.concatenate([scale, scale])
        boxes = torch.as_tensor(boxes, dtype=torch.float32, device=device)
    if prompts.masks is not None:
        masks = torch.as_tensor(prompts.masks, dtype=torch.float32, device=device)
    sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=masks)
    logits, ious = model.mask_decoder(
        image_embeddings=predictor.features,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return logits.float(), ious.float()


def decode_batches(
    predictor: SamPredictor, prompts: Prompts, multimask: bool, batch_size: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Decode any number of prompts; yields which of them, their logits and their predicted IoUs."""
    for start in range(0, len(prompts), batch_size):
        which = slice(start, min(start + batch_size, len(prompts)))
        yield which, *decode(predictor, prompts[which], multimask)


def default_batch_size(device: torch.device | str) -> int:
    """How many prompts to decode at once: what fits the caches of a CPU, what fills a GPU."""
    return 8 if torch.device(device).type == "cpu" else 64


@lru_cache(maxsize=64)
def _interpolation(input_length: int, original_length: int, image_size: int, low_res: int) -> torch.Tensor:
    """(original_length, low_res) matrix of the two bilinear interpolations along one axis."""
    weights = torch.eye(low_res)[None]
    weights = F.interpolate(weights, image_size, mode="linear", align_corners=False)[..., :input_length]
    weights = F.interpolate(weights, original_length, mode="linear", align_corners=False)
    return weights[0].T.contiguous()


class Upscaler:
    """Low resolution logits -> logits of the image, equal to ``Sam.postprocess_masks``.

    Both interpolations are separable and linear, so that any window is a product of two small matrices: what costs
    time and memory is the size of the object, not of the image.

    Args:
        input_size: Height and width of the image after resizing its longest side, before padding.
        original_size: Height and width of the image.
        image_size: Side of the padded square image.
    """

    def __init__(self, input_size: Sequence[int], original_size: Sequence[int], image_size: int = 1024) -> None:
        self.input_size, self.original_size = tuple(map(int, input_size)), tuple(map(int, original_size))
        self.image_size = image_size
        self._weights = tuple(
            _interpolation(i, o, image_size, LOW_RES) for i, o in zip(self.input_size, self.original_size)
        )
        self.valid = tuple(min(LOW_RES, -(-i * LOW_RES // image_size) + 1) for i in self.input_size)
        self._support = [self._row_support(weights) for weights in self._weights]

    @staticmethod
    def _row_support(weights: torch.Tensor) -> np.ndarray:
        """First and last (exclusive) low resolution index that each output index depends on: (length, 2)."""
        used = (weights != 0).numpy()
        return np.stack([used.argmax(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1)], axis=1)

    @classmethod
    def of(cls, predictor: SamPredictor) -> Upscaler:
        """For the image that is set in the predictor."""
        return cls(predictor.input_size, predictor.original_size, predictor.model.image_encoder.img_size)

    def full(self, logits: torch.Tensor) -> torch.Tensor:
        """(n, c, 256, 256) -> (n, c, height, width)."""
        size = (self.image_size, self.image_size)
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        logits = logits[..., : self.input_size[0], : self.input_size[1]]
        return F.interpolate(logits, self.original_size, mode="bilinear", align_corners=False)

    def low_res_windows(self, logits: torch.Tensor, threshold: float, margin: int = 2) -> np.ndarray:
        """Windows that hold everything above a threshold, with the margin that `window` needs.

        Args:
            logits: (n, 256, 256).
            threshold: Anything above it is inside.
            margin: Pixels around it.

        Returns:
            (n, 4) int array of y0, y1, x0, x1 (ends exclusive); all 0 where nothing is above.
        """
        above = logits[:, : self.valid[0], : self.valid[1]] > threshold
        windows = np.zeros((len(logits), 4), dtype=np.int32)
        for axis, length in ((0, self.valid[0]), (1, self.valid[1])):
            line = above.any(dim=2 - axis).cpu().numpy()
            windows[:, 2 * axis] = np.maximum(line.argmax(axis=1) - margin, 0)
            windows[:, 2 * axis + 1] = np.minimum(length - line[:, ::-1].argmax(axis=1) + margin, length)
            windows[~line.any(axis=1)] = 0
        return windows

    def window(self, values: torch.Tensor, window: Sequence[int]) -> tuple[torch.Tensor, int, int]:
        """Upscale a window of low resolution logits.

        Pixels of the image that also depend on logits outside the window are left out; with a window from
        `low_res_windows` all of these are below its threshold.

        Args:
            values: float32 (y1 - y0, x1 - x0).
            window: y0, y1, x0, x1.

        Returns:
            The logits of a window of the image, and its first row and column.
        """
        parts, starts = [], []
        for axis in (0, 1):
            begin, end = window[2 * axis], window[2 * axis + 1]
            first, last = self._support[axis].T
            rows = np.flatnonzero((first >= begin) & (last <= end))
            if len(rows) == 0:
                return values.new_zeros((0, 0)), 0, 0
            parts.append(self._weights[axis][rows[0] : rows[-1] + 1, begin:end].to(values.device))
            starts.append(int(rows[0]))
        return parts[0] @ values @ parts[1].T, starts[0], starts[1]
