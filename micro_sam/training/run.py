"""A training from files to an exported model: pre-flight, score before, training, score after, one file that holds all."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OutputError, ParameterError
from ..models.spec import get_spec
from ..progress import Progress
from .assess import Sample, held_out_samples, verdict, worse_scores
from .data import TrainingData, checked, make_loader, split_data
from .examples import Example, read_examples, write_before, write_pictures
from .logger import write_json
from .preflight import PreflightReport
from .run_model import StartingPoint, export_run, make_trainer, score, starting_point
from .settings import TrainingSettings

__all__ = ["RunResult", "TrainingData", "run_training", "training_folder"]

logger = logging.getLogger(__name__)

_MAY_CHANGE = (
    "n_epochs", "n_iterations", "max_minutes", "early_stopping", "n_scored", "num_workers", "save_every_kth_epoch",
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """What came out of a training.

    Attributes:
        checkpoint_folder: The folder with checkpoints, settings, metrics and scores.
        output_path: The exported model.
        report: What was found in the data.
        before: Scores on held-out objects before the training.
        after: Scores of the best checkpoint.
        defaults: Post-processing parameters that were found to suit the held-out images.
        verdict: One sentence: better or worse.
        examples: Some of the held-out images with what was segmented in them before and after.
    """

    checkpoint_folder: Path
    output_path: Path
    report: PreflightReport
    before: dict[str, float]
    after: dict[str, float]
    defaults: dict[str, dict[str, float]]
    verdict: str
    examples: tuple[Example, ...] = ()

    @property
    def got_worse(self) -> bool:
        """Whether a score on held-out objects became clearly worse."""
        return bool(self.before and self.after and worse_scores(self.before, self.after))


def run_training(
    settings: TrainingSettings,
    data: TrainingData,
    validation: TrainingData | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    save_root: str | os.PathLike | None = None,
    output_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    stop: threading.Event | None = None,
) -> Generator[Progress, None, RunResult]:
    """Finetune a model, as a generator. It can be closed at any time and goes on when it is called again.

    Args:
        settings: How to train.
        data: What to train on.
        validation: What to validate and score on; by default a share of the images, or of the one image's area.
        checkpoint_path: A model file of your own to start from.
        save_root: The folder for ``checkpoints/<name>`` and ``logs/<name>``; the current one by default.
        output_path: The model file to write; ``<name>.pt`` in the checkpoint folder by default.
        device: Where to train; the best device there is by default.
        overwrite: Begin anew although there is a training of that name.
        model_kwargs: ``image_size``, see `get_sam_model`.
        stop: Ends the training early when it is set; the best checkpoint so far is scored and exported.

    Yields:
        What is being done, and how much of it; steps of the training as `TrainingProgress`.

    Returns:
        The `RunResult`.

    Raises:
        ParameterError: The data cannot be trained on, or settings do not fit.
        OutputError: There is a training of that name with other settings.
        MicroSamError: A file or model cannot be read, or a file not be written.
    """
    yield Progress(0, 1, "Looking at the data")
    report = checked(data, settings)
    data, validation = split_data(data, validation, report, settings)
    start = starting_point(settings, checkpoint_path, device, model_kwargs)
    folder = training_folder(settings.name, save_root)
    _check_folder(folder, settings, overwrite)
    output = folder / f"{settings.name}.pt" if output_path is None else Path(output_path)
    _check_output(output, output_path is not None)
    loaders = make_loader(data, settings, True), make_loader(validation, settings, False)
    samples = held_out_samples(loaders[1], settings.n_scored)
    if not samples and settings.n_scored:
        raise ParameterError("The images for validation hold no object: choose others, or hold more images out.")
    yield Progress(0, 1, "Scoring the model before training")
    before = _score_before(folder, start, samples, overwrite, settings.segmentation_decoder != "none")
    trainer = make_trainer(settings, start, loaders, save_root, stop)
    epochs = settings.n_epochs if settings.n_iterations is None else None
    yield from trainer.steps(
        settings.n_iterations, epochs,
        save_every_kth_epoch=settings.save_every_kth_epoch, overwrite_training=overwrite,
    )  # fmt: skip
    if not (folder / "latest.pt").exists():  # it was stopped before its first step
        trainer.save_checkpoint("latest")
    del trainer
    yield Progress(0, 1, "Exporting and scoring the model")
    return _finish(folder, output, settings, start, samples, before, report)


def training_folder(name: str, save_root: str | os.PathLike | None) -> Path:
    """The folder of the checkpoints of a training."""
    return Path(save_root or ".", "checkpoints", name)


def _check_folder(folder: Path, settings: TrainingSettings, overwrite: bool) -> None:
    """Refuse to go on with a training that was made with other settings."""
    stored = folder / "settings.json"
    if overwrite or not (folder / "latest.pt").exists() or not stored.exists():
        return
    before = json.loads(stored.read_text(encoding="utf-8")).get("run", {})
    now = json.loads(json.dumps(settings.as_dict()))
    changed = [k for k in now if k not in _MAY_CHANGE and before.get(k) != now[k]]
    if changed:
        raise OutputError(
            f"There is a training '{settings.name}' in {folder} with another {changed[0]} ({before.get(changed[0])!r} "
            f"instead of {now[changed[0]]!r}): use the same settings to go on with it, choose another name, or overwrite it."
        )


def _check_output(output: Path, was_given: bool) -> None:
    from ..io.paths import check_folder_of

    if was_given:
        check_folder_of(output)
        if output.is_dir():
            raise OutputError(f"'{output}' is a folder, expected the file to write the model to.")


def _score_before(
    folder: Path, start: StartingPoint, samples: Sequence[Sample], overwrite: bool, with_decoder: bool
) -> dict[str, float]:
    """Scores of the model the training begins with; those of a training that goes on are kept."""
    path = folder / "scores.json"
    if path.exists() and (folder / "latest.pt").exists() and not overwrite:
        return json.loads(path.read_text(encoding="utf-8"))["before"]
    found = score(start, start.model_type, start.checkpoint_path, samples, False, with_decoder)
    folder.mkdir(parents=True, exist_ok=True)
    write_before(folder, samples, found)
    write_json(path, {"before": found.scores})
    return found.scores


def _finish(
    folder: Path,
    output: Path,
    settings: TrainingSettings,
    start: StartingPoint,
    samples: Sequence[Sample],
    before: dict[str, float],
    report: PreflightReport,
) -> RunResult:
    best = folder / "best.pt"
    best = best if best.exists() else folder / "latest.pt"
    export_run(best, output, settings, start, {}, {})
    found = score(start, get_spec(start.model_type).encoder, output, samples, tune=True)
    after, defaults = found.scores, {"ais": found.defaults} if found.defaults else {}
    sentence = verdict(before, after) if before and after else "The model was not scored."
    scores = {"before": before, "after": after, "verdict": sentence, "defaults": defaults}
    export_run(best, output, settings, start, defaults, scores)
    write_json(folder / "scores.json", scores)
    examples = read_examples(folder, found)
    write_pictures(folder, examples)
    result = RunResult(folder, output, report, before, after, defaults, sentence, examples)
    log = logger.warning if result.got_worse else logger.info
    log("%s", sentence)
    return result
