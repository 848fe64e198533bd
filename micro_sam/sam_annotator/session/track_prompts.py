"""Prompts that belong to tracks, and the masks that come of them, in a session on a time series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.instance_segmentation.instances import Instance
from micro_sam.multi_dimensional_segmentation.shapes import merged
from micro_sam.sam_annotator.session.diff import Diff, bounding_window, united
from micro_sam.sam_annotator.session.frames import ids_of
from micro_sam.sam_annotator.session.history import Step
from micro_sam.sam_annotator.session.lineage import Draft
from micro_sam.sam_annotator.session.prompts import DIVISION, Prompts, rounded, what_changed
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation, own_predictor, segment
from micro_sam.sam_annotator.session.session import AnnotationSession
from micro_sam.sam_annotator.session.state import COMMITTED, CURRENT


@dataclass(frozen=True, eq=False)
class TrackSegmentation(Segmentation):
    """The answer to a request about tracks.

    Attributes:
        tracks: For each of the objects its track.
    """

    tracks: tuple[int, ...] = ()


class TrackPrompting(AnnotationSession):
    """The part of a session on a time series that turns prompts of tracks into masks of tracks.

    The current labels hold the tracks of one lineage, the draft, under the ids that they will have when they are committed.
    """

    draft: Draft

    # Prompts belong to tracks

    def set_prompts(self, prompts: Prompts) -> Step | None:
        """The prompts were changed; one that says division gives its track two daughters."""
        prompts = rounded(self._with_tracks(prompts))
        if prompts == self.prompts:
            return None
        draft = self._draft_for(prompts)
        return self.do("prompts", what_changed(self.prompts, prompts), {"prompts": prompts, "draft": draft})

    def _with_tracks(self, prompts: Prompts) -> Prompts:
        """Prompts without a track of the draft belong to its first."""
        first, known = self.draft.tracks[0], set(self.draft.tracks)
        points, shapes = (
            tuple(p if p.track_id in known else replace(p, track_id=first) for p in some)
            for some in (prompts.points, prompts.shapes)
        )
        return Prompts(points, shapes)

    def _draft_for(self, prompts: Prompts) -> Draft:
        """The draft with daughters for tracks that divide, and without those of divisions that were taken back."""
        draft, there = self.draft, ids_in_prompts(prompts)
        for track in draft.tracks:
            daughters, divides = draft.lineage.daughters(track), division_frame(prompts, track) is not None
            if divides and not daughters:
                first = max(self.next_id(self._home), max(draft.tracks) + 1)
                draft = draft.divided(track, (first, first + 1))
            elif daughters and not divides and not any(d in there or self._is_drawn(d) for d in daughters):
                draft = draft.without(daughters)
        return draft

    @property
    def _home(self) -> str:
        """The label array that the draft is for."""
        return COMMITTED if self.correcting is None else self.correcting.key

    def _is_drawn(self, track: int) -> bool:
        return bool((self.labels[CURRENT] == track).any())

    @property
    def _is_drafting(self) -> bool:
        """Whether the ids of the draft are in use."""
        return bool(self.prompts) or len(self.draft.tracks) > 1 or bool(self.labels[CURRENT].any())

    def next_id(self, key: str) -> int:
        """The id for a new object; ids of the draft are taken, too."""
        number = super().next_id(key)
        if key != COMMITTED:
            return number
        return max(number, max(self.draft.tracks) + 1) if self._is_drafting else number

    # Segmenting

    def request(self, i: int | None = None, prompts: Prompts | None = None) -> Request:
        """What is to be segmented in a frame now, for all tracks that have prompts there."""
        request = super().request(i, None if prompts is None else self._with_tracks(prompts))
        return replace(request, batched=False)

    def run(self, request: Request) -> TrackSegmentation:
        """Answer a request track by track; changes nothing, may be called in another thread."""
        if not self.can_segment:
            raise PromptError("There are no embeddings of this image yet: compute them first.")
        if not request.prompts.has_positive and request.start is None:
            raise PromptError("Nothing in this frame says where the object is: click it, or draw a box around it.")
        predictor = own_predictor(self.predictor)
        tracks = [t for t in sorted(ids_in_prompts(request.prompts)) if request.prompts.of_track(t).has_positive]
        lifted = None if self.correcting is None else self.correcting.label
        if request.start is not None and lifted in ids_in_prompts(request.prompts):
            tracks = sorted({*tracks, lifted})
        objects = []
        for track in tracks:
            own = request.prompts.of_track(track)
            start = request.start if track == lifted else None
            answer = segment(predictor, self.embeddings, replace(request, prompts=own, start=start))
            objects.append(merged(answer.found))
        return TrackSegmentation(request, tuple(objects), tuple(tracks))

    def _answer_diff(self, segmentation: Segmentation) -> Diff | None:
        """Write the masks of tracks into their frame; a track whose prompts there were removed vanishes from it."""
        request, tracks = segmentation.request, getattr(segmentation, "tracks", ())
        gone = self._tracks_without_prompts(request) - set(tracks)
        found = [(track, shape) for track, shape in zip(tracks, segmentation.objects) if shape is not None]
        lifted = self._lifted_in(request)
        if lifted in gone:  # no prompts any more: as it was
            found.append((lifted, request.start))
        return self.frame_diff(request.i, found, {*tracks, *gone})

    def _tracks_without_prompts(self, request: Request) -> set[int]:
        """Tracks whose mask in a frame came from prompts that are gone, or that say that the object is not there."""
        last = self.history.last
        before = last.values["prompts"][0] if last is not None and "prompts" in last.values else self.prompts
        had = ids_in_prompts(before.in_slice(request.i)) | ids_in_prompts(request.prompts)
        return {track for track in had if not request.prompts.of_track(track).has_positive}

    def _lifted_in(self, request: Request) -> int | None:
        """The track that is corrected, if it was in this frame."""
        return None if request.start is None or self.correcting is None else self.correcting.label

    def frame_diff(self, i: int, found: Sequence[tuple[int, Instance]], emptied: set[int]) -> Diff | None:
        """From the current tracks in a frame to these; the one with the best score has a pixel that several want.

        Args:
            i: The frame.
            found: (track, mask).
            emptied: Tracks that are nowhere else in this frame.
        """
        plane = self.labels[CURRENT][i]
        stale = np.isin(plane, sorted(emptied)) if emptied else np.zeros(plane.shape, bool)
        window = united([bounding_window(stale), *(shape.window for _, shape in found)])
        if window is None:
            return None
        block = np.where(stale[window], 0, plane[window])
        for track, shape in sorted(found, key=lambda pair: pair[1].score):
            inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(shape.window, window))
            block[inner][shape.mask] = track
        return Diff.between(CURRENT, (slice(i, i + 1), *window), plane[window][None], block[None])

    def painted(self, key: str, window: tuple, before: np.ndarray) -> None:
        """Labels were painted by hand; in the draft these masks stay as they are when tracks are followed."""
        now = np.array(self.labels[key][window])
        diff = Diff.between(key, window, before, now)
        if diff is None:
            return
        values = {"draft": self._draft_with_painted(window, before, now)} if key == CURRENT else {}
        self.do("paint", "Painted", values, [diff], {"labels": key})

    def _draft_with_painted(self, window: tuple, before: np.ndarray, now: np.ndarray) -> Draft:
        pairs, known = set(), set(self.draft.tracks)
        for frame, old, new in zip(range(window[0].start, window[0].stop), before, now):
            pairs |= {(track, frame) for track in (ids_of(old[old != new]) | ids_of(new[old != new])) & known}
        return self.draft.with_fixed(pairs)


def ids_in_prompts(prompts: Prompts) -> set[int]:
    """The tracks that have prompts."""
    return {p.track_id for p in (*prompts.points, *prompts.shapes) if p.track_id is not None}


def division_frame(prompts: Prompts, track: int) -> int | None:
    """The last frame of a track that divides, as a prompt says; None if it does not."""
    own = prompts.of_track(track)
    frames = [p.i for p in (*own.points, *own.shapes) if p.state == DIVISION]
    return min(frames, default=None)
