"""How tracks are followed and linked; nothing heavy is loaded for them, so that a command can make its flags of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
    from micro_sam.multi_dimensional_segmentation.tracking import TrackingSettings

#: Slices and frames in which the model is less certain than this are listed.
DOUBTFUL = 0.5


def _described(label: str, bounds: tuple[float | None, float | None] | None, help: str) -> dict[str, Any]:
    return {"label": label, "range": bounds, "help": help}


@dataclass(frozen=True)
class FollowSettings:
    """How tracks are followed; ``projection`` is chosen beside the form."""

    iou_threshold: float = field(
        default=0.5,
        metadata=_described(
            "IoU threshold", (0.0, 1.0), "A track ends where its mask overlaps the one before (moved on) by less."
        ),
    )
    motion_smoothing: float = field(
        default=0.5,
        metadata=_described(
            "Motion smoothing", (0.0, 1.0), "Which share of its earlier motion an object keeps; less for abrupt motion."
        ),
    )
    doubtful_below: float = field(
        default=DOUBTFUL,
        metadata=_described(
            "Doubtful below", (0.0, 1.0), "Frames in which the model is less certain than this of a track are listed."
        ),
    )
    box_extension: float = field(
        default=0.025,
        metadata=_described("Box extension", (0.0, None), "Look this much further on every side, as part of the size."),
    )

    def propagation(self, projection: str = "mask") -> PropagationSettings:
        """The same for the library."""
        from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings

        return PropagationSettings(
            projection, self.iou_threshold, self.box_extension, motion_smoothing=self.motion_smoothing
        )


@dataclass(frozen=True)
class LinkSettings:
    """How segmented frames are linked."""

    gap_closing: int = field(
        default=1, metadata=_described("Gap closing", (0, 20), "How many frames in a row an object may be missing.")
    )
    min_time_extent: int = field(
        default=1, metadata=_described("Shortest track", (1, None), "Families that span fewer frames are left out.")
    )
    divisions: bool = field(default=True, metadata=_described("Objects divide", None, "Whether objects may divide."))

    def tracking(self) -> TrackingSettings:
        """The same for the library."""
        from micro_sam.multi_dimensional_segmentation.tracking import TrackingSettings

        return TrackingSettings(
            self.gap_closing, self.min_time_extent, mode="greedy" if self.divisions else "greedy_nodiv"
        )
