"""Models for other programs: packages for the BioImage.IO model zoo, ONNX files, and models for inference servers.

Names are imported on first use, so that importing this package costs nothing.
"""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".automatic_adaptor": ("AutomaticSegmentationAdaptor",),
        ".bioengine_export": ("export_bioengine_model", "export_image_encoder", "export_onnx_model"),
        ".model_export": ("export_sam_model",),
        ".onnx_export": ("export_onnx_files", "quantize_onnx"),
        ".package_info": ("PackageInfo",),
        ".predictor_adaptor": ("PredictorAdaptor",),
    },
)
