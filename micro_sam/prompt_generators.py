"""Simulated prompts for training and evaluation: from the true objects, and from what a prediction got wrong.

Points and boxes follow Segment Anything: ``(x, y)`` and ``[min_x, min_y, max_x, max_y]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from micro_sam.errors import ParameterError, PromptError

PromptTuple = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


class PromptGeneratorBase(ABC):
    """Base of everything that makes prompts."""

    @abstractmethod
    def __call__(
        self,
        segmentation: torch.Tensor,
        prediction: torch.Tensor | None = None,
        bbox_coordinates: list[tuple] | None = None,
        center_coordinates: list[np.ndarray] | None = None,
    ) -> PromptTuple:
        """Make prompts for objects.

        Args:
            segmentation: The true objects, binary, (n, 1, Y, X).
            prediction: What was predicted for them, binary, (n, 1, Y, X).
            bbox_coordinates: Their boxes (min_y, min_x, max_y, max_x).
            center_coordinates: Their centres (y, x).

        Returns:
            Points (n, n_points, 2) in (x, y), their labels (n, n_points), boxes (n, 4) and mask prompts
            (n, 1, 256, 256); None for those that are not made.
        """


class PointAndBoxPromptGenerator(PromptGeneratorBase):
    """Points drawn from an object and its surroundings, and its box.

    Args:
        n_positive_points: Positive points for each object; the first is its centre if centres are given.
        n_negative_points: Negative points for each object, drawn from a ring around it.
        dilation_strength: Width of that ring in pixels, and of the gap between it and the object.
        get_point_prompts: Whether to make points.
        get_box_prompts: Whether to make boxes.
    """

    def __init__(
        self,
        n_positive_points: int,
        n_negative_points: int,
        dilation_strength: int,
        get_point_prompts: bool = True,
        get_box_prompts: bool = False,
    ) -> None:
        if not (get_point_prompts or get_box_prompts):
            raise ParameterError("Either get_point_prompts or get_box_prompts must be set, neither is.")
        if min(n_positive_points, n_negative_points, dilation_strength) < 0:
            raise ParameterError("The numbers of points and the dilation strength must not be negative.")
        if get_point_prompts and n_positive_points + n_negative_points == 0:
            raise ParameterError("Point prompts need at least one positive or negative point.")
        self.n_positive_points, self.n_negative_points = n_positive_points, n_negative_points
        self.dilation_strength = dilation_strength
        self.get_point_prompts, self.get_box_prompts = get_point_prompts, get_box_prompts

    def __call__(
        self,
        segmentation: torch.Tensor,
        bbox_coordinates: list[tuple],
        center_coordinates: list[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> PromptTuple:
        """Make prompts for objects.

        Args:
            segmentation: The objects, binary, (n, 1, Y, X).
            bbox_coordinates: Their boxes (min_y, min_x, max_y, max_x), maxima exclusive.
            center_coordinates: Their centres (y, x); without them all points are drawn at random.
            **kwargs: Ignored.

        Returns:
            Points (n, n_points, 2) in (x, y) with labels (n, n_points), or None; boxes (n, 4), or None; None.

        Raises:
            PromptError: An object is empty, or there are not as many boxes as objects.
        """
        n = len(segmentation)
        if len(bbox_coordinates) != n:
            raise PromptError(f"There must be one box for each of the {n} objects, got {len(bbox_coordinates)}.")
        points = labels = boxes = None
        if self.get_point_prompts:
            centers = [None] * n if center_coordinates is None else center_coordinates
            points = torch.stack([self._points(m[0], b, c) for m, b, c in zip(segmentation, bbox_coordinates, centers)])
            labels = torch.tensor([1] * self.n_positive_points + [0] * self.n_negative_points).repeat(n, 1)
        if self.get_box_prompts:
            boxes = torch.tensor([[x0, y0, x1, y1] for y0, x0, y1, x1 in bbox_coordinates])
        return points, labels, boxes, None

    def _points(self, mask: torch.Tensor, box: Sequence[int], center: np.ndarray | None) -> torch.Tensor:
        mask = mask.bool()
        inside = torch.nonzero(mask)
        if len(inside) == 0:
            raise PromptError("An object is empty, there is nothing to prompt.")
        positive = draw(inside, self.n_positive_points)
        if center is not None and self.n_positive_points:
            positive[0] = torch.as_tensor(np.round(np.asarray(center)).astype(int), device=positive.device)
        negative = draw(self._ring(mask, box), self.n_negative_points)
        return torch.cat([positive, negative]).flip(1)

    def _ring(self, mask: torch.Tensor, box: Sequence[int]) -> torch.Tensor:
        """Pixels (y, x) near the object but not in it or at its edge; anything outside it if there are none."""
        if self.n_negative_points == 0:
            return torch.nonzero(~mask)[:1]
        reach = 2 * self.dilation_strength
        y0, x0 = (max(0, int(v) - reach) for v in box[:2])
        y1, x1 = (min(size, int(v) + reach) for v, size in zip(box[2:], mask.shape))
        part = mask[y0:y1, x0:x1]
        ring = torch.nonzero(dilate(part, reach) & ~dilate(part, self.dilation_strength))
        if len(ring):
            return ring + torch.tensor([y0, x0], device=ring.device)
        outside = torch.nonzero(~mask)
        if len(outside) == 0:
            raise PromptError("An object fills the image, there is no place for negative points.")
        return outside


class IterativePromptGenerator(PromptGeneratorBase):
    """One positive and one negative point for each object, from what the prediction missed and from what it added."""

    def __call__(self, segmentation: torch.Tensor, prediction: torch.Tensor, **kwargs: Any) -> PromptTuple:
        """Make correcting points.

        Where nothing was missed the positive point is drawn from the object; where nothing was added the negative point
        is drawn from its surroundings, or from anywhere outside it.

        Args:
            segmentation: The true objects, binary, (n, 1, Y, X).
            prediction: What was predicted for them, binary, (n, 1, Y, X).
            **kwargs: Ignored.

        Returns:
            Points (n, 2, 2) in (x, y), labels (n, 2), None, None.

        Raises:
            PromptError: Shapes differ, or an object is empty.
        """
        if segmentation.shape != prediction.shape:
            raise PromptError(
                f"Objects and predictions must have the same shape, got {tuple(segmentation.shape)} and "
                f"{tuple(prediction.shape)}."
            )
        points, labels = zip(*(self._corrections(t[0].bool(), p[0].bool()) for t, p in zip(segmentation, prediction)))
        return torch.stack(points), torch.stack(labels), None, None

    def _corrections(self, truth: torch.Tensor, predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = torch.nonzero(truth)
        if len(inside) == 0:
            raise PromptError("An object is empty, there is nothing to correct.")
        missed = torch.nonzero(truth & ~predicted)
        positive = draw(missed if len(missed) else inside, 1)
        negative = self._negatives(truth, predicted)
        if len(negative) == 0:
            return torch.cat([positive, draw(inside, 1)]).flip(1), torch.tensor([1, 1])
        return torch.cat([positive, draw(negative, 1)]).flip(1), torch.tensor([1, 0])

    @staticmethod
    def _negatives(truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Pixels (y, x) for a negative point; none if the object fills the image."""
        added = torch.nonzero(predicted & ~truth)
        if len(added):
            return added
        ys, xs = torch.nonzero(truth, as_tuple=True)
        around = torch.zeros_like(truth)
        around[max(0, int(ys.min()) - 3) : int(ys.max()) + 4, max(0, int(xs.min()) - 3) : int(xs.max()) + 4] = True
        near = torch.nonzero(around & ~truth)
        return near if len(near) else torch.nonzero(~truth)


def draw(pixels: torch.Tensor, n: int) -> torch.Tensor:
    """Draw n of the rows at random, each at most once if there are enough."""
    if len(pixels) >= n:
        return pixels[torch.randperm(len(pixels), device=pixels.device)[:n]]
    return pixels[torch.randint(len(pixels), (n,), device=pixels.device)]


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Enlarge a bool mask (Y, X) by a square of this radius."""
    if radius == 0:
        return mask
    return F.max_pool2d(mask[None, None].float(), 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0
