"""Choose the segmenter that fits a model, a mode and tiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.base import Segmenter
from micro_sam.instance_segmentation.settings import MODES

if TYPE_CHECKING:
    from segment_anything import SamPredictor
    from torch.nn import Module

Mode = Literal["amg", "ais", "apg"]


def get_segmentation_mode(mode: str | None, has_decoder: bool) -> Mode:
    """The mode to use: the one asked for, or by default AIS with and AMG without a decoder.

    Raises:
        ParameterError: An unknown mode, or one that needs a decoder where there is none.
    """
    if mode in (None, "auto"):
        return "ais" if has_decoder else "amg"
    if mode not in MODES:
        raise ParameterError(f"The segmentation mode is one of auto, {', '.join(MODES)}, got {mode!r}.")
    if mode != "amg" and not has_decoder:
        raise ParameterError(
            f"Mode {mode!r} needs a model with a decoder, this one has none: use 'amg' or another model."
        )
    return mode


def get_instance_segmentation_generator(
    predictor: SamPredictor,
    is_tiled: bool,
    decoder: Module | None = None,
    segmentation_mode: Mode | None = None,
    **kwargs: Any,
) -> Segmenter:
    """The class for automatic instance segmentation that fits.

    Args:
        predictor: The model.
        is_tiled: For images (and embeddings) in tiles.
        decoder: The instance segmentation decoder, if the model has one.
        segmentation_mode: "amg", "ais" or "apg"; by default "ais" with a decoder and "amg" without.
        **kwargs: For the constructor (of automatic mask generation: ``points_per_side`` and so on).

    Raises:
        ParameterError: The mode is unknown or needs a decoder.
    """
    import micro_sam.instance_segmentation as classes

    mode = get_segmentation_mode(segmentation_mode, decoder is not None)
    if mode == "amg":
        name = "TiledAutomaticMaskGenerator" if is_tiled else "AutomaticMaskGenerator"
        return getattr(classes, name)(predictor, **kwargs)
    name = {"ais": "InstanceSegmentationWithDecoder", "apg": "AutomaticPromptGenerator"}[mode]
    return getattr(classes, f"Tiled{name}" if is_tiled else name)(predictor, decoder, **kwargs)


def tiled_counterpart(segmenter: Segmenter) -> Segmenter:
    """A segmenter of the same mode, model and points that works in tiles; itself if it does so already."""
    import micro_sam.instance_segmentation as classes

    name = type(segmenter).__name__
    if name.startswith("Tiled"):
        return segmenter
    cls = getattr(classes, f"Tiled{name}")
    if isinstance(segmenter, classes.AutomaticMaskGenerator):
        return cls(segmenter._predictor, **segmenter.tile_arguments())
    return cls(segmenter._predictor, segmenter._decoder)
