"""Which track the next prompts belong to, and following tracks through time."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import EMBEDDINGS, shown
from micro_sam.sam_annotator.control.doubtful import DoubtfulControl
from micro_sam.sam_annotator.session.following import Follower, iter_follow, plan_following
from micro_sam.sam_annotator.session.lineage import Draft
from micro_sam.sam_annotator.session.prompts import DIVISION, TRACK, Prompts
from micro_sam.sam_annotator.session.state import CURRENT
from micro_sam.sam_annotator.session.track_prompts import division_frame, ids_in_prompts
from micro_sam.sam_annotator.session.tracking import TrackingSession

if TYPE_CHECKING:
    from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult
    from micro_sam.sam_annotator.layers_tracking import TrackingLayers

FOLLOWING = "following"
_STATES = (TRACK, DIVISION)


class FollowControl(DoubtfulControl):
    """Which track the next prompts belong to, and following tracks through time."""

    session: TrackingSession
    layers: TrackingLayers
    _commit_when_followed: bool

    # Which track the next prompts belong to

    def _on_draft(self, draft: Draft) -> None:
        known = draft.tracks
        active = self.layers.active_track if self.layers.active_track in known else known[0]
        self.panel.follow.menu.set_choices(_STATES, known)
        self._next_prompts(active, TRACK if active != self.layers.active_track else self.layers.state)

    def _next_prompts(self, track: int, state: str = TRACK) -> None:
        self.layers.next_prompts(track, state)
        self.panel.follow.menu.show_choice(track, state)
        self.update_hint()

    def _on_chosen(self) -> None:
        """A prompt was selected: the next ones belong to its track, as napari has it."""
        self.panel.later(lambda: None if self._closed else self._take_chosen())

    def _take_chosen(self) -> None:
        if self.layers.take_defaults():
            self.panel.follow.menu.show_choice(self.layers.active_track, self.layers.state)

    @shown
    def choose_track(self, track: int) -> None:
        """The next prompts belong to this track."""
        self._message = None
        self._next_prompts(track)

    @shown
    def choose_state(self, state: str) -> None:
        """The next prompts say that the object goes on, or divides after this frame."""
        self._message = None
        self._next_prompts(self.layers.active_track, state)

    @shown
    def toggle_state(self) -> None:
        """The next prompt says that the object divides after this frame, or no longer says so."""
        self.choose_state(TRACK if self.layers.state == DIVISION else DIVISION)

    @shown
    def next_track(self) -> None:
        """The next prompts belong to the next track of the lineage."""
        known = self.session.draft.tracks
        here = known.index(self.layers.active_track) if self.layers.active_track in known else -1
        self.choose_track(known[(here + 1) % len(known)])

    @shown
    def _on_prompts(self, prompts: Prompts) -> None:
        before = self.session.prompts
        super()._on_prompts(prompts)
        if len(self.session.prompts) > len(
            before
        ):  # later, because napari selects what was placed, and takes it as default
            self.panel.later(functools.partial(self._after_prompt, before, self.session.prompts))

    def _after_prompt(self, before: Prompts, now: Prompts) -> None:
        """After a division go on with the daughters in the next frame; after the first daughter with the second."""
        draft, active = self.session.draft, self.layers.active_track
        there = ids_in_prompts(now)
        if self._closed or now != self.session.prompts:
            return
        if division_frame(before, active) is None and (last := division_frame(now, active)) is not None:
            daughters = draft.lineage.daughters(active)
            if last + 1 >= len(self.session.labels[CURRENT]):
                self._next_prompts(active)
                self.say(
                    "This is the last frame, so there are no daughters to see; undo the division if it is not one."
                )
            elif daughters:
                self._next_prompts(daughters[0])
                self.layers.go_to(last + 1)
                self.say(f"Track {active} divides: click its daughters in this frame, track {daughters[0]} first.")
            return
        mother = draft.lineage.mother(active)
        waiting = [] if mother is None else [d for d in draft.lineage.daughters(mother) if d not in there]
        if waiting and active in there and active not in ids_in_prompts(before):
            self._next_prompts(waiting[0])
            self.say(f"Now the other daughter, track {waiting[0]}.")

    # Following

    @shown
    def follow(self) -> None:
        """Follow the current lineage through time."""
        self._message = None
        if self.jobs.is_running(FOLLOWING):
            raise PromptError("Tracking is running already: wait until it is done, or cancel it.")
        if not self.session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        self.previews.drop()
        plan, settings = plan_following(self.session), self.panel.follow.form.values()
        projection = self.panel.follow.projection.currentData()
        propagation = settings.propagation(projection)
        details = {"projection": projection, **vars(settings), **self.session._model_name()}
        follower = Follower(self.session, plan, details)
        self._start(
            FOLLOWING,
            lambda: iter_follow(self.session, plan, propagation),
            on_item=functools.partial(self._on_followed_frame, follower),
            on_done=functools.partial(self._on_followed, follower),
            on_end=self._on_follow_end,
        )

    @shown
    def _on_followed_frame(self, follower: Follower, item: Any) -> None:
        follower.take(item)

    @shown
    def _on_followed(self, follower: Follower, result: PropagationResult) -> None:
        follower.finish(result)
        lost = sorted((frames[0], track) for track, frames in result.ended.items() if frames)
        if lost:
            frame, track = lost[0]
            self.say(
                f"Track {track} was lost in frame {frame}. If it is there, click it and press Shift+S again; else commit "
                "the lineage [C]."
            )
        else:
            rest = " Look through the frames, correct with prompts and Shift+S, then commit the lineage [C]."
            self.say("Tracked." + (self._doubtful_text() or rest), "done")
        if self._commit_when_followed:
            self.panel.later(lambda: None if self._closed else self.commit())

    def _on_follow_end(self) -> None:
        self._commit_when_followed = False
        self._show_doubtful()

    @shown
    def commit(self) -> None:
        """Commit the current lineage; if it is still being tracked, as soon as that is done."""
        if self.jobs.is_running(FOLLOWING):
            self._commit_when_followed = True
            self.say("Still tracking: the lineage is committed as soon as that is done.")
            return
        super().commit()

    @shown
    def clear(self) -> None:
        """Remove prompts and the current lineage."""
        self._end_following()
        super().clear()

    @shown
    def undo(self) -> None:
        """Take back the last step; tracking that is running is ended."""
        self._end_following()
        super().undo()

    @shown
    def redo(self) -> None:
        """Make the step again that was taken back last."""
        self._end_following()
        super().redo()

    def _end_following(self) -> None:
        self._commit_when_followed = False
        self.jobs.cancel(FOLLOWING)
