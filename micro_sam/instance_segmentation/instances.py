"""Object masks that may overlap: held as small windows, never as full images, however large the image is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError, PromptError
from micro_sam.instance_segmentation.rle import to_coco_rle, to_uncompressed_rle

OUTPUT_MODES = ("instance_segmentation", "binary_mask", "uncompressed_rle", "coco_rle")


def check_output_mode(mode: str) -> None:
    """Raise `ParameterError` for an output mode that does not exist."""
    if mode not in OUTPUT_MODES:
        raise ParameterError(f"output_mode is one of {', '.join(OUTPUT_MODES)}, got {mode!r}.")


@dataclass(frozen=True)
class Instance:
    """One mask.

    Attributes:
        mask: Bool, the window of the image that holds the object, tight around it.
        origin: First row and column of the window.
        score: Predicted IoU.
        stability: IoU of the masks at a higher and a lower threshold.
        area: Pixels.
        point_xy: The prompt it comes from, or None.
        crop_xywh: The part of the image it was predicted in, or None for the whole.
        extra: Further entries for the record.
    """

    mask: np.ndarray
    origin: tuple[int, int]
    score: float = 1.0
    stability: float = 1.0
    area: int = 0
    point_xy: tuple[float, float] | None = None
    crop_xywh: tuple[int, int, int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the tight window; ends are the last pixels, as Segment Anything counts."""
        (y, x), (height, width) = self.origin, self.mask.shape
        return x, y, x + width - 1, y + height - 1

    @property
    def window(self) -> tuple[slice, slice]:
        """The slices (y, x) of the image that `mask` covers."""
        return tuple(slice(o, o + s) for o, s in zip(self.origin, self.mask.shape))

    def full(self, shape: Sequence[int]) -> np.ndarray:
        """The mask as a bool image."""
        image = np.zeros(tuple(shape), dtype=bool)
        image[self.window] = self.mask
        return image

    def record(self, shape: Sequence[int], mode: str = "binary_mask") -> dict[str, Any]:
        """A record as Segment Anything's automatic mask generator makes them.

        Args:
            shape: Height and width of the image.
            mode: "binary_mask", "uncompressed_rle" or "coco_rle".
        """
        x0, y0, x1, y1 = self.box
        record: dict[str, Any] = {
            "segmentation": self._encode(shape, mode),
            "area": self.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": float(self.score),
            "stability_score": float(self.stability),
            "crop_box": list(self.crop_xywh or (0, 0, shape[1], shape[0])),
        }
        if self.point_xy is not None:
            record["point_coords"] = [list(map(float, self.point_xy))]
        return record | dict(self.extra)

    def _encode(self, shape: Sequence[int], mode: str) -> Any:
        full = self.full(shape)
        if mode == "binary_mask":
            return full
        return to_uncompressed_rle(full) if mode == "uncompressed_rle" else to_coco_rle(full)


def make_instance(mask: np.ndarray, origin: tuple[int, int] = (0, 0), **facts: Any) -> Instance | None:
    """An instance whose window is tight, or None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    tight = np.ascontiguousarray(mask[y0:y1, x0:x1])
    facts.setdefault("area", int(np.count_nonzero(tight)))
    return Instance(tight, (int(origin[0] + y0), int(origin[1] + x0)), **facts)


def from_record(record: Mapping[str, Any]) -> Instance | None:
    """The instance of a mask record (with a binary mask or either run length encoding); None if it is empty.

    Raises:
        PromptError: It has no segmentation.
    """
    if "segmentation" not in record:
        raise PromptError(f"A mask record needs the entry 'segmentation', this one has {sorted(record)}.")
    segmentation = record["segmentation"]
    if isinstance(segmentation, Mapping):
        from micro_sam.instance_segmentation.rle import from_rle

        segmentation = from_rle(segmentation)
    mask = np.asarray(segmentation).astype(bool, copy=False)
    score = float(record.get("predicted_iou", record.get("score", 1.0)))
    facts = {"score": score, "stability": float(record.get("stability_score", 1.0))}
    bbox = record.get("bbox")
    if bbox is None:
        return make_instance(mask, **facts)
    x, y, width, height = (int(v) for v in bbox)
    x, y = max(x, 0), max(y, 0)
    return make_instance(mask[y : y + height + 1, x : x + width + 1], (y, x), **facts)


def boxes_of(instances: Sequence[Instance]) -> np.ndarray:
    """(n, 4) int64 boxes x0, y0, x1, y1, ends inclusive."""
    return np.array([instance.box for instance in instances], dtype=np.int64).reshape(-1, 4)
