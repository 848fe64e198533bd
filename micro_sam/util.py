"""The names that scripts and notebooks import: re-exports only, each loaded on first use.

``import micro_sam.util`` is quick because nothing behind these names is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micro_sam.models.predictor import SamPredictor  # noqa: F401

#: The model that is used when none is named.
_DEFAULT_MODEL = "vit_b_lm"

#: TinyViT models are always available: their encoder is part of micro_sam.
VIT_T_SUPPORT = True

_ORIGINS = {
    "SamPredictor": "micro_sam.models.predictor",
    "ImageEmbeddings": "micro_sam.embeddings",
    "get_cache_directory": "micro_sam.models.cache",
    "microsam_cachedir": "micro_sam.models.cache",
    "models": "micro_sam.models.download",
    "get_device": "micro_sam.models.device",
    "get_sam_model": "micro_sam.models.predictor",
    "get_model_names": "micro_sam.models.spec",
    "export_custom_sam_model": "micro_sam.models.export",
    "handle_pbar": "micro_sam.progress",
    "precompute_image_embeddings": "micro_sam.embeddings",
    "set_precomputed": "micro_sam.embeddings",
    "load_image_data": "micro_sam.io",
    "micro_sam_info": "micro_sam.cli.info",
    "compute_iou": "micro_sam.instance_segmentation",
    "get_centers_and_bounding_boxes": "micro_sam.instance_segmentation",
    "segmentation_to_one_hot": "micro_sam.instance_segmentation",
    "get_block_shape": "micro_sam.instance_segmentation",
    "mask_data_to_segmentation": "micro_sam.instance_segmentation",
    "apply_nms": "micro_sam.instance_segmentation",
}

__all__ = ["VIT_T_SUPPORT", *_ORIGINS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ORIGINS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGINS})
