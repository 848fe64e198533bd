"""Which state belongs to the journal of which annotator."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from micro_sam.sam_annotator.session.state import SessionState

#: By the annotator's kind, for those whose sessions hold more than labels and prompts.
_STATES = {
    "annotator_tracking": ("micro_sam.sam_annotator.session.tracking", "TrackingSession"),
    "object_classifier": ("micro_sam.sam_annotator.session.classification", "ClassificationSession"),
}


def state_for(header: Mapping[str, Any]) -> SessionState:
    """An empty state into which a journal with this first line can be replayed."""
    module, name = _STATES.get(str(header.get("annotator")), (None, None))
    return SessionState() if module is None else getattr(import_module(module), name)()
