"""The controller of the tracking annotator: prompts of tracks, following them, tools for tracks that exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import InputError, PromptError
from micro_sam.io.tracks_reading import read_tracks
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import AUTOMATIC, EMBEDDINGS, MODEL, SAVING, shown
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.hints_tracking import next_tracking_step
from micro_sam.sam_annotator.session import track_edits
from micro_sam.sam_annotator.session.following import Follower, iter_follow, plan_following
from micro_sam.sam_annotator.session.lineage import Draft, Lineage
from micro_sam.sam_annotator.session.prompts import DIVISION, TRACK, Prompts
from micro_sam.sam_annotator.session.saving import resolution_of
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT
from micro_sam.sam_annotator.session.tracking import TrackingSession, division_frame, ids_in_prompts
from micro_sam.sam_annotator.session.tracking_work import iter_save_tracks, iter_track_everything

if TYPE_CHECKING:
    from micro_sam.multi_dimensional_segmentation.propagation_result import PropagationResult
    from micro_sam.sam_annotator.layers_tracking import TrackingLayers

FOLLOWING, LOADING = "following", "loading"
_STATES = (TRACK, DIVISION)


class TrackingController(AnnotatorController):
    """One tracking annotator in one viewer, see `AnnotatorController`."""

    session: TrackingSession
    layers: TrackingLayers
    image_slots = (EMBEDDINGS, AUTOMATIC, FOLLOWING, LOADING)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._first_click: tuple[str, int] | None = None
        self._commit_when_followed = self._drawing = False
        super().__init__(*arguments, **options)
        self._on_draft(self.session.draft)

    def _table(self) -> list[tuple[Any, Callable]]:
        panel, session = self.panel, self.session
        return [
            *super()._table(),
            (panel.follow.follow_requested, self.follow),
            (panel.follow.menu.track_chosen, self.choose_track),
            (panel.follow.menu.state_chosen, self.choose_state),
            (panel.tracks.tool_chosen, self.use_edit_tool),
            (panel.tracks.load_requested, self.load),
            (self.layers.chosen, self._on_chosen),
            (session.events.draft, self._on_draft),
            (session.events.lineage, self._on_lineage),
            (session.labels_changed, self._on_committed),
        ]

    def _key_actions(self) -> dict[str, Callable[[], Any]]:
        actions = super()._key_actions()
        actions |= {"Shift-S": self.follow, "Shift-V": self.toggle_state, "Shift-N": self.next_track}
        for key, tool in (("L", "relink"), ("J", "join"), ("K", "cut"), ("R", "erase")):
            actions[f"Shift-{key}"] = functools.partial(self.act_under_cursor, tool)
        return actions

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
            self.say(
                "Tracked. Look through the frames, correct with prompts and Shift+S, then commit the lineage [C].",
                "done",
            )

    def _on_follow_end(self) -> None:
        if self._commit_when_followed:
            self._commit_when_followed = False
            self.panel.later(lambda: None if self._closed else self.commit())

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

    # Tracking everything

    @shown
    def segment_automatically(self) -> None:
        """Segment all frames and link the objects."""
        session = self.session
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        settings, links = self.panel.automatic.settings(), self.panel.automatic.links.values()
        self._start(
            AUTOMATIC,
            lambda: iter_track_everything(
                self.automatic, session.image, session.predictor, session.embeddings, settings, links
            ),
            on_done=functools.partial(self._on_tracked, settings, links),
        )

    @shown
    def _on_tracked(self, settings: Any, links: Any, found: tuple[np.ndarray, Lineage]) -> None:
        labels, lineage = found
        n_tracks, n_divisions = len(np.unique(labels)) - 1, len(set(lineage.mothers.values()))
        details = {
            "mode": settings.mode,
            "settings": {**settings.init_kwargs(), **settings.generate_kwargs(), **vars(links)},
            "found": n_tracks,
        }
        text = f"Tracked automatically: {n_tracks} tracks, {n_divisions} divisions"
        self.session.put_tracks(AUTO, labels, lineage, text, kind="automatic", **details)
        self.say(f"{n_tracks} tracks and {n_divisions} divisions found. Commit all, or change parameters.", "done")

    # Tracks that exist

    @shown
    def use_edit_tool(self, tool: str) -> None:
        """Make an edit tool active; the active one is ended."""
        self._first_click = None
        super().use_edit_tool(tool)

    @shown
    def leave_tool(self) -> None:
        """Go back to placing points; the first click of a tool that needs two is forgotten."""
        self._first_click = None
        super().leave_tool()
        self.update_hint()

    def _show_tool(self, tool: str = "point") -> None:
        super()._show_tool(tool)
        self.panel.tracks.set_tool(self.tools.tool)

    @shown
    def _on_click(self, tool: str, position: Any) -> None:
        if tool in ("relink", "join", "cut", "erase"):
            self._message = None
            self._on_track_click(tool, position)
            self.update_hint()
            return
        super()._on_click(tool, position)

    def _on_track_click(self, tool: str, position: Any) -> None:
        hit = self._hit(position)
        if hit.label and hit.key != COMMITTED:
            raise PromptError("Tracks are edited once they are committed: press Commit all, or load them as tracks.")
        track, frame = hit.label, hit.position[0]
        if tool in ("cut", "erase"):
            if not track:
                raise PromptError("There is no track here: click into one.")
            (track_edits.cut if tool == "cut" else track_edits.remove_from_frame)(self.session, track, frame)
            self.say(f"{self.session.history.last.text}.", "done")
            return
        self._on_pair_click(tool, track)

    def _on_pair_click(self, tool: str, track: int) -> None:
        first = self._first_click[1] if self._first_click and self._first_click[0] == tool else None
        if first is None:
            if not track:
                raise PromptError("There is no track here: click into one.")
            self._first_click = (tool, track)
            then = (
                "its mother in an earlier frame, or background for none" if tool == "relink" else "what it goes on as"
            )
            self.say(f"Track {track}. Now point at {then}.")
            return
        self._first_click = None
        if tool == "relink":
            track_edits.set_mother(self.session, first, track or None)
        else:
            track_edits.join(self.session, first, track)
        self.say(f"{self.session.history.last.text}.", "done")

    def _on_stepped(self) -> None:
        super()._on_stepped()
        last = self.session.history.last
        unlinked = [] if last is None else last.details.get("unlinked", ())
        if unlinked and last.kind not in ("delete", "load") and not self.session._replaying:
            daughters = ", ".join(str(daughter) for daughter, _ in unlinked)
            self.panel.later(
                lambda: self.say(f"Track {daughters} lost its mother, because it no longer follows it in time.")
            )

    # Results

    def begin_with(self, result: Any) -> None:
        """Begin with tracks that were made earlier: a path, labels (TYX), or labels and lineages."""
        self._put_loaded(result)

    @shown
    def load(self, path: str) -> None:
        """Load tracks from disk in the place of the committed ones; this can be undone."""
        if self.session.image is None:
            raise PromptError("Open the time series first, then load its tracks.")

        def work() -> Any:
            yield Progress(0, 0, "Load tracks")
            return read_tracks(path)

        self._start(LOADING, work, on_done=self._on_loaded)

    @shown
    def _on_loaded(self, result: Any) -> None:
        self._put_loaded(result)
        n_tracks = len(self.session.committed_frames.spans())
        self.say(f"Loaded {n_tracks} tracks. Click one with Shift+E to correct it.", "done")

    def _put_loaded(self, result: Any) -> None:
        result = read_tracks(result) if isinstance(result, str | Path) else result
        labels, families = result if isinstance(result, tuple) else (result, [])
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"Tracked labels are integers TYX, got {labels.dtype}; convert them first.")
        self.session.put_tracks(COMMITTED, labels, Lineage.from_families(families), "Loaded tracks")

    @shown
    def save(self, path: str) -> None:
        """Save the committed tracks: labels with a graph beside them, or a Cell Tracking Challenge folder."""
        session = self.session
        if session.image is None:
            raise PromptError("There is nothing to save yet.")
        labels, families, origins = session.finished_labels(), session.lineages(), dict(session.origins)
        resolution, journal = resolution_of(session.image.scale[-2:], self.layers.units()), session.journal_folder

        def saved(written: Path) -> None:
            session.note("saved", {"path": str(written.absolute())})
            self.say(f"Saved to {written}.", "done")

        self._start(
            SAVING, lambda: iter_save_tracks(path, labels, families, origins, resolution, journal), on_done=saved
        )

    @shown
    def restore(self) -> None:
        """Take up the work that was found, with its lineages."""
        super().restore()
        self._on_draft(self.session.draft)
        self._draw_tracks_later()

    # What is shown

    def show_layers(self) -> None:
        """Make layers that are missing, and bind the keys in them."""
        super().show_layers()
        self._on_draft(self.session.draft)
        self._draw_tracks_later()

    def _on_lineage(self, lineage: Lineage) -> None:
        self._draw_tracks_later()

    def _on_committed(self, key: str, window: tuple) -> None:
        if key == COMMITTED:
            self._draw_tracks_later()

    def _draw_tracks_later(self) -> None:
        """Draw the tracks once, when everything that is going on now is done."""
        if not self._drawing:
            self._drawing = True
            self.panel.later(self._draw_tracks)

    @shown
    def _draw_tracks(self) -> None:
        self._drawing = False
        if self._closed or not self.session.labels or self.layers.image is None:
            return
        points = self.session.committed_frames.points()
        there = set(points[:, 0].astype(int).tolist())
        self.layers.show_tracks(points, self.session.lineage.only(there).mothers)

    def update_hint(self) -> None:
        """Show what to do next in the time series, unless there is a message."""
        if self._message is not None or self._closed:
            return
        session = self.session
        computing = self.jobs.is_running(EMBEDDINGS) or self.jobs.is_running(MODEL)
        busy = (computing and not session.can_segment) or self.jobs.is_running(FOLLOWING)
        if not busy:
            first = None if self._first_click is None else self._first_click[1]
            self.panel.status.say(next_tracking_step(session, self.layers, self.tools.tool, first, computing))
