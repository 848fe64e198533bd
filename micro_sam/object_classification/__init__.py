"""Classify objects of a segmentation: features from the model's embeddings and from shape, and a random forest."""

from __future__ import annotations

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".features": ("ObjectFeatures", "compute_object_features", "iter_object_features"),
        ".forest": ("Forest",),
        ".classifier": ("ObjectClass", "Samples", "TrainedClassifier", "load_classifier", "save_classifier", "train"),
        ".prediction": (
            "classify",
            "iter_classify",
            "project_prediction_to_segmentation",
            "run_prediction_with_object_classifier",
        ),
        ".tables": ("write_class_table",),
    },
)
