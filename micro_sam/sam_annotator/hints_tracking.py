"""What the tracking annotator waits for, as a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micro_sam.sam_annotator.hints import Situation, next_step
from micro_sam.sam_annotator.session.frames import ids_of
from micro_sam.sam_annotator.session.prompts import DIVISION
from micro_sam.sam_annotator.session.state import AUTO, CURRENT

if TYPE_CHECKING:
    from micro_sam.sam_annotator.layers_tracking import TrackingLayers
    from micro_sam.sam_annotator.session.tracking import TrackingSession

_TOOLS = {
    "relink": "Click the track whose mother is to be set.",
    "join": "Click the first of two tracks that are the same object.",
    "cut": "Go to the frame in which a new track begins, and click the track there.",
    "erase": "Click an object to remove it from this frame only.",
}
_SECOND = {
    "relink": "Now click the mother of track {} in an earlier frame, or background for none.",
    "join": "Now click the track as which track {} goes on, in another frame.",
}


def next_tracking_step(
    session: TrackingSession, layers: TrackingLayers, tool: str | None, first: int | None, computing: bool
) -> str:
    """What to do next.

    Args:
        session: What is annotated.
        layers: What is looked at, and what the next prompts belong to.
        tool: The edit tool that is active.
        first: The track that was clicked first with a tool that takes two.
        computing: Embeddings are being computed.
    """
    if first is not None and tool in _SECOND:
        return _SECOND[tool].format(first)
    if tool in _TOOLS:
        return f"{_TOOLS[tool]} Esc ends the tool."
    has_current = bool(session.labels) and bool(session.labels[CURRENT].any())
    if tool is None and session.can_segment and session.image is not None:
        if layers.state == DIVISION:
            return f"Click track {layers.active_track} in the last frame before it divides."
        if has_current:
            return _with_current(session, layers)
    correcting = None if session.correcting is None else session.correcting.label
    return next_step(
        Situation(
            has_image=session.image is not None,
            computing=computing,
            can_segment=session.can_segment,
            prompts=len(session.prompts),
            live=session.options.live,
            has_current=has_current,
            correcting=correcting,
            has_auto=bool(session.labels) and bool(session.labels[AUTO].any()),
            tool=tool,
        )
    )


def _with_current(session: TrackingSession, layers: TrackingLayers) -> str:
    waiting = [t for t in session.draft.lineage.mothers if not (session.labels[CURRENT] == t).any()]
    if waiting:
        return f"Click the daughter cells in the frame after the division; now track {layers.active_track}."
    if session.correcting is not None:
        label = session.correcting.label
        return (
            f"Correcting track {label}: add prompts where it is wrong, Shift+S tracks it on from there, C commits it."
        )
    frames = sum(1 for plane in session.labels[CURRENT] if ids_of(plane))
    if frames > 1:
        return "Commit the lineage [C], or correct it in any frame with prompts and track again [Shift+S]."
    return "Track it through time [Shift+S]; if it divides, go to its last frame, press Shift+V and click it."
