"""The controller of the tracking annotator: prompts of tracks, following them, tools for tracks that exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from micro_sam.sam_annotator.control.base import AUTOMATIC, EMBEDDINGS, MODEL, REVIEW, shown
from micro_sam.sam_annotator.control.following import FOLLOWING, FollowControl
from micro_sam.sam_annotator.control.tracks import LOADING, TrackControl
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.hints_tracking import next_tracking_step
from micro_sam.sam_annotator.session.follow_settings import FollowSettings, LinkSettings
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.state import COMMITTED
from micro_sam.sam_annotator.session.tracking import TrackingSession

if TYPE_CHECKING:
    from micro_sam.sam_annotator.layers_tracking import TrackingLayers
    from micro_sam.sam_annotator.widgets.doubtful_list import DoubtfulList


class TrackingController(FollowControl, TrackControl, AnnotatorController):
    """One tracking annotator in one viewer, see `AnnotatorController`."""

    session: TrackingSession
    layers: TrackingLayers
    image_slots = (EMBEDDINGS, AUTOMATIC, REVIEW, FOLLOWING, LOADING)
    _to_follow = "track an object with Shift+S first"
    _slice_name = "frame"
    _reviewed_name = "track"

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
            (panel.follow.form.changed, self._on_follow_settings),
            (panel.follow.doubtful.chosen, self.look_at),
            (panel.follow.doubtful.next_requested, self.look_at_next_doubtful),
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
        actions["J"] = self.look_at_next_doubtful
        for key, tool in (("L", "relink"), ("J", "join"), ("K", "cut"), ("R", "erase")):
            actions[f"Shift-{key}"] = functools.partial(self.act_under_cursor, tool)
        return actions

    @shown
    def restore(self) -> None:
        """Take up the work that was found, with its lineages."""
        super().restore()
        self._on_draft(self.session.draft)
        self._draw_tracks_later()
        self._show_doubtful()

    # Options

    def _option_names(self) -> set[str]:
        return super()._option_names() | {"projection"} | _names(FollowSettings) | _names(LinkSettings)

    def _take_options(self, changes: dict[str, Any]) -> None:
        follow, links = self.panel.follow, self.panel.automatic.links
        for form, names in ((follow.form, _names(FollowSettings)), (links, _names(LinkSettings))):
            own = {name: changes.pop(name) for name in list(changes) if name in names}
            form.set_values(replace(form.values(), **own))
        follow.choose_projection(changes.pop("projection", None))
        self._doubtful_below = follow.form.values().doubtful_below
        super()._take_options(changes)

    # What is shown

    def show_layers(self) -> None:
        """Make layers that are missing, and bind the keys in them."""
        super().show_layers()
        self._on_draft(self.session.draft)
        self._draw_tracks_later()

    @property
    def _doubtful_list(self) -> DoubtfulList:
        return self.panel.follow.doubtful

    @shown
    def _on_follow_settings(self) -> None:
        self._doubtful_below = self.panel.follow.form.values().doubtful_below
        self._show_doubtful()

    def _on_stepped(self) -> None:
        super()._on_stepped()
        if not self.jobs.is_running(FOLLOWING):
            self._show_doubtful()

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
            tool = self.tools.tool
            step = self.review_hint() or next_tracking_step(session, self.layers, tool, first, computing)
            self.panel.status.say(step)


def _names(settings: type) -> set[str]:
    return {item.name for item in fields(settings)}
