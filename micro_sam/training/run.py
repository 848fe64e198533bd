"""A training from files to an exported model: pre-flight, score before, training, score after, one file that holds all."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..errors import OutputError, ParameterError
from ..models.cache import checkpoint_location
from ..models.decoder_adapter import build_decoder
from ..models.device import get_device
from ..models.predictor import get_sam_model
from ..models.spec import get_spec
from ..progress import Progress
from .assess import Sample, assess, held_out_samples, verdict
from .configuration import configuration, find_configuration
from .dataset import default_sam_loader, list_sources
from .export import export_instance_segmentation_model, export_trained_model
from .logger import write_json
from .preflight import PreflightReport, check_training_data
from .resumable import ResumableTrainer
from .settings import TrainingSettings
from .training import distance_loss, make_instance_trainer, make_sam_trainer
from .util import get_raw_transform

logger = logging.getLogger(__name__)

_MAY_CHANGE = ("n_epochs", "n_iterations", "early_stopping", "n_scored", "num_workers", "save_every_kth_epoch")


@dataclass(frozen=True)
class TrainingData:
    """Images and their labels, as `default_sam_dataset` takes them.

    Attributes:
        images: Files, folders or arrays.
        labels: Their annotated instances.
        image_key: The data set inside the files, or the pattern of folders.
        label_key: The same for the labels.
    """

    images: Any
    labels: Any
    image_key: str | None = None
    label_key: str | None = None


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
    """

    checkpoint_folder: Path
    output_path: Path
    report: PreflightReport
    before: dict[str, float]
    after: dict[str, float]
    defaults: dict[str, dict[str, float]]
    verdict: str


@dataclass(frozen=True)
class _Source:
    """The model the training begins with."""

    model_type: str
    checkpoint_path: str | None
    device: torch.device
    model_kwargs: dict[str, Any]


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

    Yields:
        What is being done, and how much of it.

    Returns:
        The `RunResult`.

    Raises:
        ParameterError: The data cannot be trained on, or settings do not fit.
        OutputError: There is a training of that name with other settings.
        MicroSamError: A file or model cannot be read, or a file not be written.
    """
    yield Progress(0, 1, "Looking at the data")
    report = _check(data, settings)
    data, validation = _split(data, validation, report, settings)
    values = _values(settings, device)
    checkpoint = None if checkpoint_path is None else os.fspath(checkpoint_path)
    source = _Source(values.pop("model_type"), checkpoint, get_device(device), dict(model_kwargs or {}))
    folder = Path(save_root or ".", "checkpoints", settings.name)
    _check_folder(folder, settings, overwrite)
    output = folder / f"{settings.name}.pt" if output_path is None else Path(output_path)
    _check_output(output, output_path is not None)
    loaders = _loader(data, settings, True), _loader(validation, settings, False)
    samples = held_out_samples(loaders[1], settings.n_scored)
    if not samples and settings.n_scored:
        raise ParameterError("The images for validation hold no object: choose others, or hold more images out.")
    yield Progress(0, 1, "Scoring the model before training")
    before = _score_before(folder, source, samples, overwrite)
    trainer = _trainer(settings, values, source, loaders, save_root)
    epochs = settings.n_epochs if settings.n_iterations is None else None
    yield from trainer.steps(
        settings.n_iterations, epochs,
        save_every_kth_epoch=settings.save_every_kth_epoch, overwrite_training=overwrite,
    )  # fmt: skip
    del trainer
    yield Progress(0, 1, "Exporting and scoring the model")
    return _finish(folder, output, settings, source, samples, before, report)


def _check(data: TrainingData, settings: TrainingSettings) -> PreflightReport:
    report = check_training_data(
        data.images, data.labels, data.image_key, data.label_key, settings.patch_shape, settings.min_size,
        settings.unknown_label,
    )  # fmt: skip
    logger.info("The training data:\n%s", report.table())
    report.raise_if_wrong()
    return report


def _values(settings: TrainingSettings, device: Any) -> dict[str, Any]:
    """What the configuration says, with what the settings say on top."""
    values = configuration(settings.configuration or find_configuration(device))
    if settings.peft != "none":
        values["peft_kwargs"] = settings.peft_kwargs()
    for name in ("model_type", "n_objects_per_batch", "n_sub_iteration"):
        if getattr(settings, name) is not None:
            values[name] = getattr(settings, name)
    if "image_encoder" in settings.freeze:
        values.pop("peft_kwargs", None)
    return values


def _split(
    data: TrainingData, validation: TrainingData | None, report: PreflightReport, settings: TrainingSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `default_sam_dataset` for training and validation, without the images that are skipped."""
    images, labels = _usable(data, report.usable_indices())
    if validation is not None:
        found = _check(validation, settings)
        return _arguments(data, images, labels), _arguments(validation, *_usable(validation, found.usable_indices()))
    if len(images) > 1:
        n_held_out = min(len(images) - 1, max(1, round(settings.val_fraction * len(images))))
        held_out = set(np.random.default_rng(settings.seed).permutation(len(images))[:n_held_out].tolist())
        parts = [[i for i in range(len(images)) if (i in held_out) == wanted] for wanted in (False, True)]
        return tuple(_arguments(data, [images[i] for i in p], [labels[i] for i in p]) for p in parts)
    shape = next(f.shape for f in report.findings if f.status == "fine")
    border = max(1, min(shape[0] - 1, math.floor((1 - max(settings.val_fraction, 0.1)) * shape[0])))
    logger.info("The last %d of %d rows or planes of the only image are held out", shape[0] - border, shape[0])
    both = _arguments(data, images, labels)
    return {**both, "rois": [(slice(0, border),)]}, {**both, "rois": [(slice(border, None),)]}


