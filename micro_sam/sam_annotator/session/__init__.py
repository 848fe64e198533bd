"""What is being annotated, without any window: a session takes numpy arrays and prompts, and gives labels.

session = AnnotationSession()
session.open(AnnotatedImage.from_array(image))
session.predictor, session.embeddings = predictor, embeddings
session.set_prompts(Prompts(points=(Point(120, 88),)))
session.segment()
session.commit()
session.undo()
"""

from __future__ import annotations

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".image": ("AnnotatedImage",),
        ".prompts": ("Point", "Prompts", "Shape"),
        ".segmentation": ("Request", "Segmentation", "segment"),
        ".session": ("AnnotationSession", "Options"),
        ".state": ("AUTO", "COMMITTED", "CURRENT", "Correction"),
        ".journal": ("read_journal",),
        ".recovery": ("Unfinished", "find_unfinished"),
        ".headless": ("replay",),
    },
)
