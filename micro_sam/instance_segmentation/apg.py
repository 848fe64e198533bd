"""Automatic prompt generation (APG): prompts from the decoder's predictions, masks from the prompts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from micro_sam import embedding_access
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.ais import InstanceSegmentationWithDecoder
from micro_sam.instance_segmentation.base import NotInitializedError
from micro_sam.instance_segmentation.instances import Instance, check_output_mode
from micro_sam.instance_segmentation.masks import paint
from micro_sam.instance_segmentation.nms import filter_and_suppress
from micro_sam.instance_segmentation.prompted import DecodeOptions, decode_instances
from micro_sam.instance_segmentation.regions import part_at_prompt
from micro_sam.instance_segmentation.settings import AISSettings, APGSettings
from micro_sam.instance_segmentation.watershed import Maps, label_seeds, landscape, seed_points
from micro_sam.mask_decoding import Prompts
from micro_sam.progress import Progress

PromptFunction = Callable[..., Mapping[str, np.ndarray]]


def seed_settings(settings: APGSettings) -> AISSettings:
    """The settings for finding seeds."""
    return AISSettings(
        settings.center_distance_threshold, settings.boundary_distance_threshold, settings.foreground_threshold
    )


def derive_prompts(
    foreground: np.ndarray,
    center_distances: np.ndarray,
    boundary_distances: np.ndarray,
    center_distance_threshold: float = 0.5,
    boundary_distance_threshold: float = 0.5,
    foreground_threshold: float = 0.5,
) -> dict[str, np.ndarray]:
    """One positive point for each seed of `InstanceSegmentationWithDecoder`, at its most interior pixel.

    Args:
        foreground: Foreground probability (YX).
        center_distances: Distance to the object centre (YX).
        boundary_distances: Inverted distance to the object boundary (YX).
        center_distance_threshold: Seeds lie where the distance to the centre is below this.
        boundary_distance_threshold: And the distance to the boundary is below this.
        foreground_threshold: And the foreground probability is above this.

    Returns:
        "points" (n, 1, 2) in (x, y) and "point_labels" (n, 1).
    """
    settings = AISSettings(center_distance_threshold, boundary_distance_threshold, foreground_threshold)
    land = landscape(Maps(foreground, center_distances, boundary_distances), settings)
    points = seed_points(label_seeds(land.seeds))[:, None, ::-1].astype(np.float64)
    return {"points": points, "point_labels": np.ones(points.shape[:2], dtype=np.int64)}


class AutomaticPromptGenerator(InstanceSegmentationWithDecoder):
    """Instance segmentation by prompts that are derived from the decoder's predictions.

    Args:
        predictor: The model.
        decoder: As in `InstanceSegmentationWithDecoder`.
    """

    _image_embeddings: Any = None
    _i: int | None = None

    def iter_initialize(
        self, image: np.ndarray | None, image_embeddings: Any = None, i: int | None = None
    ) -> Generator[Progress, None, None]:
        """`initialize` as a generator of `Progress`."""
        image_embeddings = yield from embedding_access.iter_embed(self._predictor, image, image_embeddings)
        yield from super().iter_initialize(None, image_embeddings, i)
        self._image_embeddings, self._i = image_embeddings, i

    def get_state(self) -> dict[str, Any]:
        """The decoder's maps, and a reference to the embeddings (which have their own store)."""
        return super().get_state() | {"image_embeddings": self._image_embeddings, "i": self._i}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; stored maps need the entry "image_embeddings" (and "i" for a slice) beside them.

        Without embeddings the image that is set in the predictor is used.
        """
        super().set_state(state)
        self._image_embeddings, self._i = state.get("image_embeddings"), state.get("i")

    def clear_state(self) -> None:
        """Forget the maps and the embeddings."""
        super().clear_state()
        self._image_embeddings = self._i = None

    def generate(
        self,
        min_size: int = 25,
        center_distance_threshold: float = 0.5,
        boundary_distance_threshold: float = 0.5,
        foreground_threshold: float = 0.5,
        multimasking: bool = False,
        batch_size: int = 32,
        nms_threshold: float = 0.9,
        intersection_over_min: bool = False,
        output_mode: str = "instance_segmentation",
        mask_threshold: float | str | None = None,
        refine_with_box_prompts: bool = False,
        prompt_function: PromptFunction | None = None,
        optimize_memory: bool = False,
    ) -> np.ndarray | list[dict[str, Any]]:
        """Derive prompts, decode a mask for each, keep of it the part in which the prompt lies, and merge them.

        Args:
            min_size: Smaller objects, in pixels, are removed.
            center_distance_threshold: Prompts lie where the distance to the centre is below this.
            boundary_distance_threshold: And the distance to the boundary is below this.
            foreground_threshold: And the foreground probability is above this.
            multimasking: Let the model propose three masks for each prompt and take the best.
            batch_size: Prompts decoded at the same time.
            nms_threshold: Of two masks that overlap more than this, the better one is kept.
            intersection_over_min: Measure overlap by the smaller mask's area instead of the union.
            output_mode: "instance_segmentation" for a label image, or "binary_mask", "uncompressed_rle", "coco_rle"
                for a list of mask records.
            mask_threshold: Where to cut the logits: a number, "auto" for each mask's sharpest cut, or None.
            refine_with_box_prompts: Decode each mask again, from the box around it, and take the better one.
            prompt_function: Called as `derive_prompts` is, returns "points" (n, k, 2) in (x, y) with "point_labels"
                (n, k), and/or "boxes" (n, 4).
            optimize_memory: Remove duplicates after every tile and not only at the end.

        Returns:
            Label image (YX), uint32, or a list of records.

        Raises:
            ParameterError: A parameter is out of range.
            NotInitializedError: There is no image yet.
        """
        check_output_mode(output_mode)
        settings = APGSettings(
            min_size,
            center_distance_threshold,
            boundary_distance_threshold,
            foreground_threshold,
            multimasking,
            batch_size,
            nms_threshold,
            intersection_over_min,
            refine_with_box_prompts,
        )
        options = DecodeOptions(batch_size, multimasking, mask_threshold=mask_threshold)
        maps: Maps = self._initialized().read()
        instances: list[Instance] = []
        for found in self._instances(maps, settings, options, prompt_function):
            if optimize_memory:
                found = filter_and_suppress(found, min_size, nms_threshold, over_min=intersection_over_min)
            instances += found
        kept = filter_and_suppress(instances, min_size, nms_threshold, over_min=intersection_over_min)
        if output_mode != "instance_segmentation":
            return [instance.record(maps.shape, output_mode) for instance in kept]
        return paint(kept, maps.shape, min_size=min_size)

    def _instances(
        self, maps: Maps, settings: APGSettings, options: DecodeOptions, prompt_function: PromptFunction | None
    ) -> Generator[list[Instance], None, None]:
        """The masks of all prompts, in batches; which of them belong together does not matter."""
        if self._image_embeddings is not None:
            embedding_access.activate(self._predictor, self._image_embeddings, self._i)
        elif not self._predictor.is_image_set or tuple(self._predictor.original_size) != maps.shape:
            raise NotInitializedError("The state has no embeddings: pass 'image_embeddings' in it, or set the image.")
        prompts = prompts_from(maps, settings, prompt_function)
        found = self._decode(prompts, options, settings.refine_with_box_prompts)
        yield [instance for instance in found if instance is not None]

    def _decode(self, prompts: Prompts, options: DecodeOptions, refine: bool) -> list[Instance | None]:
        """One mask for each prompt, in the image that is set in the predictor."""
        if len(prompts) == 0:
            return []
        found = self._parts(prompts, options)
        there = [k for k, instance in enumerate(found) if instance is not None]
        if not refine or not there:
            return found
        shift = np.tile(options.origin[::-1], 2)
        boxes = np.array([found[k].box for k in there]) + [0, 0, 1, 1] - shift
        single = DecodeOptions(options.batch_size, mask_threshold=options.mask_threshold, origin=options.origin)
        for k, refined in zip(there, self._parts(Prompts(boxes=boxes), single)):
            if refined is not None and refined.score >= found[k].score:
                found[k] = refined
        return found

    def _parts(self, prompts: Prompts, options: DecodeOptions) -> list[Instance | None]:
        """Of each prompt's mask the part that was asked for."""
        firsts = (masks[0] for masks in decode_instances(self._predictor, prompts, options))
        return [None if first is None else part_at_prompt(first) for first in firsts]


def prompts_from(maps: Maps, settings: APGSettings, prompt_function: PromptFunction | None) -> Prompts:
    """Call the prompt function and check what it returns."""
    made = (prompt_function or derive_prompts)(
        maps.foreground,
        maps.center_distances,
        maps.boundary_distances,
        center_distance_threshold=settings.center_distance_threshold,
        boundary_distance_threshold=settings.boundary_distance_threshold,
        foreground_threshold=settings.foreground_threshold,
    )
    if set(made) - {"points", "point_labels", "boxes"} or not {"points", "boxes"} & set(made):
        raise ParameterError(
            f"prompt_function must return 'points' with 'point_labels', or 'boxes'; got {sorted(made)}."
        )
    points, labels, boxes = (made.get(key) for key in ("points", "point_labels", "boxes"))
    if points is not None and labels is None:
        labels = np.ones(np.shape(points)[:2])
    return Prompts(points, labels, boxes)
