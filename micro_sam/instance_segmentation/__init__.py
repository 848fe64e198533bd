"""Automatic instance segmentation: AMG (a grid of prompts), AIS (the decoder) and APG (prompts from the decoder).

Every class is loaded on first use, so that importing this package costs nothing.
"""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".amg": ("AMGBase", "AutomaticMaskGenerator"),
        ".amg_tiled": ("TiledAutomaticMaskGenerator",),
        ".ais": ("InstanceSegmentationWithDecoder", "TiledInstanceSegmentationWithDecoder"),
        ".apg": ("AutomaticPromptGenerator",),
        ".apg_tiled": ("TiledAutomaticPromptGenerator",),
        ".factory": ("get_instance_segmentation_generator", "get_segmentation_mode", "tiled_counterpart"),
        ".base": ("NotInitializedError", "Segmenter"),
        ".settings": ("AMGSettings", "AISSettings", "APGSettings", "settings_for"),
        ".masks": ("mask_data_to_segmentation",),
        ".nms": ("apply_nms",),
        ".state": ("save_state", "load_state", "has_state"),
        "micro_sam.labels": ("compute_iou", "get_centers_and_bounding_boxes", "segmentation_to_one_hot"),
        "micro_sam.embeddings.tiling": ("get_block_shape",),
        "micro_sam.models.decoder_adapter": ("DecoderAdapter", "get_decoder", "get_unetr", "get_predictor_and_decoder"),
    },
)
