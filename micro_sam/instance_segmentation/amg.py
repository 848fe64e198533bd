"""Automatic mask generation (AMG): a grid of point prompts (Kirillov et al., "Segment Anything", 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam import embedding_access
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.base import Segmenter
from micro_sam.instance_segmentation.candidates import Candidates
from micro_sam.instance_segmentation.grids import crop_boxes, layer_grids
from micro_sam.instance_segmentation.instances import Instance, boxes_of, check_output_mode
from micro_sam.instance_segmentation.masks import instances_to_labels
from micro_sam.instance_segmentation.nms import box_nms
from micro_sam.instance_segmentation.regions import clean_regions
from micro_sam.instance_segmentation.settings import check_thresholds
from micro_sam.mask_decoding import Prompts, Upscaler, decode_batches, default_batch_size
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

logger = logging.getLogger(__name__)

#: Bytes for the logits of all candidates, shared out evenly among crops or tiles, so that memory stays bounded.
LOGIT_BUDGET = 2 << 30


class AMGBase(Segmenter):
    """Base of automatic mask generation: candidates by crop or tile, and their state."""

    def __init__(self) -> None:
        self._state: list[Candidates] | None = None
        self._shape: tuple[int, int] | None = None
        self._grids: list[np.ndarray] = []

    @property
    def _n_points(self) -> int:
        """Points in the grids of all layers."""
        return sum(map(len, self._grids))

    def get_state(self) -> dict[str, Any]:
        """All candidates as a dict of plain values: ``shape`` and, for each crop, a dict of arrays."""
        crops = self._initialized()
        state: dict[str, Any] = {"shape": np.array(self._shape), "n_points": self._n_points}
        return state | {f"crop-{number}": crop.state() for number, crop in enumerate(crops)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `get_state`.

        Raises:
            ParameterError: It is not the state of automatic mask generation, or one of another grid of points.
        """
        if "shape" not in state or "crop-0" not in state:
            raise ParameterError(f"This is no state of automatic mask generation, it has {sorted(state)}.")
        count = sum(name.startswith("crop-") for name in state)
        if int(state.get("n_points", self._n_points)) != self._n_points:
            raise ParameterError(
                f"The state was made with a grid of {state['n_points']} points, this generator has {self._n_points}: "
                "make one with the same points, or initialize it again."
            )
        self._shape = tuple(int(s) for s in state["shape"])
        self._state = [Candidates.from_state(state[f"crop-{number}"]) for number in range(count)]

    def clear_state(self) -> None:
        """Forget the candidates."""
        self._state = self._shape = None

    @staticmethod
    def _limit_memory(crop: Candidates, n_crops: int) -> None:
        """Make a crop's candidates fit into its share of the budget: without duplicates, then without the worst."""
        share, before = LOGIT_BUDGET // n_crops, len(crop)
        if crop.nbytes > share:
            crop.thin()
        if crop.nbytes > share:
            duplicates = before - len(crop)
            crop.keep_best(share)
            logger.warning(
                "Kept only the best %d of %d candidate masks (%d were duplicates) to bound memory.",
                *(len(crop), before, duplicates),
            )