def _usable(data: TrainingData, indices: Sequence[int]) -> tuple[list[Any], list[Any]]:
    images, labels = list_sources(data.images, data.image_key), list_sources(data.labels, data.label_key)
    return [images[i] for i in indices], [labels[i] for i in indices]


def _arguments(data: TrainingData, images: list[Any], labels: list[Any]) -> dict[str, Any]:
    return {"raw_paths": images, "raw_key": data.image_key, "label_paths": labels, "label_key": data.label_key}


def _loader(data: dict[str, Any], settings: TrainingSettings, is_train: bool) -> DataLoader:
    only = settings.segmentation_decoder == "only"
    return default_sam_loader(
        **data, batch_size=settings.batch_size, num_workers=settings.num_workers, patch_shape=settings.patch_shape,
        with_segmentation_decoder=settings.segmentation_decoder == "instances",
        train_instance_segmentation_only=only and is_train, min_size=settings.min_size, is_train=is_train,
        raw_transform=None if settings.preprocess is None else get_raw_transform(settings.preprocess),
        unknown_label=settings.unknown_label, n_samples=settings.n_samples if is_train else None,
        label_transform=_maps_behind_instances(settings) if only and not is_train else None,
    )  # fmt: skip


def _maps_behind_instances(settings: TrainingSettings) -> Any:
    """Validation needs the instances for scoring, too; the trainer takes the last three channels."""
    from .label_transform import InstanceTargets

    return InstanceTargets(with_maps=True, min_size=settings.min_size)


def _trainer(
    settings: TrainingSettings,
    values: dict[str, Any],
    source: _Source,
    loaders: tuple[DataLoader, DataLoader],
    save_root: str | os.PathLike | None,
) -> ResumableTrainer:
    common = {
        "name": settings.name, "model_type": source.model_type, "train_loader": loaders[0], "val_loader": loaders[1],
        "checkpoint_path": source.checkpoint_path, "device": source.device, "lr": settings.learning_rate,
        "early_stopping": settings.early_stopping, "save_root": save_root, "freeze": list(settings.freeze) or None,
        "peft_kwargs": values.get("peft_kwargs"), "seed": settings.seed,
        "gradient_accumulation": settings.gradient_accumulation, "mixed_precision": settings.mixed_precision,
        "activation_checkpointing": settings.activation_checkpointing, "settings": {"run": settings.as_dict()},
        "decoder": "light" if get_spec(source.model_type).encoder == "vit_t" else "unetr", **source.model_kwargs,
    }  # fmt: skip
    if settings.segmentation_decoder == "only":
        loss = distance_loss()
        return make_instance_trainer(**common, loss=loss, metric=loss)
    prompts = {k: values[k] for k in ("n_objects_per_batch", "n_sub_iteration") if k in values}
    return make_sam_trainer(
        **common, **prompts, with_segmentation_decoder=settings.segmentation_decoder == "instances",
        n_gradient_rounds=settings.n_gradient_rounds, objects_per_pass=settings.objects_per_pass,
    )  # fmt: skip


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


def _score_before(folder: Path, source: _Source, samples: Sequence[Sample], overwrite: bool) -> dict[str, float]:
    """Scores of the model the training begins with; those of a training that goes on are kept."""
    path = folder / "scores.json"
    if path.exists() and (folder / "latest.pt").exists() and not overwrite:
        return json.loads(path.read_text(encoding="utf-8"))["before"]
    before = _score(source, source.model_type, source.checkpoint_path, samples, tune=False)[0]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"before": before})
    return before


def _score(
    source: _Source, model_type: str, path: str | os.PathLike | None, samples: Sequence[Sample], tune: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    if not samples:
        return {}, {}
    predictor, sam = get_sam_model(model_type, source.device, path, return_sam=True, **source.model_kwargs)
    decoder = None
    if predictor.decoder_state is not None:
        decoder = build_decoder(predictor.decoder_state, sam.image_encoder.img_size).to(source.device)
    return assess(sam, decoder, samples, tune)


def _finish(
    folder: Path,
    output: Path,
    settings: TrainingSettings,
    source: _Source,
    samples: Sequence[Sample],
    before: dict[str, float],
    report: PreflightReport,
) -> RunResult:
    best = folder / "best.pt"
    best = best if best.exists() else folder / "latest.pt"
    _export(best, output, settings, source, {}, {})
    after, found = _score(source, get_spec(source.model_type).encoder, output, samples, tune=True)
    defaults = {"ais": found} if found else {}
    sentence = verdict(before, after) if before and after else "The model was not scored."
    scores = {"before": before, "after": after, "verdict": sentence, "defaults": defaults}
    _export(best, output, settings, source, defaults, scores)
    write_json(folder / "scores.json", scores)
    log = logger.warning if "WORSE" in sentence else logger.info
    log("%s", sentence)
    return RunResult(folder, output, report, before, after, defaults, sentence)


def _export(
    best: Path,
    output: Path,
    settings: TrainingSettings,
    source: _Source,
    defaults: dict[str, Any],
    scores: dict[str, Any],
) -> None:
    if settings.segmentation_decoder == "only":
        export_instance_segmentation_model(best, output, source.model_type, source.checkpoint_path, defaults, scores)
        return
    base = source.checkpoint_path or checkpoint_location(source.model_type)
    export_trained_model(best, output, settings.name, defaults, scores, settings.as_dict(), base)
