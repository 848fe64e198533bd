"""The annotators: napari windows for interactive segmentation, and the sessions behind them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from micro_sam.lazy import lazy_names
from micro_sam.sam_annotator.llvm import keep_triton_out

keep_triton_out()

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".annotator_2d": ("Annotator2d", "annotator_2d"),
        ".annotator_3d": ("Annotator3d", "annotator_3d"),
        ".annotator_tracking": ("AnnotatorTracking", "annotator_tracking", "create_tracking_menu"),
        ".object_classifier": ("ObjectClassifier", "image_series_object_classifier", "object_classifier"),
        ".settings": ("SettingsWidget",),
        ".image_series_annotator": ("ImageSeriesAnnotator", "image_folder_annotator", "image_series_annotator"),
        ".training_ui": ("TrainingWidget",),
    },
)


class _Package(ModuleType):
    """Keeps ``micro_sam.sam_annotator.annotator_2d`` the function, where Python would put the module of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in __all__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
