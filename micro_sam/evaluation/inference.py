"""Run models over folders of annotated images, with prompts made from the annotations; everything resumes.

A result that is there is not computed again, so a killed run goes on where it was.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from ..errors import ParameterError
from ..inference import batched_inference
from ..io import load_image_data, replacing, write_labels
from ..labels import get_centers_and_bounding_boxes
from ..mask_decoding import LOW_RES, Prompts
from ..prompt_generators import IterativePromptGenerator, PointAndBoxPromptGenerator
from .automatic import run_amg, run_apg, run_instance_segmentation_with_decoder
from .experiments import ExperimentSetting, get_experiment_setting_name
from .pairs import PathLike, embeddings_of, load_labels, names_of

if TYPE_CHECKING:
    from ..models.predictor import SamPredictor

_DILATION = 5


__all__ = [
    "precompute_all_embeddings",
    "precompute_all_prompts",
    "prompts_from_labels",
    "run_amg",
    "run_apg",
    "run_inference_with_iterative_prompting",
    "run_inference_with_prompts",
    "run_instance_segmentation_with_decoder",
]


def precompute_all_embeddings(
    predictor: SamPredictor, image_paths: Sequence[PathLike], embedding_dir: PathLike
) -> None:
    """Compute the embeddings of all images, each in ``<embedding_dir>/<name>.zarr``; those that are complete are kept.

    Args:
        predictor: The model.
        image_paths: Image files (2d).
        embedding_dir: The folder; made if it does not exist.
    """
    names = names_of(image_paths)
    Path(embedding_dir).mkdir(parents=True, exist_ok=True)
    for path, name in zip(tqdm(image_paths, "Precompute embeddings"), names):
        embeddings_of(predictor, load_image_data(os.fspath(path)), embedding_dir, name)


def precompute_all_prompts(
    gt_paths: Sequence[PathLike], prompt_save_dir: PathLike, prompt_settings: Sequence[ExperimentSetting]
) -> None:
    """Draw the prompts of several experiments once, so that models are compared with the same ones.

    Args:
        gt_paths: Annotated instances.
        prompt_save_dir: The folder; every setting has a sub-folder with one ``.npz`` an image.
        prompt_settings: The experiments.
    """
    names = names_of(gt_paths)
    for path, name in zip(tqdm(gt_paths, "Precompute prompts"), names):
        labels = load_labels(path)
        for setting in prompt_settings:
            _stored_prompts(labels, setting, _DILATION, prompt_save_dir, name)


def prompts_from_labels(
    labels: np.ndarray, setting: ExperimentSetting, dilation: int = _DILATION, seed: int = 0
) -> tuple[np.ndarray, Prompts]:
    """Prompts for every annotated object.

    Args:
        labels: Instances (YX), 0 is background.
        setting: How many points, and whether a box.
        dilation: Negative points keep this distance to the object, in pixels.
        seed: Where the random points are drawn from.

    Returns:
        The ids of the objects (n,), and their prompts: points in (x, y).
    """
    centers, boxes = get_centers_and_bounding_boxes(labels)
    generator = PointAndBoxPromptGenerator(
        setting["n_positives"], setting["n_negatives"], dilation, setting["use_points"], setting["use_boxes"]
    )
    made = []
    with _random_state(seed):
        for label, box in boxes.items():
            mask = torch.from_numpy(labels == label)[None, None]
            made.append(generator(mask, [box], [centers[label]] if setting["n_positives"] else None)[:3])
    points, point_labels, corners = (
        np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]) if parts[0] is not None else None
        for parts in zip(*made)
    )
    return np.array(list(boxes)), Prompts(points, point_labels, corners)


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _stored_prompts(
    labels: np.ndarray, setting: ExperimentSetting, dilation: int, folder: PathLike | None, name: str
) -> tuple[np.ndarray, Prompts]:
    """The prompts from the folder, or made and kept there."""
    if not labels.any():
        return np.zeros(0, dtype=int), Prompts()
    seed = zlib.crc32(name.encode())
    if folder is None:
        return prompts_from_labels(labels, setting, dilation, seed)
    path = Path(folder) / get_experiment_setting_name(setting) / f"{name}.npz"
    if not path.exists():
        ids, prompts = prompts_from_labels(labels, setting, dilation, seed)
        arrays = {"points": prompts.points, "point_labels": prompts.labels, "boxes": prompts.boxes}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, ids=ids, **{k: v for k, v in arrays.items() if v is not None})
    with np.load(path, allow_pickle=False) as stored:
        ids = stored["ids"]
        if not np.isin(ids, labels).all():
            raise ParameterError(
                f"The prompts '{path}' belong to other annotations; delete the file to make them anew."
            )
        return ids, Prompts(*(stored.get(key) for key in ("points", "point_labels", "boxes")))


def run_inference_with_prompts(
    predictor: SamPredictor,
    image_paths: Sequence[PathLike],
    gt_paths: Sequence[PathLike],
    embedding_dir: PathLike | None,
    prediction_dir: PathLike,
    use_points: bool,
    use_boxes: bool,
    n_positives: int,
    n_negatives: int,
    dilation: int = _DILATION,
    prompt_save_dir: PathLike | None = None,
    batch_size: int = 512,
) -> None:
    """Segment all annotated objects of all images from one set of prompts each.

    Args:
        predictor: The model.
        image_paths: Image files (2d).
        gt_paths: Annotated instances, in the same order.
        embedding_dir: Where embeddings are kept, or None.
        prediction_dir: Where ``<name>.tif`` is written, with the ids of the annotation.
        use_points: Give points.
        use_boxes: Give the bounding box.
        n_positives: Positive points for each object.
        n_negatives: Negative points for each object.
        dilation: Negative points keep this distance to the object, in pixels.
        prompt_save_dir: Where prompts are kept, so that another model gets the same, or None.
        batch_size: Objects decoded at once.

    Raises:
        ParameterError: Neither points nor boxes, or the lists do not fit.
    """
    if not (use_points or use_boxes):
        raise ParameterError("Either use_points or use_boxes must be set, neither is.")
    setting: ExperimentSetting = {
        "use_points": use_points,
        "use_boxes": use_boxes,
        "n_positives": n_positives if use_points else 0,
        "n_negatives": n_negatives if use_points else 0,
    }
    for image, labels, name in _remaining(image_paths, gt_paths, [Path(prediction_dir)], "Segment from prompts"):
        ids, prompts = _stored_prompts(labels, setting, dilation, prompt_save_dir, name)
        result = np.zeros(labels.shape, np.uint32)
        if len(ids):
            result = batched_inference(
                predictor,
                image,
                batch_size,
                boxes=prompts.boxes,
                points=prompts.points,
                point_labels=prompts.labels,
                embedding_path=embeddings_of(predictor, image, embedding_dir, name),
                segmentation_ids=ids.tolist(),
            )
        write_labels(Path(prediction_dir) / f"{name}.tif", result)


def run_inference_with_iterative_prompting(
    predictor: SamPredictor,
    image_paths: Sequence[PathLike],
    gt_paths: Sequence[PathLike],
    embedding_dir: PathLike | None,
    prediction_dir: PathLike,
    start_with_box_prompt: bool = True,
    dilation: int = _DILATION,
    batch_size: int = 32,
    n_iterations: int = 8,
    use_masks: bool = False,
) -> None:
    """Segment all annotated objects, correcting each by a positive and a negative point again and again.

    Args:
        predictor: The model.
        image_paths: Image files (2d).
        gt_paths: Annotated instances, in the same order.
        embedding_dir: Where embeddings are kept, or None.
        prediction_dir: Where ``iteration00/<name>.tif``, ``iteration01/<name>.tif`` … are written.
        start_with_box_prompt: Start with the box; otherwise with one point.
        dilation: Kept for the first prompt's negative points, of which there are none.
        batch_size: Objects decoded at once.
        n_iterations: How often each object is segmented, the first time included.
        use_masks: Give the last answer's logits as a mask prompt as well.

    Raises:
        ParameterError: Less than one iteration, or the lists do not fit.
    """
    if n_iterations < 1:
        raise ParameterError(f"n_iterations must be at least 1, got {n_iterations}.")
    start: ExperimentSetting = {
        "use_points": not start_with_box_prompt,
        "use_boxes": start_with_box_prompt,
        "n_positives": 0 if start_with_box_prompt else 1,
        "n_negatives": 0,
    }
    folders = [Path(prediction_dir) / f"iteration{k:02}" for k in range(n_iterations)]
    for image, labels, name in _remaining(image_paths, gt_paths, folders, "Iterative prompting"):
        results = [np.zeros(labels.shape, np.uint32) for _ in folders]
        ids, prompts = _stored_prompts(labels, start, dilation, None, name)
        embeddings = embeddings_of(predictor, image, embedding_dir, name) if len(ids) else None
        with _random_state(zlib.crc32(name.encode())):
            for first in range(0, len(ids), batch_size):
                which = np.arange(first, min(first + batch_size, len(ids)))
                batch = (labels, ids[which], prompts[which])
                for result, masks in zip(results, _iterations(predictor, embeddings, *batch, use_masks, n_iterations)):
                    for label, mask in zip(ids[which], masks):
                        result[mask] = label
        for folder, result in zip(folders, results):
            write_labels(folder / f"{name}.tif", result)


def _iterations(
    predictor: SamPredictor,
    embeddings: object,
    labels: np.ndarray,
    ids: np.ndarray,
    prompts: Prompts,
    use_masks: bool,
    n_iterations: int,
) -> Iterator[np.ndarray]:
    """The masks (n, Y, X) of one batch of objects after every round of corrections."""
    truth = torch.from_numpy(labels[None] == ids[:, None, None])[:, None]
    correct = IterativePromptGenerator()
    points, point_labels, logits = prompts.points, prompts.labels, None
    for iteration in range(n_iterations):
        records = batched_inference(
            predictor,
            None,
            len(ids),
            boxes=prompts.boxes,
            points=points,
            point_labels=point_labels,
            embedding_path=embeddings,
            return_instance_segmentation=False,
            logits_masks=logits if use_masks else None,
        )
        masks = np.stack([record[0]["segmentation"] for record in records])
        yield masks
        if iteration + 1 < n_iterations:
            more, more_labels, _, _ = correct(truth, torch.from_numpy(masks)[:, None])
            points = np.concatenate([points, more], axis=1) if points is not None else more.numpy()
            point_labels = np.concatenate([point_labels, more_labels], 1) if point_labels is not None else more_labels
            logits = torch.stack([_logits(record[0]) for record in records])


def _logits(record: Mapping[str, Any]) -> torch.Tensor:
    """The mask prompt (1, 256, 256) that a mask record gives; where nothing was found, nothing is hinted at."""
    logits = record.get("logits")
    return torch.full((1, LOW_RES, LOW_RES), -10.0) if logits is None else torch.as_tensor(logits).view(1, LOW_RES, -1)


def _remaining(
    image_paths: Sequence[PathLike], gt_paths: Sequence[PathLike], folders: Sequence[Path], title: str
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Image, labels and name of every pair whose result is not yet in all folders."""
    names = names_of(image_paths, gt_paths)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for image_path, gt_path, name in zip(tqdm(image_paths, title), gt_paths, names):
        if all((folder / f"{name}.tif").exists() for folder in folders):
            continue
        image, labels = load_image_data(os.fspath(image_path)), load_labels(gt_path)
        if image.shape[:2] != labels.shape:
            raise ParameterError(
                f"The annotation '{gt_path}' has the shape {labels.shape}, but the image '{image_path}' {image.shape}."
            )
        yield image, labels, name
