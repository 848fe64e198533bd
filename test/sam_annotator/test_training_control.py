"""The finetuning window's controller with a stand-in for the panel and for the training: who is told what, and when."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from psygnal import Signal

from micro_sam.errors import ParameterError
from micro_sam.progress import Progress
from micro_sam.sam_annotator import training_control
from micro_sam.sam_annotator.jobs import InlineJobs, Job
from micro_sam.sam_annotator.training_control import (
    CHECKED,
    DONE,
    IDLE,
    PAUSED,
    RUNNING,
    TrainingChoice,
    TrainingController,
    default_save_root,
)
from micro_sam.sam_annotator.training_sources import SourceChoice, ViewerSources, planes_with_objects
from micro_sam.sam_annotator.widgets.training_panel import TrainingPanel
from micro_sam.training import RunResult, TrainingData, TrainingProgress, TrainingSettings
from micro_sam.training.preflight import PreflightReport

STEPS = 4


NAMES = ("check", "start", "pause", "stop", "use", "refresh")
PanelSignals = type("PanelSignals", (), {**{f"{name}_requested": Signal() for name in NAMES}, "changed": Signal()})


@pytest.fixture
def view():
    signals = PanelSignals()
    made = MagicMock(spec=TrainingPanel, curves=MagicMock())
    for name in (*(f"{name}_requested" for name in NAMES), "changed"):
        setattr(made, name, getattr(signals, name))
    made.choice.return_value = TrainingChoice(SourceChoice(), TrainingSettings(name="cells", min_size=5))
    return made


@pytest.fixture
def sources():
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 5:15], labels[22:33, 20:30] = 1, 2
    image = np.random.default_rng(0).integers(0, 2000, labels.shape).astype(np.uint16)
    made = MagicMock(spec=ViewerSources)
    made.kinds.return_value, made.layer_names.return_value = ["files"], ([], [])
    made.data.return_value = (TrainingData([image], [labels]), None)
    return made


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """A training that makes a few steps and remembers how it was called."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path))
    calls = []

    def run(settings, data, validation, checkpoint, save_root, device=None, stop=None):
        call = {"settings": settings, "data": data, "save_root": save_root, "steps": 0, "closed": False}
        calls.append(call)
        try:
            yield Progress(0, 1, "Scoring the model before training")
            for step in range(1, STEPS + 1):
                if stop.is_set():
                    break
                call["steps"] = step
                yield TrainingProgress(step, STEPS, f"Step {step}", losses={"mask": 1 / step})
        except GeneratorExit:
            call["closed"] = True
            raise
        output = Path(save_root, "checkpoints", settings.name, f"{settings.name}.pt")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(b"")
        return RunResult(output.parent, output, PreflightReport(()), {"box_iou": 0.5}, {"box_iou": 0.7}, {}, "better")

    monkeypatch.setattr(training_control, "run_training", run)
    return calls


