"""What is installed, what it computes on, what is wrong and how to mend it."""

from __future__ import annotations

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__, {".problems": ("Problem", "find_problems", "model_files"), ".overview": ("report", "summary")}
)
