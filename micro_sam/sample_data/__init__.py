"""Sample data: published images, fetched on first use, and synthetic ones, which need no network."""

from importlib import import_module

_PUBLISHED = ("image_series", "wholeslide", "livecell", "hela_2d", "3d", "tracking")
_EXPORTS = (
    {"synthetic_data": "synthetic", "KINDS": "synthetic", "published_samples": "published", "fetch_sample": "published"}
    | {f"fetch_{name}_example_data": "published" for name in (*_PUBLISHED, "nucleus_3d", "wholeslide_histopathology")}
    | {f"sample_data_{name}": "published" for name in (*_PUBLISHED, "segmentation")}
    | {"fetch_tracking_segmentation_data": "published"}
)
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
