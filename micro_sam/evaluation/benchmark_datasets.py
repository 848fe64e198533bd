"""Score a model on public data sets, which torch-em's loaders download and read."""

from __future__ import annotations

import logging
import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, ParameterError
from ..io import replacing, write_labels
from ..models.spec import DEFAULT_MODEL
from .evaluation import run_evaluation, run_evaluation_for_iterative_prompting
from .inference import run_inference_with_iterative_prompting
from .instance_segmentation import run_instance_segmentation_inference

if TYPE_CHECKING:
    import pandas as pd

    from ..models.predictor import SamPredictor

logger = logging.getLogger(__name__)

Mode = Literal["amg", "ais", "apg"]
N_SAMPLES = 100
N_ITERATIONS = 8


@cache
def benchmark_datasets() -> Mapping[str, Mapping[str, Any]]:
    """The known data sets: for each its loader in torch-em and the loader's arguments."""
    with open(Path(__file__).with_name("benchmark_datasets.toml"), "rb") as file:
        return tomllib.load(file)


def prepare_dataset(
    name: str, input_folder: str | os.PathLike, output_folder: str | os.PathLike, n_samples: int = N_SAMPLES
) -> tuple[list[Path], list[Path]]:
    """Take images and their annotated instances from a data set and write them as tif files.

    The data set is downloaded if it is not there. Files that are there already are not written again.

    Args:
        name: A key of `benchmark_datasets`.
        input_folder: Where the data set lies or will lie, in a folder of its name.
        output_folder: Where ``images`` and ``labels`` are written.
        n_samples: How many images are taken at most.

    Returns:
        The paths of the images and of the labels.

    Raises:
        ParameterError: No data set of that name is known.
        InputError: It cannot be downloaded or read, or has no annotated objects.
    """
    folders = [Path(output_folder) / kind for kind in ("images", "labels")]
    finished = Path(output_folder) / "complete.txt"  # says up to how many images were asked for
    if not finished.exists() or int(finished.read_text()) < n_samples:
        dataset = _open(name, input_folder)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(min(n_samples, len(dataset))):
            paths = [folder / f"{index:04}.tif" for folder in folders]
            if not all(path.exists() for path in paths):
                _write_pair(dataset[index], paths)
        finished.write_text(str(n_samples))
    images, labels = (sorted(folder.glob("*.tif")) for folder in folders)
    if not images:
        raise InputError(f"The data set {name!r} in '{input_folder}' has no annotated image.")
    return images[:n_samples], labels[:n_samples]


def _entry(name: str) -> Mapping[str, Any]:
    known = benchmark_datasets()
    if name not in known:
        raise ParameterError(f"No data set {name!r} is known; choose one of {', '.join(sorted(known))}.")
    return known[name]


def _open(name: str, input_folder: str | os.PathLike) -> Any:
    """The data set as torch-em gives it, without augmentation; it samples images with two objects or more."""
    entry = dict(_entry(name))
    from torch_em.data import datasets
    from torch_em.data.sampler import MinInstanceSampler

    load, shape = getattr(datasets, entry.pop("loader")), tuple(entry.pop("shape"))
    folder = Path(input_folder) / name
    transforms = {"raw_transform": np.asarray, "transform": lambda raw, labels: (raw, labels)}
    try:
        return load(
            folder, patch_shape=shape, download=True, sampler=MinInstanceSampler(2, min_size=25), **transforms, **entry
        )
    except Exception as error:  # every loader has errors of its own
        logger.debug("The data set %s could not be opened", name, exc_info=True)
        raise InputError(
            f"The data set {name!r} cannot be downloaded to or read from '{folder}' ({type(error).__name__}: {error}); "
            "where there is a network, run the command again to go on."
        ) from error


def _write_pair(item: tuple[Any, Any], paths: Sequence[Path]) -> None:
    import tifffile

    raw, labels = (np.asarray(part).squeeze() for part in item)
    image = np.moveaxis(raw, 0, -1) if raw.ndim == 3 else raw
    if image.min() >= 0 and image.max() <= 255 and (image == np.round(image)).all():
        image = image.astype(np.uint8)
    if labels.ndim == 3:
        labels = labels[0]
    with replacing(paths[0]) as temporary:
        tifffile.imwrite(
            temporary, image, photometric="rgb" if image.ndim == 3 and image.shape[-1] == 3 else "minisblack"
        )
    write_labels(paths[1], labels.astype(np.uint32))


