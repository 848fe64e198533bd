"""Automatic instance segmentation: AMG (a grid of prompts), AIS (the decoder) and APG (prompts from the decoder).

Every class is loaded on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ORIGINS = {
    "AMGBase": "micro_sam.instance_segmentation.amg",
    "AutomaticMaskGenerator": "micro_sam.instance_segmentation.amg",
    "TiledAutomaticMaskGenerator": "micro_sam.instance_segmentation.amg_tiled",
    "InstanceSegmentationWithDecoder": "micro_sam.instance_segmentation.ais",
    "TiledInstanceSegmentationWithDecoder": "micro_sam.instance_segmentation.ais",
    "AutomaticPromptGenerator": "micro_sam.instance_segmentation.apg",
    "TiledAutomaticPromptGenerator": "micro_sam.instance_segmentation.apg_tiled",
    "get_instance_segmentation_generator": "micro_sam.instance_segmentation.factory",
    "get_segmentation_mode": "micro_sam.instance_segmentation.factory",
    "NotInitializedError": "micro_sam.instance_segmentation.base",
    "Segmenter": "micro_sam.instance_segmentation.base",
    "AMGSettings": "micro_sam.instance_segmentation.settings",
    "AISSettings": "micro_sam.instance_segmentation.settings",
    "APGSettings": "micro_sam.instance_segmentation.settings",
    "settings_for": "micro_sam.instance_segmentation.settings",
    "mask_data_to_segmentation": "micro_sam.instance_segmentation.masks",
    "apply_nms": "micro_sam.instance_segmentation.nms",
    "save_state": "micro_sam.instance_segmentation.state",
    "load_state": "micro_sam.instance_segmentation.state",
    "has_state": "micro_sam.instance_segmentation.state",
    "compute_iou": "micro_sam.labels",
    "get_centers_and_bounding_boxes": "micro_sam.labels",
    "segmentation_to_one_hot": "micro_sam.labels",
    "get_block_shape": "micro_sam.embeddings.tiling",
    "DecoderAdapter": "micro_sam.models.decoder_adapter",
    "get_decoder": "micro_sam.models.decoder_adapter",
    "get_unetr": "micro_sam.models.decoder_adapter",
    "get_predictor_and_decoder": "micro_sam.models.decoder_adapter",
}

__all__ = list(_ORIGINS)


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ORIGINS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})
