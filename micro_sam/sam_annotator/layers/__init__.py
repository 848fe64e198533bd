"""The one place that knows the names of napari layers and the shapes of their data."""

from micro_sam.sam_annotator.layers.annotator_layers import AnnotatorLayers
from micro_sam.sam_annotator.layers.base import camera_of
from micro_sam.sam_annotator.layers.image_part import add_image
from micro_sam.sam_annotator.layers.labels_part import Hit
from micro_sam.sam_annotator.layers.names import (
    COLORS,
    IMAGE_NAME,
    LABEL_NAMES,
    NEGATIVE,
    OUTLINE_NAME,
    POINTS_NAME,
    POSITIVE,
    SHAPES_NAME,
    free_name,
)

__all__ = [
    "COLORS",
    "IMAGE_NAME",
    "LABEL_NAMES",
    "NEGATIVE",
    "OUTLINE_NAME",
    "POINTS_NAME",
    "POSITIVE",
    "SHAPES_NAME",
    "AnnotatorLayers",
    "Hit",
    "add_image",
    "camera_of",
    "free_name",
]
