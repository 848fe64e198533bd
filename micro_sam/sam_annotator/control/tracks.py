"""Tracking everything, tracks that exist already, and results on disk."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import InputError, PromptError
from micro_sam.io.tracks_reading import read_tracks
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import AUTOMATIC, EMBEDDINGS, SAVING, Control, shown
from micro_sam.sam_annotator.session import track_edits
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.saving import resolution_of
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED
from micro_sam.sam_annotator.session.tracking import TrackingSession
from micro_sam.sam_annotator.session.tracking_work import iter_save_tracks, iter_track_everything

if TYPE_CHECKING:
    from micro_sam.sam_annotator.layers_tracking import TrackingLayers

LOADING = "loading"


class TrackControl(Control):
    """Tracking everything, tracks that exist already, and results on disk."""

    session: TrackingSession
    layers: TrackingLayers
    _first_click: tuple[str, int] | None

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
        self.say(
            f"{n_tracks} tracks and {n_divisions} divisions found. Commit all, change parameters, or review [W].",
            "done",
        )

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
