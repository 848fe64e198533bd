"""Which network: the registered models, safe checkpoint reading and export, encoders and decoders.

Names are imported on first use, so that importing this package costs nothing.
"""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".build_sam": ("build_sam_vit_b", "build_sam_vit_h", "build_sam_vit_l", "build_sam_vit_t"),
        ".cache": ("get_cache_directory", "is_cached", "microsam_cachedir"),
        ".checkpoint": ("Checkpoint", "read_checkpoint", "read_decoder"),
        ".decoder_adapter": ("DecoderAdapter", "get_decoder", "get_predictor_and_decoder", "get_unetr"),
        ".device": ("explain_device", "get_device"),
        ".download": ("models",),
        ".export": ("export_custom_sam_model",),
        ".peft_export": ("export_custom_qlora_model",),
        ".peft_sam": ("PEFT_Sam",),
        ".predictor": ("SamPredictor", "get_sam_model"),
        ".sam_3d_wrapper": ("get_sam_3d_model",),
        ".simple_sam_3d_wrapper": ("get_simple_sam_3d_model",),
        ".spec": ("BUILTIN_MODEL", "DEFAULT_MODEL", "ModelSpec", "get_model_names", "get_spec", "model_names"),
    },
)
