"""What the parts of a series' controller share: who it knows, and what the strip shows."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.sam_annotator.annotator import AnnotatorWidget
    from micro_sam.sam_annotator.controller import AnnotatorController
    from micro_sam.sam_annotator.jobs import JobRunner
    from micro_sam.sam_annotator.session.ahead import Ahead
    from micro_sam.sam_annotator.session.loading import EmbeddingChoice
    from micro_sam.sam_annotator.session.series import Opened, Series
    from micro_sam.sam_annotator.widgets.series_widget import SeriesWidget


class SeriesBase:
    """One series in one annotator: everything that its controller knows. Its parts are mixed in."""

    annotator: AnnotatorWidget
    controller: AnnotatorController
    strip: SeriesWidget
    series: Series
    jobs: JobRunner
    only_open: bool
    with_state: bool
    index: int | None
    ahead: Ahead | None
    _opened: Opened | None
    _kept: OrderedDict[tuple, Any]
    _saved: int | None
    _problems: list[str]
    _moving: bool
    _closed: bool

    @property
    def _can_move(self) -> bool:
        return not self._moving and self.index is not None

    def _choice(self) -> EmbeddingChoice:
        return self.annotator.embedding.embedding_choice()

    def _on_progress(self, progress: Progress) -> None:
        self.controller.say(f"{progress.text} …")

    def _set_moving(self, moving: bool) -> None:
        self._moving = moving
        self.strip.set_moving(moving)

    def _show_states(self) -> None:
        series = self.series
        states = ["unreadable" if k in series.unreadable else series.state(k) for k in range(len(series))]
        self.strip.show_state(states, self.index, [self._detail(k) for k in range(len(series))])

    def _detail(self, index: int) -> str:
        entry = self.series.entry(index)
        if index in self.series.unreadable:
            return self.series.unreadable[index]
        return "" if entry.n_objects is None else f"Objects: {entry.n_objects}."

    def _say_problems(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            self.strip.say(" ".join(problems), is_problem=True)

    def _say_end(self) -> None:
        """Say that this was the last image, and what is left."""
        series = self.series
        left = [k for k in range(len(series)) if series.state(k) == "open" and k not in series.unreadable]
        if left:
            text = f"The end of the series; {len(left)} not done yet: click '{series.file_name(left[0])}' in the list."
        else:
            parts = [f"{series.count('done')} of {len(series)} images are done"]
            parts += [f"{series.count('skipped')} skipped"] if series.count("skipped") else []
            parts += [f"{len(series.unreadable)} cannot be read"] if series.unreadable else []
            text = f"The end of the series: {', '.join(parts)}. Labels lie in '{series.folder.name}'."
        self.controller.say(text, "done")
        self.strip.say(text)
        if self._problems:
            self._problems.insert(0, text)

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        if self._moving:
            self._set_moving(False)
        self.controller.show_error(text)
