"""The annotators: napari windows for interactive segmentation, and the sessions behind them."""

from __future__ import annotations

from micro_sam.lazy import lazy_names
from micro_sam.sam_annotator.llvm import keep_triton_out

keep_triton_out()

__getattr__, __dir__, __all__ = lazy_names(__name__, {".annotator_2d": ("Annotator2d", "annotator_2d")})
