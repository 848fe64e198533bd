"""Candidate masks of automatic mask generation, kept as windows of low resolution logits.

Thresholds are applied here, before anything is upscaled: first to what is known at low resolution, with a margin for
its coarseness, then to what is left exactly as Segment Anything does. So `select` may be called again and again with
other thresholds, without decoding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.instance_segmentation.nms import box_nms
from micro_sam.mask_decoding import LOW_RES, Upscaler

_STABILITY_SLACK = 2.0


class Candidates:
    """All masks that a grid of prompts gave in one crop (or tile) of an image.

    Args:
        crop_box: (x0, y0, x1, y1) of the crop in the image, ends exclusive.
        upscaler: For this crop.
        offset: How far the mask threshold is moved to measure stability.
        threshold: The mask threshold.
    """

    def __init__(
        self, crop_box: Sequence[int], upscaler: Upscaler, offset: float = 1.0, threshold: float = 0.0
    ) -> None:
        self.crop_box = tuple(int(v) for v in crop_box)
        self.upscaler, self.offset, self.threshold = upscaler, float(offset), float(threshold)
        self.ious = np.zeros(0, dtype=np.float32)
        self.points = np.zeros((0, 2), dtype=np.float32)
        self.windows = np.zeros((0, 4), dtype=np.int32)
        self.areas = np.zeros(0, dtype=np.int32)
        self.stabilities = np.zeros(0, dtype=np.float32)
        self.exact_stabilities = np.zeros(0, dtype=np.float32)
        self.boxes = np.zeros((0, 4), dtype=np.int64)
        self.low_boxes = np.zeros((0, 4), dtype=np.float64)
        self._pixel = np.array(upscaler.original_size[::-1]) / np.array(upscaler.input_size[::-1])
        self._pixel = self._pixel * upscaler.image_size / LOW_RES
        self.logits: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.ious)

    @property
    def nbytes(self) -> int:
        """Bytes of the logits."""
        return sum(values.nbytes for values in self.logits)

    def add(self, points_xy: np.ndarray, logits: torch.Tensor, ious: torch.Tensor) -> None:
        """Add a batch; masks without any pixel are left out.

        Args:
            points_xy: The prompts (n, 2) in pixels of the crop.
            logits: (n, k, 256, 256).
            ious: (n, k).
        """
        masks, ious = logits.flatten(0, 1), ious.flatten().cpu().numpy()
        high, low = self.threshold + self.offset, self.threshold - self.offset
        windows = self.upscaler.low_res_windows(masks, low)
        inside = masks[:, : self.upscaler.valid[0], : self.upscaler.valid[1]]
        areas = (inside > low).sum(dim=(1, 2), dtype=torch.int32).cpu().numpy()
        cores = (inside > high).sum(dim=(1, 2), dtype=torch.int32).cpu().numpy()
        keep = np.flatnonzero(areas)
        values = masks.to(torch.float16).cpu().numpy()
        for k in keep:
            y0, y1, x0, x1 = windows[k]
            self.logits.append(values[k, y0:y1, x0:x1].copy())
        points = np.repeat(np.asarray(points_xy, dtype=np.float32), logits.shape[1], axis=0)
        self._append(
            ious=ious[keep],
            points=points[keep],
            windows=windows[keep],
            areas=areas[keep],
            stabilities=(cores[keep] / areas[keep]).astype(np.float32),
            **_unmeasured(len(keep)),
        )

    def _append(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            setattr(self, name, np.concatenate([getattr(self, name), array]))

    def keep(self, which: np.ndarray) -> None:
        """Forget all candidates except these."""
        for name in ("ious", "points", "windows", "areas", "stabilities", *_unmeasured(0)):
            setattr(self, name, getattr(self, name)[which])
        self.logits = [self.logits[k] for k in which]

    def upscale(self, k: int) -> tuple[np.ndarray, tuple[int, int]]:
        """The logits of candidate k in a window of the crop, and the window's first row and column."""
        values, y, x = self.upscaler.window(torch.from_numpy(self.logits[k]).float(), self.windows[k])
        return values.numpy(), (y, x)

    def _measure(self, k: int) -> None:
        """Stability and box at full resolution, as Segment Anything computes them."""
        values, (y, x) = self.upscale(k)
        union = np.count_nonzero(values > self.threshold - self.offset)
        core = np.count_nonzero(values > self.threshold + self.offset)
        self.exact_stabilities[k] = core / union if union else 0.0
        mask = values > self.threshold
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            self.boxes[k] = x + columns[0], y + rows[0], x + columns[-1], y + rows[-1]
        else:
            self.boxes[k] = -1

    def select(
        self,
        pred_iou_thresh: float,
        stability_score_thresh: float,
        box_nms_thresh: float | None,
        drop_near: Sequence[int] | None = None,
        edge_distance: float = 20.0,
    ) -> np.ndarray:
        """The candidates that pass the thresholds and are no duplicates of better ones, best first.

        This is Segment Anything's filtering and suppression, in an order in which most duplicates need no upscaling.

        Args:
            pred_iou_thresh: The predicted IoU is above this; 0 switches it off.
            stability_score_thresh: The stability is at least this; 0 switches it off.
            box_nms_thresh: Of two boxes that overlap more than this, the one with higher IoU is kept. None: keep both.
            drop_near: (x0, y0, x1, y1) of the whole image: masks that come near an edge of the crop are dropped where
                it is no edge of the image. None: keep them.
            edge_distance: How near, in pixels.
        """
        possible = np.ones(len(self), dtype=bool)
        if pred_iou_thresh > 0:
            possible &= self.ious > pred_iou_thresh
        if stability_score_thresh > 0:
            slack = _STABILITY_SLACK / np.sqrt(self.areas)
            possible &= self.stabilities >= stability_score_thresh - slack
        kept: list[int] = []
        order = np.flatnonzero(possible)
        for k in order[np.argsort(-self.ious[order], kind="stable")]:
            near = None if box_nms_thresh is None else self.boxes[kept]
            if near is not None and self._is_surely_duplicate(k, near, box_nms_thresh):
                continue
            if np.isnan(self.exact_stabilities[k]):
                self._measure(k)
            if self.boxes[k, 0] < 0 or self.exact_stabilities[k] < stability_score_thresh:
                continue
            if drop_near is not None and self._is_near_crop_edge(self.boxes[k], drop_near, edge_distance):
                continue
            if near is None or not (_ious(self.boxes[k], self.boxes[k], near) > box_nms_thresh).any():
                kept.append(int(k))
        return np.array(kept, dtype=np.int64)

    def _is_surely_duplicate(self, k: int, boxes: np.ndarray, threshold: float) -> bool:
        """Whether a box overlaps one of others more than the threshold, however its mask looks at full resolution."""
        if len(boxes) == 0:
            return False
        inner, outer = self._bounds(k)
        return bool((_ious(inner, outer, boxes) > threshold).any())

    def _bounds(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes that surely lie inside and around that of candidate k: one low resolution pixel less and more."""
        if np.isnan(self.low_boxes[k, 0]):
            y0, _, x0, _ = self.windows[k]
            mask = self.logits[k] > self.threshold
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            found = (x0 + columns[0], y0 + rows[0], x0 + columns[-1], y0 + rows[-1]) if len(rows) else (0, 0, -9, -9)
            self.low_boxes[k] = (np.array(found) + 0.5) * np.tile(self._pixel, 2) - 0.5
        shrink = np.concatenate([self._pixel, -self._pixel])
        limits = np.tile(np.array(self.upscaler.original_size[::-1]) - 1, 2)
        return self.low_boxes[k] + shrink, np.clip(self.low_boxes[k] - shrink, 0, limits)

    def _is_near_crop_edge(self, box: np.ndarray, image_box: Sequence[int], distance: float) -> bool:
        x0, y0 = self.crop_box[:2]
        box = box + [x0, y0, x0, y0]
        near_crop = np.abs(box - np.array(self.crop_box)) <= distance
        near_image = np.abs(box - np.array(image_box)) <= distance
        return bool((near_crop & ~near_image).any())

    def instance(self, k: int) -> Instance | None:
        """Candidate k as an instance in the whole image; None if nothing of it is above the mask threshold."""
        values, (y, x) = self.upscale(k)
        x0, y0, x1, y1 = self.crop_box
        return make_instance(
            values > self.threshold,
            (y + y0, x + x0),
            score=float(self.ious[k]),
            stability=float(self.exact_stabilities[k]),
            point_xy=(float(self.points[k, 0] + x0), float(self.points[k, 1] + y0)),
            crop_xywh=(x0, y0, x1 - x0, y1 - y0),
        )

    def thin(self, box_iou: float = 0.95) -> None:
        """Forget candidates whose box nearly equals that of one that is better in predicted IoU and in stability.

        Any thresholds that the forgotten one would pass, the better one passes too, and then suppresses it.
        """
        boxes = self.windows[:, [2, 0, 3, 1]]
        dominated = np.zeros(len(self), dtype=bool)
        kept = box_nms(boxes, self.ious, box_iou)
        for k in kept:
            low, high = np.maximum(boxes[k, :2], boxes[:, :2]), np.minimum(boxes[k, 2:], boxes[:, 2:])
            both = np.clip(high - low, 0, None).prod(axis=1)
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            close = both > box_iou * (sizes + sizes[k] - both)
            dominated |= close & (self.ious < self.ious[k]) & (self.stabilities <= self.stabilities[k])
        self.keep(np.flatnonzero(~dominated))

    def keep_best(self, n_bytes: int) -> None:
        """Forget the candidates with the lowest predicted IoUs, until the logits of the others take no more bytes."""
        chosen, used = [], 0
        for k in np.argsort(-self.ious, kind="stable"):
            if used + self.logits[k].nbytes <= n_bytes:
                chosen.append(int(k))
                used += self.logits[k].nbytes
        self.keep(np.sort(np.array(chosen, dtype=np.int64)))

    def state(self) -> dict[str, Any]:
        """Plain arrays, for `from_state`."""
        flat = [values.ravel() for values in self.logits]
        return {
            "crop_box": np.array(self.crop_box),
            "input_size": np.array(self.upscaler.input_size),
            "original_size": np.array(self.upscaler.original_size),
            "image_size": self.upscaler.image_size,
            "stability_score_offset": self.offset,
            "mask_threshold": self.threshold,
            "predicted_ious": self.ious,
            "points_xy": self.points,
            "windows": self.windows,
            "areas": self.areas,
            "stabilities": self.stabilities,
            "logits": np.concatenate(flat) if flat else np.zeros(0, dtype=np.float16),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Candidates:
        """The inverse of `state`."""
        upscaler = Upscaler(state["input_size"], state["original_size"], int(state["image_size"]))
        made = cls(state["crop_box"], upscaler, float(state["stability_score_offset"]), float(state["mask_threshold"]))
        windows = np.asarray(state["windows"], dtype=np.int32).reshape(-1, 4)
        shapes = np.stack([windows[:, 1] - windows[:, 0], windows[:, 3] - windows[:, 2]], axis=1)
        parts = np.split(np.asarray(state["logits"], dtype=np.float16), np.cumsum(shapes.prod(axis=1))[:-1])
        made.logits = [part.reshape(shape) for part, shape in zip(parts, shapes)]
        made._append(
            ious=np.asarray(state["predicted_ious"], dtype=np.float32),
            points=np.asarray(state["points_xy"], dtype=np.float32).reshape(-1, 2),
            windows=windows,
            areas=np.asarray(state["areas"], dtype=np.int32),
            stabilities=np.asarray(state["stabilities"], dtype=np.float32),
            **_unmeasured(len(windows)),
        )
        return made


def _unmeasured(n: int) -> dict[str, np.ndarray]:
    """What is only found out about n candidates when it is needed."""
    return {
        "exact_stabilities": np.full(n, np.nan, dtype=np.float32),
        "boxes": np.zeros((n, 4), dtype=np.int64),
        "low_boxes": np.full((n, 4), np.nan),
    }


def _ious(inner: np.ndarray, outer: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Lower bounds of the IoU of boxes with a box that lies between two; areas as in torchvision."""
    low, high = np.maximum(inner[:2], boxes[:, :2]), np.minimum(inner[2:], boxes[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union = np.prod(outer[2:] - outer[:2]) + areas - both
    return both / np.maximum(union, 1e-9)
