"""Earlier work that is taken up, and saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from micro_sam.errors import PromptError
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import RECOVERY, SAVING, Control, shown
from micro_sam.sam_annotator.jobs import Job
from micro_sam.sam_annotator.session.pruning import prune_journals
from micro_sam.sam_annotator.session.recovery import Unfinished, find_unfinished, give_up
from micro_sam.sam_annotator.session.saving import iter_save
from micro_sam.sam_annotator.session.state import LAYER_PREFIX


class RecordControl(Control):
    """Earlier work that is taken up, and saving."""

    def _look_for_unfinished(self) -> None:
        image, kind = self.session.image, self.session.kind
        beside = self.journal_beside()

        def search():
            yield Progress(0, 0, "Look for earlier work")
            found = find_unfinished(image, kind, beside)
            prune_journals(beside)
            return found

        self.jobs.start(Job(RECOVERY, search, on_done=self._on_unfinished))

    def _on_unfinished(self, found: Unfinished | None) -> None:
        self.unfinished = found
        if found is None or len(self.session.history):
            return
        when = f"{found.changed.astimezone():%d %B, %H:%M}"
        how = "was interrupted" if found.crashed else "was not saved"
        objects = f"{found.n_objects} object" + ("" if found.n_objects == 1 else "s")
        self.panel.banner.offer(f"Earlier work on this image {how}: {objects}, {found.n_steps} steps, {when}.")

    @shown
    def restore(self) -> None:
        """Take up the work that was found."""
        if self.unfinished is None:
            return
        if len(self.session.history):
            raise PromptError("There is new work already: undo it first, or choose Start new.")
        self.session.resume(self.unfinished.folder)
        self.panel.banner.hide()
        self.show_layers()
        for key, array in self.session.labels.items():
            if key.startswith(LAYER_PREFIX):
                self.layers.add_foreign(key.removeprefix(LAYER_PREFIX), array)
        self.unfinished = None
        self.say("Everything is back as it was, with its undo history.", "done")

    @shown
    def discard(self) -> None:
        """Do not offer the work that was found again."""
        found, self.unfinished = self.unfinished, None
        self.panel.banner.hide()
        if found is not None:
            give_up(found.folder)

    @shown
    def save(self, path: str) -> None:
        """Save the committed labels and the prompts they were made with."""
        session = self.session
        if session.image is None:
            raise PromptError("There is nothing to save yet.")
        labels, origins, scale = session.finished_labels(), dict(session.origins), session.image.scale
        units = self.layers.units()

        def saved(_: Any) -> None:
            session.note("saved", {"path": str(Path(path).absolute())})
            self.say(f"Saved to {path}.", "done")

        self._start(
            SAVING, lambda: iter_save(path, labels, origins, scale, units, session.journal_folder), on_done=saved
        )
