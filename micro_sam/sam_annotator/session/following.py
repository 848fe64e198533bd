"""Follow the draft through time: what is annotated becomes masks in all other frames, which appear as they are found."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.multi_dimensional_segmentation.through_time import iter_track_masks
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.follow_settings import FollowSettings
from micro_sam.sam_annotator.session.frames import ids_of
from micro_sam.sam_annotator.session.segmentation import Request, own_predictor
from micro_sam.sam_annotator.session.state import COMMITTED, CURRENT
from micro_sam.sam_annotator.session.track_prompts import TrackSegmentation, division_frame
from micro_sam.sam_annotator.session.tracking import TrackingSession

if TYPE_CHECKING:
    from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
    from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class FollowPlan:
    """What is to be followed.

    Attributes:
        masks: For each track its masks (YX) by frame, as far as they are there.
        anchors: (track, frame): where masks are given by prompts or were painted, and stay.
        missing: Frames that have prompts but no masks yet.
        stops: For a track the first frame in which it is not any more.
        starts: For each track its first given frame; before it nothing changes.
        occupied: Labels of other tracks.
    """

    masks: dict[int, dict[int, np.ndarray]]
    anchors: frozenset[Pair]
    missing: tuple[Request, ...]
    stops: Mapping[int, int]
    starts: Mapping[int, int]
    occupied: np.ndarray


@dataclass(frozen=True, eq=False)
class FollowedFrame:
    """The tracks that were found in a frame.

    Attributes:
        frame: Which.
        plane: Their labels (YX).
        certainty: How sure the model is of the one that is least certain, 0 to 1; None if all are as a person gave them.
    """

    frame: int
    plane: np.ndarray
    certainty: float | None = None


def plan_following(session: TrackingSession) -> FollowPlan:
    """What there is to follow, from the prompts and painted masks of the draft.

    Raises:
        PromptError: Nothing is annotated, or a track has prompts where it is not any more.
    """
    current = session.labels[CURRENT]
    anchors = given_masks(session)
    starts = {track: min(f for t, f in anchors if t == track) for track in sorted({t for t, _ in anchors})}
    if not starts:
        raise PromptError("Nothing is annotated yet: click the object in a frame, then track it with Shift+S.")
    stops = {track: stop for track in starts if (stop := _stop_of(session, track, starts)) is not None}
    masks: dict[int, dict[int, np.ndarray]] = {track: {} for track in starts}
    absent: set[int] = set()
    for track, frame in sorted(anchors):
        if track in stops and frame >= stops[track] and frame >= starts[track]:
            raise PromptError(
                f"Track {track} ends before frame {stops[track]}, but has prompts in frame {frame}; remove one of them."
            )
        mask = current[frame] == track
        masks[track].update({frame: mask} if mask.any() else {})
        absent |= set() if mask.any() else {frame}
    requests = tuple(session.request(frame) for frame in sorted(absent))
    home = COMMITTED if session.correcting is None else session.correcting.key
    return FollowPlan(masks, frozenset(anchors), requests, stops, starts, session.labels[home])


def given_masks(session: TrackingSession) -> set[Pair]:
    """(track, frame) of all masks of the draft that prompts say or that were painted."""
    pairs = {(track, frame) for track, frame in session.draft.fixed if (session.labels[CURRENT][frame] == track).any()}
    for track in session.draft.tracks:
        own = session.prompts.of_track(track)
        pairs |= {(track, frame) for frame in own.slices() if own.in_slice(frame).has_positive}
    return pairs


def _stop_of(session: TrackingSession, track: int, starts: Mapping[int, int]) -> int | None:
    """The first frame in which a track is not any more: it divides, or only negative points are there."""
    own = session.prompts.of_track(track)
    stops = [f for f in own.slices() if f > starts[track] and not own.in_slice(f).has_positive]
    divides = division_frame(session.prompts, track)
    stops += [] if divides is None else [divides + 1]
    stops += [starts[daughter] for daughter in session.draft.lineage.daughters(track) if daughter in starts]
    if session.correcting is not None and session.correcting.key == COMMITTED and divides is None:
        spans = session.committed_frames.spans()
        stops += [spans[d][0] for d in session.lineage.daughters(track) if d in spans and spans[d][0] > starts[track]]
    return min(stops, default=None)


def iter_follow(
    session: TrackingSession, plan: FollowPlan, settings: PropagationSettings
) -> Generator[Progress | TrackSegmentation | FollowedFrame, None, PropagationResult]:
    """Follow tracks; hands out masks of frames that had none, and each frame as it is finished. Changes nothing."""
    masks = {track: dict(by_frame) for track, by_frame in plan.masks.items()}
    for number, request in enumerate(plan.missing):
        yield Progress(number, len(plan.missing), "Segment annotated frames")
        answer = session.run(request)
        for track, shape in zip(answer.tracks, answer.objects):
            if shape is not None and (track, request.i) in plan.anchors:
                masks[track].setdefault(request.i, shape.full(plan.occupied.shape[1:]))
        yield answer
    masks = {track: by_frame for track, by_frame in masks.items() if by_frame}
    if not masks:
        raise PromptError("No object was found where the prompts are: add prompts, or draw a box around it.")
    work = iter_track_masks(
        masks,
        own_predictor(session.predictor),
        session.embeddings,
        settings,
        stop_frames={track: stop for track, stop in plan.stops.items() if track in masks},
        occupied=plan.occupied,
    )
    try:
        while True:
            try:
                step = next(work)
            except StopIteration as stop:
                return stop.value
            if step.z is not None:
                plane = np.array(step.result.segmentation[step.z])
                yield FollowedFrame(step.z, plane, _certainty(step.result, step.z))
            yield Progress(step.done, step.total, "Track through time")
    finally:
        work.close()


def _certainty(result: PropagationResult, frame: int) -> float | None:
    """How sure the model is of the track in a frame that is least certain; None if it followed none into it."""
    scores = [by_frame[frame] for by_frame in result.scores.values() if frame in by_frame]
    return min((score.score for score in scores if score.origin != "annotated"), default=None)


class Follower:
    """Writes what is found into the draft, as one step that can be undone, also if a person goes on working meanwhile.

    Args:
        session: The session.
        plan: What is followed.
        details: What the journal should say.
    """

    def __init__(self, session: TrackingSession, plan: FollowPlan, details: Mapping[str, Any] | None = None) -> None:
        self.session, self.plan, self._details = session, plan, dict(details or {})
        self._step: int | None = None
        self._visited: set[int] = set()

    def take(self, item: TrackSegmentation | FollowedFrame) -> None:
        """Write masks of a frame."""
        if isinstance(item, FollowedFrame):
            self._visited.add(item.frame)
            self._write(self._diff(item.frame, item.plane), self.session._certainty_diff(item.frame, item.certainty))
            return
        frame = item.request.i
        there = ids_of(self.session.labels[CURRENT][frame])
        pairs = zip(item.tracks, item.objects)
        found = [(track, shape) for track, shape in pairs if shape is not None and track not in there]
        self._write(self.session.frame_diff(frame, found, set()))

    def finish(self, result: PropagationResult) -> None:
        """Remove what is left of the tracks where they are not any more."""
        for frame in range(min(self.plan.starts.values()), len(result.segmentation)):
            if frame not in self._visited:
                nothing = self.session._certainty_diff(frame, None)
                self._write(self._diff(frame, np.asarray(result.segmentation[frame])), nothing)

    def _diff(self, frame: int, plane: np.ndarray) -> Diff | None:
        """From the tracks in a frame to those that were found; what a person gave meanwhile stays."""
        now = self.session.labels[CURRENT][frame]
        given = given_masks(self.session) | self.plan.anchors
        known = set(self.session.draft.tracks)
        free = [t for t, start in self.plan.starts.items() if frame >= start and (t, frame) not in given and t in known]
        new = np.where(np.isin(now, free), 0, now)
        fresh = np.isin(plane, free) & (new == 0)
        new[fresh] = plane[fresh]
        window = (slice(frame, frame + 1), slice(0, now.shape[0]), slice(0, now.shape[1]))
        return Diff.between(CURRENT, window, now[None], new[None].astype(now.dtype))

    def _write(self, *diffs: Diff | None) -> None:
        made = [diff for diff in diffs if diff is not None]
        if not made:
            return
        last = self.session.history.last
        if self._step is not None and last is not None and last.number == self._step:
            self.session.amend(made, {"frame": made[0].window[0].start})
            return
        n_tracks = len(self.plan.starts)
        text = f"Tracked {n_tracks} track{'s' if n_tracks > 1 else ''} through time"
        self._step = self.session.do("track", text, diffs=made, details=self._details).number


def follow(session: TrackingSession, settings: PropagationSettings | None = None) -> PropagationResult:
    """Follow the draft through time at once.

    Args:
        session: The session, with prompts, a model and embeddings.
        settings: Projection, IoU threshold, motion.
    """
    plan = plan_following(session)
    follower = Follower(session, plan)
    work = iter_follow(session, plan, settings or FollowSettings().propagation())
    while True:
        try:
            item = next(work)
        except StopIteration as stop:
            follower.finish(stop.value)
            return stop.value
        if not isinstance(item, Progress):
            follower.take(item)