def run_benchmark_evaluations(
    input_folder: str | os.PathLike,
    dataset_choice: str,
    model_type: str = DEFAULT_MODEL,
    output_folder: str | os.PathLike | None = None,
    checkpoint_path: str | os.PathLike | None = None,
    segmentation_mode: Mode | None = None,
    retain: Sequence[str] | None = None,
    evaluation_methods: Literal["all", "automatic", "interactive"] = "all",
    ignore_warnings: bool = False,
    *,
    device: Any = None,
    decoder_path: str | os.PathLike | None = None,
    precision: str = "auto",
    n_samples: int = N_SAMPLES,
    n_iterations: int = N_ITERATIONS,
) -> pd.DataFrame:
    """Score a model on a public data set: automatic segmentation, and prompts that are corrected again and again.

    Args:
        input_folder: Where the data sets lie or will lie.
        dataset_choice: A key of `benchmark_datasets`.
        model_type: The model, or with a checkpoint its encoder.
        output_folder: Where everything is written; ``<input_folder>/benchmark`` by default. What is there is used.
        checkpoint_path: A model file of your own.
        segmentation_mode: "amg", "ais" or "apg"; by default what the model can do.
        retain: Which of "data", "embeddings", "predictions" are kept; the scores always are.
        evaluation_methods: "automatic", "interactive" or "all".
        ignore_warnings: Do not show warnings.
        device: Where to compute.
        decoder_path: The decoder of the checkpoint if it is a file of its own.
        precision: "float32", "bfloat16" or "auto".
        n_samples: Images that are taken at most.
        n_iterations: Rounds of prompts.

    Returns:
        One row for each way to segment: mSA, SA50, SA75; also written to ``<output_folder>/<data set>/<model>.csv``.

    Raises:
        ParameterError: An unknown data set, method or thing to retain.
        InputError: The data set cannot be downloaded or read.
    """
    _check_choices(dataset_choice, evaluation_methods, retain)
    from ..models.predictor import get_sam_model

    root = Path(output_folder if output_folder is not None else Path(input_folder) / "benchmark") / dataset_choice
    with warnings.catch_warnings():
        if ignore_warnings:
            warnings.simplefilter("ignore")
        predictor = get_sam_model(
            model_type, device, checkpoint_path=checkpoint_path, decoder_path=decoder_path, precision=precision
        )
        images, labels = prepare_dataset(dataset_choice, input_folder, root / "data", n_samples)
        rows = {}
        work = root / f"{predictor.model_name}-{predictor._hash.rpartition(':')[2][:8]}"
        if evaluation_methods != "interactive":
            rows |= _automatic(predictor, segmentation_mode, images, labels, work)
        if evaluation_methods != "automatic":
            rows |= _interactive(predictor, images, labels, work, n_iterations)
    return _finish(rows, root, work, set(retain or ()))


def _check_choices(dataset: str, methods: str, retain: Sequence[str] | None) -> None:
    _entry(dataset)
    if methods not in ("all", "automatic", "interactive"):
        raise ParameterError(f"evaluation_methods is 'all', 'automatic' or 'interactive', got {methods!r}.")
    unknown = sorted(set(retain or ()) - {"data", "embeddings", "predictions"})
    if unknown:
        raise ParameterError(f"retain may name data, embeddings and predictions, got {unknown[0]!r}.")


def _automatic(
    predictor: SamPredictor, mode: Mode | None, images: list[Path], labels: list[Path], work: Path
) -> dict[str, pd.Series]:
    from ..automatic_segmentation import get_predictor_and_segmenter, segmentation_mode_of

    segmenter = get_predictor_and_segmenter(predictor.model_name, predictor=predictor, segmentation_mode=mode)[1]
    name = segmentation_mode_of(segmenter)
    predictions = work / "predictions" / name
    run_instance_segmentation_inference(segmenter, images, work / "embeddings", predictions)
    return {name: run_evaluation(labels, sorted(predictions.glob("*.tif")), verbose=False).iloc[0]}


def _interactive(
    predictor: SamPredictor, images: list[Path], labels: list[Path], work: Path, n_iterations: int
) -> dict[str, pd.Series]:
    rows = {}
    for start in ("box", "point"):
        predictions, with_box = work / "predictions" / start, start == "box"
        run_inference_with_iterative_prompting(
            predictor, images, labels, work / "embeddings", predictions, with_box, n_iterations=n_iterations
        )
        table = run_evaluation_for_iterative_prompting(labels, predictions, work, with_box, overwrite_results=True)
        rows |= {f"{start}, {k} corrections" if k else start: row for k, row in table.iterrows()}
    return rows


def _finish(rows: dict[str, pd.Series], root: Path, work: Path, retain: set[str]) -> pd.DataFrame:
    """Write the table, merged with that of earlier calls, and remove what is not to be kept."""
    import shutil

    import pandas as pd

    table = pd.DataFrame(rows).T.rename_axis("method")
    path = root / f"{work.name}.csv"
    if path.exists():
        earlier = pd.read_csv(path, index_col="method")
        table = pd.concat([earlier.drop(index=earlier.index.intersection(table.index)), table])
    with replacing(path) as temporary:
        table.to_csv(temporary)
    if "data" not in retain:
        shutil.rmtree(root / "data", ignore_errors=True)
    for folder in work.iterdir():
        if folder.name not in retain:
            shutil.rmtree(folder, ignore_errors=True)
    if not any(work.iterdir()):
        work.rmdir()
    return table
