"""Changes of committed tracks and of who comes from whom. Each is one step of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.state import COMMITTED

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.tracking import TrackingSession


def set_mother(session: TrackingSession, daughter: int, mother: int | None) -> None:
    """Say from which track a track comes; None for from none.

    Raises:
        PromptError: The daughter begins before the mother ends, or there is nothing to change.
    """
    before = session.lineage.mother(daughter)
    if before == mother:
        raise PromptError(f"Track {daughter} comes from {_named(mother)} already.")
    if mother is None:
        lineage = session.lineage.unlinked(daughter)
    else:
        lineage = session.lineage.linked(daughter, mother, session.committed_frames.spans())
    text = f"Track {daughter} comes from {_named(mother)}"
    session.do("relink", text, {"lineage": lineage}, details={"daughter": daughter, "mother": mother})


def _named(track: int | None) -> str:
    return "no other track" if track is None else f"track {track}"


def join(session: TrackingSession, one: int, other: int) -> None:
    """Make two tracks one that goes on; it has the id and mother of the earlier and the daughters of the later.

    Raises:
        PromptError: They are the same, or both are there in some frame.
    """
    if one == other:
        raise PromptError("Click two different tracks to join them.")
    frames = {track: session.committed_frames.frames_of(track) for track in (one, other)}
    both = sorted(set(frames[one]) & set(frames[other]))
    if both:
        raise PromptError(
            f"Tracks {one} and {other} are both there in frame {both[0]}, so they cannot be the same object; cut one of "
            "them there first, or merge them with Shift+M."
        )
    first, second = sorted((one, other), key=lambda track: frames[track][0])
    lineage = session.lineage.unlinked(second)
    if frames[first][-1] < frames[second][0]:  # daughters the earlier had end with it
        for daughter in session.lineage.daughters(first):
            lineage = lineage.unlinked(daughter)
    values = {"lineage": lineage.renamed({second: first})}
    diff = _renamed(session, second, first, frames[second][0], frames[second][-1] + 1)
    session.do("join", f"Joined tracks {first} and {second}", values, [diff], {"tracks": [first, second]})


def cut(session: TrackingSession, track: int, frame: int) -> int:
    """End a track before a frame; what follows is a track of its own, with the daughters.

    Returns:
        The id of what follows.

    Raises:
        PromptError: The track begins in this frame.
    """
    frames = session.committed_frames.frames_of(track)
    if not frames or frame <= frames[0]:
        raise PromptError(f"Track {track} begins in this frame: go to the frame in which the new track should begin.")
    if frame > frames[-1]:
        raise PromptError(f"Track {track} ends in frame {frames[-1]}, before this one.")
    new = session.next_id(COMMITTED)
    daughters = session.lineage.daughters(track)
    lineage = session.lineage
    for daughter in daughters:
        lineage = lineage.unlinked(daughter)
    lineage = lineage.merged(type(lineage).of(dict.fromkeys(daughters, new)))
    diff = _renamed(session, track, new, frame, frames[-1] + 1)
    text = f"Cut track {track} before frame {frame}; it goes on as track {new}"
    session.do("cut", text, {"lineage": lineage}, [diff], {"track": track, "frame": frame, "new": new})
    return new


def remove_from_frame(session: TrackingSession, track: int, frame: int) -> None:
    """Remove a track from one frame.

    Raises:
        PromptError: It is not there.
    """
    diff = _renamed(session, track, 0, frame, frame + 1)
    if diff is None:
        raise PromptError(f"Track {track} is not in frame {frame}.")
    session.do("erase", f"Removed track {track} from frame {frame}", diffs=[diff], details={"track": track})


def _renamed(session: TrackingSession, old: int, new: int, first: int, stop: int) -> Diff | None:
    labels = session.labels[COMMITTED]
    window = (slice(first, stop), *(slice(0, n) for n in labels.shape[1:]))
    block = labels[window]
    return Diff.between(COMMITTED, window, block, np.where(block == old, new, block).astype(labels.dtype))
