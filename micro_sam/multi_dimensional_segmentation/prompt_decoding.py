"""Decode prompts made from masks, in the image that is set in the predictor: locally where the decoder allows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.mask_decoding import Prompts, Upscaler, decode_batches, scale_xy
from micro_sam.models.local_mask_decoder import LocalMaskDecoder, MaskPatch, reaches_border
from micro_sam.multi_dimensional_segmentation.mask_prompts import (
    OUTSIDE,
    box_of,
    logits_of,
    points_of,
    whole_logits_of,
    window_around,
)
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings

if TYPE_CHECKING:
    from segment_anything import SamPredictor

#: A mask with its logits in the mask's window.
Decoded = tuple[Instance, np.ndarray]
_TOKEN = 4  # pixels of a low resolution mask along the side of an image token
_Low = tuple[torch.Tensor, tuple[int, int, int, int], float]


class PromptDecoder:
    """Decodes objects in one image.

    Args:
        predictor: With the image set.
        settings: Which prompts to make.
        batch_size: How many prompts go through the network at once.
    """

    def __init__(self, predictor: SamPredictor, settings: PropagationSettings, batch_size: int) -> None:
        self._predictor, self._settings, self._batch_size = predictor, settings, batch_size
        self._size, self._input_size = tuple(predictor.original_size), tuple(predictor.input_size)
        self._image_size = predictor.model.image_encoder.img_size
        self._threshold = float(predictor.model.mask_threshold)
        self._upscaler = Upscaler.of(predictor)
        self._local = LocalMaskDecoder.of(predictor, OUTSIDE)

    def __call__(self, shapes: Sequence[Instance]) -> Iterator[tuple[int, list[Decoded]]]:
        """For each mask (its index) what is decoded from it: one mask, or three if the prompts are ambiguous."""
        projection = self._settings.projection
        points: list[tuple[np.ndarray, np.ndarray]] = []
        if projection.points or projection.single_point:
            extension = self._settings.box_extension
            points = [points_of(shape, self._size, extension, not projection.points) for shape in shapes]
        boxes = np.stack([self._box(shape)[[1, 0, 3, 2]] for shape in shapes]) if projection.box and shapes else None
        counts = np.array([len(labels) for _, labels in points] or [0] * len(shapes))
        for which in (
            [np.arange(len(shapes))] if self._local else [np.flatnonzero(counts == n) for n in np.unique(counts)]
        ):
            prompts = Prompts(
                *(_filled_up([points[k] for k in which]) if points else (None, None)),
                boxes=None if boxes is None else boxes[which],
            )
            chosen = [shapes[k] for k in which]
            answers = (
                self._locally(chosen, prompts, counts[which]) if self._local else self._everywhere(chosen, prompts)
            )
            for index, found in zip(which, answers, strict=True):
                decoded = (self._upscaled(*low) for low in found)
                yield int(index), [entry for entry in decoded if entry is not None]

    def _box(self, shape: Instance) -> np.ndarray:
        return box_of(shape, self._size, self._settings.box_extension)

    def _patches(self, shapes: Sequence[Instance]) -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
        return [logits_of(shape, self._size, self._input_size, self._image_size) for shape in shapes]

    def _locally(self, shapes: Sequence[Instance], prompts: Prompts, n_points: np.ndarray) -> Iterator[list[_Low]]:
        """Masks around the objects only."""
        device = self._predictor.device
        scale = scale_xy(self._predictor)
        points = boxes = masks = None
        if prompts.points is not None:
            coordinates = torch.as_tensor(prompts.points * scale, dtype=torch.float32, device=device)
            points = coordinates, torch.as_tensor(prompts.labels, dtype=torch.int, device=device)
        if prompts.boxes is not None:
            boxes = torch.as_tensor(prompts.boxes * np.tile(scale, 2), dtype=torch.float32, device=device)
        if self._settings.projection.mask:
            masks = [MaskPatch(torch.as_tensor(patch), window) for patch, window in self._patches(shapes)]
        windows = [self._window(shape, self._local.grid) for shape in shapes]
        multimask = self._settings.projection.is_ambiguous
        counts = None if points is None else n_points.tolist()
        for found in self._local(points, boxes, masks, windows, multimask, self._threshold, counts):
            y0, y1, x0, x1 = (_TOKEN * side for side in found.window)
            yield [(logits, (y0, y1, x0, x1), float(iou)) for logits, iou in zip(found.logits, found.ious, strict=True)]

    def _everywhere(self, shapes: Sequence[Instance], prompts: Prompts) -> Iterator[list[_Low]]:
        """The same from masks of the whole image, by whatever decoder the model has."""
        masks = None
        if self._settings.projection.mask:
            masks = np.stack([whole_logits_of(*patch) for patch in self._patches(shapes)])
        prompts = Prompts(prompts.points, prompts.labels, prompts.boxes, masks)
        multimask = self._settings.projection.is_ambiguous
        found = iter(shapes)
        for _, logits, ious in decode_batches(self._predictor, prompts, multimask, self._batch_size):
            grid = logits.shape[-2] // _TOKEN, logits.shape[-1] // _TOKEN
            for one, scores in zip(logits, ious, strict=True):
                y0, y1, x0, x1 = window = self._window(next(found), grid)
                near = one[:, _TOKEN * y0 : _TOKEN * y1, _TOKEN * x0 : _TOKEN * x1]
                if reaches_border(near, window, grid, self._threshold):
                    near, (y0, y1, x0, x1) = one, (0, grid[0], 0, grid[1])
                place = (_TOKEN * y0, _TOKEN * y1, _TOKEN * x0, _TOKEN * x1)
                yield [(mask, place, float(score)) for mask, score in zip(near, scores, strict=True)]

    def _window(self, shape: Instance, grid: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where to look for an object, in image tokens; what the model marks far away from it is not part of it."""
        return window_around(self._box(shape), self._size, self._input_size, grid, self._image_size)

    def _upscaled(self, logits: torch.Tensor, place: tuple[int, int, int, int], score: float) -> Decoded | None:
        """A mask in pixels of the image, from a window of low resolution logits."""
        top, _, left, _ = place
        height, width = (max(0, end - start) for end, start in zip(self._upscaler.valid, (top, left)))
        logits = logits[:height, :width]
        above = logits > self._threshold
        rows, columns = (np.flatnonzero(above.any(dim=axis).cpu().numpy()) for axis in (1, 0))
        if len(rows) == 0:
            return None
        y0, x0 = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
        y1, x1 = min(rows[-1] + 3, logits.shape[0]), min(columns[-1] + 3, logits.shape[1])
        window = (top + y0, top + y1, left + x0, left + x1)
        values, y, x = self._upscaler.window(logits[y0:y1, x0:x1], [int(side) for side in window])
        values = values.cpu().numpy()
        shape = make_instance(values > self._threshold, (y, x), score=score)
        if shape is None:
            return None
        return shape, values[tuple(slice(s.start - o, s.stop - o) for s, o in zip(shape.window, (y, x)))]


def _filled_up(points: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, k, 2) in (x, y) and their labels (n, k), of prompts with up to k points; -1 where there is none."""
    n_points = max(len(labels) for _, labels in points)
    coordinates, labels = np.zeros((len(points), n_points, 2)), np.full((len(points), n_points), -1)
    for k, (yx, kinds) in enumerate(points):
        coordinates[k, : len(yx)], labels[k, : len(kinds)] = yx[:, ::-1], kinds
    return coordinates, labels