class StepwiseJobs(InlineJobs):
    """Runs a job up to where it is told to, so that something can happen in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.at_step = {}

    def start(self, job: Job) -> None:
        tell = job.on_progress

        def told(progress: Progress) -> None:
            tell(progress)
            if isinstance(progress, TrainingProgress) and progress.done in self.at_step:
                self.at_step.pop(progress.done)()

        job.on_progress = told
        super().start(job)


@pytest.fixture
def controller(view, sources, runs):
    made = TrainingController(view, sources, StepwiseJobs())
    yield made
    made.close()


def said(view) -> tuple:
    return view.say.call_args.args


def test_the_data_is_shown_before_anything_is_trained(controller, view, runs):
    controller.start()
    [report] = [call.args[0] for call in view.show_report.call_args_list]
    assert report.findings[0].dtypes == ("uint16", "int32") and report.findings[0].n_objects == 2
    states = [call.args[0] for call in view.set_state.call_args_list]
    assert states == [IDLE, CHECKED, RUNNING, DONE]
    assert view.curves.add.call_count == STEPS
    assert view.show_result.call_args.args[0].verdict == "better" and said(view) == ("better.", "done")
    assert runs[0]["save_root"] == default_save_root()


def test_wrong_data_is_never_trained_on(controller, view, sources, runs):
    image = np.zeros((40, 40), np.uint8)
    sources.data.return_value = (TrainingData([image], [np.ones((30, 40), np.int32)]), None)
    controller.start()
    assert runs == [] and controller.state == IDLE
    assert said(view)[1] == "error" and "(30, 40)" in said(view)[0]
    sources.data.side_effect = ParameterError("Choose the file or folder of the images first.")
    controller.start(skip_validate=True)
    assert runs == [] and said(view) == ("Choose the file or folder of the images first.", "error")


def test_a_change_wants_another_look(controller, view):
    controller.check()
    assert controller.state == CHECKED
    view.changed.emit()
    assert controller.state == IDLE


def test_pause_and_go_on(controller, view, runs):
    controller.jobs.at_step = {2: controller.pause}
    controller.start()
    assert controller.state == PAUSED and runs[0]["closed"] and runs[0]["steps"] == 2
    assert not view.show_result.called
    view.start_requested.emit()
    assert controller.state == DONE and len(runs) == 2
    assert runs[1]["settings"] == runs[0]["settings"] and runs[1]["data"] is runs[0]["data"]


def test_stop_keeps_the_best_also_of_a_paused_training(controller, view, runs):
    controller.jobs.at_step = {2: controller.stop}
    controller.start()
    assert runs[0]["steps"] == 2 and not runs[0]["closed"] and controller.state == DONE

    controller.jobs.at_step = {1: controller.pause}
    controller.start()
    controller.stop()
    assert [run["steps"] for run in runs] == [2, 1, 0] and controller.state == DONE
    controller.start(skip_validate=True)  # the next one is not stopped
    assert runs[-1]["steps"] == STEPS


def test_a_new_training_gets_a_new_name(controller, view, runs):
    for _ in range(2):
        controller.start()
    assert [run["settings"].name for run in runs] == ["cells", "cells_2"]
    view.set_name.assert_called_with("cells_2")


def test_a_model_that_got_worse_is_shown_as_an_error(controller, view, monkeypatch):
    worse = RunResult(
        Path(),
        Path("m.pt"),
        PreflightReport(()),
        {"box_iou": 0.7},
        {"box_iou": 0.5},
        {},
        "The model got WORSE: from 0.7",
    )
    controller._on_done(worse)
    assert said(view) == ("The model got WORSE.", "error")


def test_errors_in_a_training_end_it(controller, view, monkeypatch):
    def broken(*args, **kwargs):
        yield Progress(0, 1, "Looking at the data")
        raise ParameterError("The images for validation hold no object: choose others.")

    monkeypatch.setattr(training_control, "run_training", broken)
    controller.start()
    assert controller.state == IDLE
    assert said(view) == ("The images for validation hold no object: choose others.", "error")
    assert not controller._lock.locked()


def test_a_resumed_training_waits_for_the_step_of_the_paused_one(controller, runs):
    controller.check()
    controller._lock.acquire()
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (controller.start(), ended.set()))
    thread.start()
    assert not ended.wait(0.2) and runs == []
    controller._lock.release()
    assert ended.wait(10) and len(runs) == 1
    thread.join()


def test_the_result_goes_into_the_annotator(controller, view, sources):
    controller.use()
    assert not sources.use.called
    controller.start()
    sources.use.return_value = True
    view.use_requested.emit()
    sources.use.assert_called_with(controller.result.output_path)
    assert "works with cells now" in said(view)[0]
    sources.use.return_value = False
    controller.use()
    assert "Open an image first" in said(view)[0]


def test_of_a_volume_the_annotated_planes_are_taken_and_the_last_ones_held_out():
    labels = np.zeros((12, 20, 20), np.uint32)
    labels[[1, 2, 3, 5, 6, 7], 4:9, 4:9] = 7
    image = np.arange(12)[:, None, None] * np.ones((12, 20, 20), np.uint16)
    training, held_out = planes_with_objects(image, labels)
    assert [int(plane.max()) for plane in training.images] == [1, 2, 3, 5, 6]
    assert [int(plane.max()) for plane in held_out.images] == [7]
    assert training.names == ("plane 1", "plane 2", "plane 3", "plane 5", "plane 6")
    assert all(plane.dtype == np.int32 and plane.max() == 7 for plane in (*training.labels, *held_out.labels))
    labels[2:] = 0
    training, held_out = planes_with_objects(image, labels)
    assert len(training.images) == 1 and held_out is None
    rgb = np.zeros((20, 20, 3), np.uint8)
    assert planes_with_objects(rgb, labels[1])[0].images[0].shape == (20, 20, 3)
    with pytest.raises(ParameterError, match="no object"):
        planes_with_objects(image, np.zeros_like(labels))
    with pytest.raises(ParameterError, match="same pixels"):
        planes_with_objects(image[:3], labels)