class AutomaticMaskGenerator(AMGBase):
    """Segments everything in an image from a grid of point prompts.

    Args:
        predictor: The model.
        points_per_side: Points along each side of the image; None if ``point_grids`` are given.
        points_per_batch: Points decoded at the same time; by default what suits the device.
        crop_n_layers: Repeat on this many layers of crops; layer i has 2 ** i crops a side.
        crop_overlap_ratio: Overlap of the crops in the first layer, as fraction of the image.
        crop_n_points_downscale_factor: Points per side in layer i are divided by this to the power of i.
        point_grids: Explicit grids (n, 2) of (x, y) in [0, 1], one for each layer and one for the whole image.
        stability_score_offset: How far the mask threshold is moved to measure a mask's stability.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        points_per_side: int | None = 32,
        points_per_batch: int | None = None,
        crop_n_layers: int = 0,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        stability_score_offset: float = 1.0,
    ) -> None:
        super().__init__()
        self._predictor = predictor
        self._grids = layer_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor, point_grids)
        self._batch_size = points_per_batch or default_batch_size(predictor.device)
        self._n_layers, self._overlap_ratio = crop_n_layers, crop_overlap_ratio
        self._offset = stability_score_offset

    def tile_arguments(self) -> dict[str, Any]:
        """The arguments for making a generator that uses the same points in every tile; crops are not needed there."""
        return {
            "points_per_side": None,
            "points_per_batch": self._batch_size,
            "point_grids": self._grids[:1],
            "stability_score_offset": self._offset,
        }

    def initialize(
        self,
        image: np.ndarray | None,
        image_embeddings: ImageEmbeddings | None = None,
        i: int | None = None,
        verbose: bool = False,
        pbar_init: Callable[[int, str], None] | None = None,
        pbar_update: Callable[[int], None] | None = None,
    ) -> None:
        """Decode masks for all point prompts.

        Args:
            image: The image (YX or YXC). It may be None when embeddings are given and there are no crop layers.
            image_embeddings: Embeddings of the image; computed if not given.
            i: The slice, for embeddings of a volume or time series.
            verbose: Show a progress bar.
            pbar_init: Called with (total, description).
            pbar_update: Called with the number of points done.
        """
        drain(self.iter_initialize(image, image_embeddings, i), verbose, pbar_init, pbar_update)

    def iter_initialize(
        self, image: np.ndarray | None, image_embeddings: ImageEmbeddings | None = None, i: int | None = None
    ) -> Generator[Progress, None, None]:
        """`initialize` as a generator of `Progress`."""
        if self._n_layers and image is None:
            raise ParameterError("Crop layers need the image, embeddings alone are of the whole.")
        image_embeddings = yield from embedding_access.iter_embed(self._predictor, image, image_embeddings)
        shape = embedding_access.image_shape(image_embeddings)
        crops = crop_boxes(shape, self._n_layers, self._overlap_ratio)
        total, done, state = sum(len(self._grids[layer]) for _, layer in crops), 0, []
        for number, (box, layer) in enumerate(crops):
            if number == 0:
                embedding_access.activate(self._predictor, image_embeddings, i)
            else:
                self._set_crop(image, box)
            candidates = self._candidates(box)
            state.append(candidates)
            for n_points in self._decode_grid(candidates, self._grids[layer]):
                done += n_points
                yield Progress(done, total, "Predict masks for point grid")
            self._limit_memory(candidates, len(crops))
        self._state, self._shape = state, shape

    def _set_crop(self, image: np.ndarray, box: Sequence[int]) -> None:
        from micro_sam.embeddings.preprocessing import to_image

        x0, y0, x1, y1 = box
        self._predictor.set_image(to_image(image)[y0:y1, x0:x1])

    def _candidates(self, box: Sequence[int]) -> Candidates:
        return Candidates(box, Upscaler.of(self._predictor), self._offset, self._predictor.model.mask_threshold)

    def _decode_grid(self, candidates: Candidates, grid: np.ndarray) -> Generator[int, None, None]:
        """Decode a grid in what is set in the predictor; yields how many points were done."""
        height, width = self._predictor.original_size
        points = grid * [width, height]
        prompts = Prompts(points[:, None], np.ones((len(points), 1)))
        for which, logits, ious in decode_batches(self._predictor, prompts, True, self._batch_size):
            candidates.add(points[which], logits, ious)
            yield which.stop - which.start

    def generate(
        self,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        box_nms_thresh: float = 0.7,
        crop_nms_thresh: float = 0.7,
        min_mask_region_area: int = 0,
        output_mode: str = "instance_segmentation",
        with_background: bool = True,
    ) -> np.ndarray | list[dict[str, Any]]:
        """Select masks among the candidates.

        Args:
            pred_iou_thresh: Keep masks whose predicted IoU is above this.
            stability_score_thresh: Keep masks whose stability is at least this.
            box_nms_thresh: Of two masks whose boxes overlap more than this (IoU), the better one is kept.
            crop_nms_thresh: The same between crops; masks from smaller crops win.
            min_mask_region_area: Remove regions and fill holes smaller than this, in pixels.
            output_mode: "instance_segmentation" for a label image, or "binary_mask", "uncompressed_rle", "coco_rle"
                for a list of records as Segment Anything's generator gives.
            with_background: For label images: the largest mask, if larger than the unlabelled rest, is background.

        Returns:
            Label image (YX), uint32, or a list of records.

        Raises:
            ParameterError: A threshold is out of range.
            NotInitializedError: There is no image yet.
        """
        check_output_mode(output_mode)
        check_thresholds(
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            box_nms_thresh=box_nms_thresh,
            crop_nms_thresh=crop_nms_thresh,
        )
        crops = self._initialized()
        instances = self._select(crops, pred_iou_thresh, stability_score_thresh, box_nms_thresh, crop_nms_thresh)
        if min_mask_region_area > 0:
            instances = clean_all(instances, min_mask_region_area, self._shape, max(box_nms_thresh, crop_nms_thresh))
        if output_mode != "instance_segmentation":
            return [instance.record(self._shape, output_mode) for instance in instances]
        return instances_to_labels(  # a mask around a group of objects must not swallow them: small ones lie on top
            instances,
            self._shape,
            min_object_size=min_mask_region_area,
            with_background=with_background,
            merge_exclusively=False,
        )

    def _select(
        self, crops: Sequence[Candidates], iou: float, stability: float, box_nms_thresh: float, crop_nms_thresh: float
    ) -> list[Instance]:
        """The masks to return, in the order of Segment Anything's generator."""
        height, width = self._shape
        chosen: list[tuple[Candidates, int]] = []
        for crop in crops:
            indices = crop.select(iou, stability, box_nms_thresh, drop_near=(0, 0, width, height))
            chosen += [(crop, int(k)) for k in indices]
        if len(crops) > 1:
            origins = np.array([crop.crop_box[:2] * 2 for crop, _ in chosen]).reshape(-1, 4)
            boxes = np.array([crop.boxes[k] for crop, k in chosen]).reshape(-1, 4) + origins
            scores = np.array([1 / np.prod(crop.upscaler.original_size) for crop, _ in chosen])
            chosen = [chosen[k] for k in box_nms(boxes, scores, crop_nms_thresh)]
        return [crop.instance(k) for crop, k in chosen]


def clean_all(instances: Sequence[Instance], min_area: int, shape: Sequence[int], nms_thresh: float) -> list[Instance]:
    """Clean all masks; of those that become duplicates, the ones that needed no cleaning are kept."""
    cleaned = [clean_regions(instance, min_area, shape) for instance in instances]
    unchanged = np.array([a is b for a, b in zip(instances, cleaned)], dtype=float)
    return [cleaned[k] for k in box_nms(boxes_of(cleaned), unchanged, nms_thresh)]
