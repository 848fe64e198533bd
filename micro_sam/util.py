"""The names that scripts and notebooks import: re-exports only, each loaded on first use.

``import micro_sam.util`` is quick because nothing behind these names is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from micro_sam.lazy import lazy_names
from micro_sam.models.spec import DEFAULT_MODEL

if TYPE_CHECKING:
    from micro_sam.models.predictor import SamPredictor  # noqa: F401

#: The model that is used when none is named.
_DEFAULT_MODEL = DEFAULT_MODEL

#: TinyViT models are always available: their encoder is part of micro_sam.
VIT_T_SUPPORT = True

__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "micro_sam.models.predictor": ("SamPredictor", "get_sam_model"),
        "micro_sam.models.cache": ("get_cache_directory", "microsam_cachedir"),
        "micro_sam.models.download": ("models",),
        "micro_sam.models.device": ("get_device",),
        "micro_sam.models.peft_export": ("export_custom_qlora_model",),
        "micro_sam.models.spec": ("get_model_names",),
        "micro_sam.models.export": ("export_custom_sam_model",),
        "micro_sam.progress": ("handle_pbar",),
        "micro_sam.embeddings": ("ImageEmbeddings", "precompute_image_embeddings", "set_precomputed"),
        "micro_sam.io": ("load_image_data",),
        "micro_sam.cli.info": ("micro_sam_info",),
        "micro_sam.instance_segmentation": (
            "compute_iou",
            "get_centers_and_bounding_boxes",
            "segmentation_to_one_hot",
            "get_block_shape",
            "mask_data_to_segmentation",
            "apply_nms",
        ),
    },
)
__all__ = ["VIT_T_SUPPORT", *_names]  # noqa: PLE0604
