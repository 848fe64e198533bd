"""Images in, labels and pictures out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ORIGINS = {
    "ImageFile": "micro_sam.io.images",
    "open_image": "micro_sam.io.images",
    "load_image_data": "micro_sam.io.images",
    "Resolution": "micro_sam.io.resolution",
    "write_labels": "micro_sam.io.labels",
    "check_labels_path": "micro_sam.io.labels",
    "draw_overlay": "micro_sam.io.overlay",
    "write_overlay": "micro_sam.io.overlay",
    "expand_inputs": "micro_sam.io.paths",
    "unique_names": "micro_sam.io.paths",
    "replacing": "micro_sam.io.paths",
}

__all__ = list(_ORIGINS)


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ORIGINS[name]), name)
    globals()[name] = value
    return value
