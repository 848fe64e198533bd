"""What the annotator waits for, as a sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Situation:
    """What matters for the next step.

    Attributes:
        has_image: An image is chosen.
        computing: Embeddings are being computed.
        can_segment: There are embeddings, maybe not everywhere yet.
        prompts: How many prompts there are.
        live: Masks appear by themselves.
        has_current: There is a current object.
        correcting: The id of the object that is being corrected.
        has_auto: There is an automatic segmentation.
        tool: The edit tool that is active.
    """

    has_image: bool = False
    computing: bool = False
    can_segment: bool = False
    prompts: int = 0
    live: bool = True
    has_current: bool = False
    correcting: int | None = None
    has_auto: bool = False
    tool: str | None = None


_TOOLS = {
    "correct": "Click the object that you want to correct.",
    "split": "Draw a stroke across an object to cut it in two.",
    "merge": "Draw a stroke from one object into another to make them one.",
    "delete": "Click the object to delete.",
    "fill": "Click an object to fill its holes.",
}


def next_step(now: Situation) -> str:
    """What to do next."""
    if now.tool is not None:
        return f"{_TOOLS[now.tool]} Esc ends the tool."
    if not now.has_image:
        return "Open an image: drag a file into the window, or take a sample from the File menu."
    if not now.can_segment:
        return "Computing embeddings …" if now.computing else "Choose a model and press Compute embeddings."
    if now.correcting is not None:
        return f"Correcting object {now.correcting}: add positive or negative points [T], then commit it [C]."
    if now.prompts and not now.has_current:
        return (
            "Press S to segment the object." if not now.live else "Nothing found here yet: add a prompt, or draw a box."
        )
    if now.has_current:
        return "Commit the object [C], or refine it with more points; T switches to negative ones."
    if now.has_auto:
        return "Look at the result: commit all, change parameters, or review the doubtful objects [W]."
    return "Click an object, or draw a box around it."
