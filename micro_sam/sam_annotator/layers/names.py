"""What layers are called, and the colours of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT

if TYPE_CHECKING:
    from napari import Viewer

POINTS_NAME, SHAPES_NAME = "point_prompts", "prompts"
#: From the bottom up.
LABEL_NAMES = {COMMITTED: "committed_objects", AUTO: "auto_segmentation", CURRENT: "current_object"}
IMAGE_NAME = "image"
OUTLINE_NAME = "object under review"
POSITIVE, NEGATIVE = "positive", "negative"
COLORS = {POSITIVE: "#2ecc40", NEGATIVE: "#ff4136"}


def free_name(viewer: Viewer, name: str) -> str:
    """A name that no layer has, made from this one."""
    taken, number, found = {layer.name for layer in viewer.layers}, 1, name
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found
