"""Wires the finetuning window: what is chosen, the job that trains, and what is shown of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from micro_sam.errors import MicroSamError
from micro_sam.models.cache import get_cache_directory
from micro_sam.progress import Progress
from micro_sam.sam_annotator.jobs import Job, JobRunner, sentence
from micro_sam.sam_annotator.training_sources import SourceChoice, ViewerSources
from micro_sam.training.data import TrainingData, check_data
from micro_sam.training.preflight import PreflightReport
from micro_sam.training.progress import TrainingProgress, read_past
from micro_sam.training.run import RunResult, run_training, training_folder
from micro_sam.training.settings import TrainingSettings

if TYPE_CHECKING:
    from micro_sam.sam_annotator.widgets.training_panel import TrainingPanel

CHECK, TRAIN = "check data", "finetune"
IDLE, CHECKED, RUNNING, PAUSED, DONE = "idle", "checked", "running", "paused", "done"


@dataclass(frozen=True)
class TrainingChoice:
    """Everything that was chosen in the window.

    Attributes:
        source: Where the data comes from.
        settings: How to train.
        checkpoint_path: A model file of one's own to start from.
        save_root: Where checkpoints and the model are kept; None for a folder in the cache.
        device: Where to train; None for the best there is.
    """

    source: SourceChoice
    settings: TrainingSettings
    checkpoint_path: str | None = None
    save_root: str | None = None
    device: str | None = None


def default_save_root() -> Path:
    """Where models that were finetuned in the window are kept."""
    return get_cache_directory() / "finetuned"


@dataclass(frozen=True)
class _Training:
    """One training, which may be run in several pieces."""

    choice: TrainingChoice
    data: TrainingData
    validation: TrainingData | None
    save_root: Path

    @property
    def folder(self) -> Path:
        return training_folder(self.choice.settings.name, self.save_root)

    def work(self, stop: threading.Event) -> Generator[Progress, None, RunResult]:
        """Train; it goes on where it was paused."""
        settings, checkpoint = self.choice.settings, self.choice.checkpoint_path
        if checkpoint is not None:
            yield Progress(0, 0, f"Opening {Path(checkpoint).name}")
            settings = replace(settings, model_type=_encoder_of(checkpoint))
        return (
            yield from run_training(
                settings, self.data, self.validation, checkpoint, self.save_root, device=self.choice.device, stop=stop
            )
        )


class TrainingController:
    """The finetuning window of one viewer.

    Args:
        view: The panel.
        sources: Where the data comes from.
        jobs: Runs checking and training.
    """

    def __init__(self, view: TrainingPanel, sources: ViewerSources, jobs: JobRunner) -> None:
        self.view, self.sources, self.jobs = view, sources, jobs
        self.state = IDLE
        self.result: RunResult | None = None
        self._training: _Training | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        for signal, slot in (
            (view.check_requested, self.check),
            (view.start_requested, self.start),
            (view.pause_requested, self.pause),
            (view.stop_requested, self.stop),
            (view.use_requested, self.use),
            (view.refresh_requested, self.refresh),
            (view.changed, self._on_changed),
        ):
            signal.connect(slot)
        self.refresh()
        self._set_state(IDLE)

    # Choosing and checking

    def refresh(self) -> None:
        """Look anew which annotator and layers there are."""
        self.view.set_sources(self.sources.kinds(), *self.sources.layer_names())

    def check(self, then: Callable[[], None] | None = None) -> None:
        """Look at the data and show what was found.

        Args:
            then: Called when the data can be trained on.
        """
        training = self._prepared()
        if training is None:
            return

        def work() -> Generator[Progress, None, PreflightReport]:

            yield Progress(0, 0, "Looking at the data")
            return check_data(training.data, training.choice.settings)

        def found(report: PreflightReport) -> None:
            self.view.show_report(report)
            try:
                report.raise_if_wrong()
            except MicroSamError as error:
                self.view.say(sentence(error), "error")
                return
            self._set_state(CHECKED)
            self.view.say(_what_was_found(report), "done")
            if then is not None:
                then()

        self.jobs.start(Job(CHECK, work, self._on_progress, None, found, self._on_error, self._on_end))

    def _prepared(self) -> _Training | None:
        """What was chosen, with its data; None if something is missing, which is said."""
        try:
            choice = self.view.choice()
            data, validation = self.sources.data(choice.source)
        except MicroSamError as error:
            self.view.say(sentence(error), "error")
            return None
        root = default_save_root() if choice.save_root is None else Path(choice.save_root)
        return _Training(choice, data, validation, root)

    def _on_changed(self) -> None:
        if self.state == CHECKED:
            self._set_state(IDLE)

    # Training

    def start(self, skip_validate: bool = False) -> None:
        """Train; data that was not looked at is looked at first.

        Args:
            skip_validate: Train without showing first what was found in the data.
        """
        if self.state == RUNNING:
            return
        if self.state == PAUSED:
            self._run()
        elif self.state == CHECKED or skip_validate:
            self._begin()
        else:
            self.check(then=self._begin)

    def _begin(self) -> None:
        training = self._prepared()
        if training is None:
            return
        name = free_training_name(training.choice.settings.name, training.save_root)
        settings = replace(training.choice.settings, name=name)
        self._training = replace(training, choice=replace(training.choice, settings=settings))
        self.result = None
        self.view.set_name(name)
        self.view.clear_result()
        for progress in read_past(self._training.folder):
            self.view.curves.add(progress)
        self._run()

    def _run(self) -> None:
        training, lock = self._training, self._lock
        self._stop = stop = threading.Event() if not self._stop.is_set() else self._stop

        def work() -> Generator[Progress, None, RunResult]:
            yield Progress(0, 0, "Waiting until the last step is finished")
            with lock:  # a training that was paused still ends its step
                return (yield from training.work(stop))

        self._set_state(RUNNING)
        self.jobs.start(Job(TRAIN, work, self._on_progress, None, self._on_done, self._on_training_error))

    def pause(self) -> None:
        """Stop computing; what was learned is on disk and can be gone on with, also another day."""
        if self.jobs.cancel(TRAIN):
            self._set_state(PAUSED)
            self.view.show_progress(None)
            self.view.say("Paused. What was learned is kept: go on, or stop and keep the best.")

    def stop(self) -> None:
        """End the training early; the best model so far is scored and written."""
        if self.state not in (RUNNING, PAUSED):
            return
        self._stop.set()
        self.view.say("Stopping: the best model so far is scored and written …")
        if self.state == PAUSED:
            self._run()

    def _on_progress(self, progress: Progress) -> None:
        self.view.show_progress(progress)
        if isinstance(progress, TrainingProgress):
            self.view.curves.add(progress)
        count = f" ({progress.done} of {progress.total} steps)" if progress.total > 1 else ""
        if not self._stop.is_set():
            self.view.say(f"{progress.text}{count} …")

    def _on_done(self, result: RunResult) -> None:
        self.result = result
        self._stop = threading.Event()
        self._set_state(DONE)
        self.view.show_progress(None)
        self.view.show_result(result)
        self.view.say(f"{result.verdict.split(':')[0].rstrip('.')}.", "error" if result.got_worse else "done")

    def _on_training_error(self, text: str) -> None:
        self._stop = threading.Event()
        self._set_state(IDLE)
        self._on_end()
        self._on_error(text)

    def _on_error(self, text: str) -> None:
        self.view.say(text, "error")

    def _on_end(self) -> None:
        self.view.show_progress(None)

    # Afterwards

    def use(self) -> None:
        """Load the new model where the user was."""
        if self.result is None:
            return
        try:
            used = self.sources.use(self.result.output_path)
        except MicroSamError as error:
            self._on_error(sentence(error))
            return
        if used:
            self.view.say(
                f"The annotator works with {self.result.output_path.stem} now; labels and history stay.", "done"
            )
            self.view.show_annotator(self.sources.annotator())
        else:
            self.view.say(f"Open an image first. The model is the file {self.result.output_path}.")

    def close(self) -> None:
        """Let go; a training that runs ends after its step and can be gone on with."""
        self.jobs.close()

    def _set_state(self, state: str) -> None:
        self.state = state
        self.view.set_state(state)


def free_training_name(name: str, root: Path) -> str:
    """The name, with a number if there is a complete training of that name; an unfinished one is gone on with."""
    number, found = 1, name
    while (training_folder(found, root) / f"{found}.pt").exists():
        number += 1
        found = f"{name}_{number}"
    return found


def _encoder_of(path: str) -> str:
    from micro_sam.models.checkpoint import read_checkpoint

    return read_checkpoint(path).encoder


def _what_was_found(report: PreflightReport) -> str:
    objects = sum(finding.n_objects - finding.n_small for finding in report.findings if finding.status == "fine")
    skipped = f", {report.n('skipped')} skipped" if report.n("skipped") else ""
    images = report.n("fine")
    return f"{images} image{'s' if images > 1 else ''} with {objects} objects{skipped}: the training can start."
