"""Pictures that compare models: where does one segment an object from a prompt that the other does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from tqdm import tqdm

from ..errors import InputError, ParameterError
from ..inference import batched_inference
from ..io import replacing
from ..labels import get_centers_and_bounding_boxes
from .pairs import PathLike
from .plots import _pyplot

if TYPE_CHECKING:
    import torch

KINDS = ("point", "box")


def generate_data_for_model_comparison(
    loader: torch.utils.data.DataLoader,
    output_folder: PathLike,
    model_type1: str,
    model_type2: str,
    n_samples: int,
    model_type3: str | None = None,
    checkpoint1: PathLike | None = None,
    checkpoint2: PathLike | None = None,
    checkpoint3: PathLike | None = None,
    peft_kwargs1: Mapping[str, Any] | None = None,
    peft_kwargs2: Mapping[str, Any] | None = None,
    peft_kwargs3: Mapping[str, Any] | None = None,
) -> None:
    """Segment every annotated object of some images with each model, from its centre and from its box.

    Args:
        loader: Gives images (1, C, Y, X) and instances (1, 1, Y, X), as torch-em's loaders do.
        output_folder: Receives one ``sample_<i>.h5`` an image.
        model_type1: The first model, or with a checkpoint its encoder.
        model_type2: The second.
        n_samples: Images that are taken from the loader.
        model_type3: A third, or None.
        checkpoint1: The first model's file, or None for the registered one.
        checkpoint2: The second's.
        checkpoint3: The third's.
        peft_kwargs1: How the first was finetuned parameter-efficiently.
        peft_kwargs2: The second.
        peft_kwargs3: The third.
    """
    from ..models.predictor import get_sam_model

    models = [(model_type1, checkpoint1, peft_kwargs1), (model_type2, checkpoint2, peft_kwargs2)]
    if model_type3 is not None:
        models.append((model_type3, checkpoint3, peft_kwargs3))
    predictors = [get_sam_model(m, checkpoint_path=c, peft_kwargs=p) for m, c, p in models]
    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (raw, labels) in zip(tqdm(range(n_samples), "Compare models"), loader):
        path = folder / f"sample_{index}.h5"
        if not path.exists():
            _write_sample(
                path, _image(raw), np.asarray(labels).reshape(labels.shape[-2:]).astype(np.uint32), predictors
            )


def _image(raw: Any) -> np.ndarray:
    """(1, C, Y, X) -> (Y, X) or (Y, X, 3)."""
    image = np.asarray(raw)[0]
    return image[0] if image.shape[0] == 1 else np.moveaxis(image[:3], 0, -1)


def _write_sample(path: Path, image: np.ndarray, labels: np.ndarray, predictors: list[Any]) -> None:
    centers, boxes = get_centers_and_bounding_boxes(labels)
    prompts = {
        "point": {
            "points": np.array([[c[::-1]] for c in centers.values()], dtype=float),
            "point_labels": np.ones((len(centers), 1)),
        },
        "box": {"boxes": np.array([[x0, y0, x1, y1] for y0, x0, y1, x1 in boxes.values()], dtype=float)},
    }
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("labels", data=labels, compression="gzip")
        for number, predictor in enumerate(predictors, start=1):
            embeddings = None
            for kind in KINDS if centers else ():
                result, embeddings = _segment(predictor, image, embeddings, prompts[kind], list(centers))
                file.create_dataset(f"model{number}/{kind}", data=result, compression="gzip")
            file.require_group(f"model{number}").attrs["name"] = predictor.model_name


def _segment(
    predictor: Any, image: np.ndarray, embeddings: Any, prompts: dict, ids: list[int]
) -> tuple[np.ndarray, Any]:
    """Labels with the ids of the annotation, and the embeddings for the next kind of prompt."""
    from ..embeddings import precompute_image_embeddings

    if embeddings is None:
        embeddings = precompute_image_embeddings(predictor, image, ndim=2, verbose=False)
    labels = batched_inference(predictor, None, 32, embedding_path=embeddings, segmentation_ids=ids, **prompts)
    return labels, embeddings


@dataclass(frozen=True)
class Comparison:
    """One object as the models segment it.

    Attributes:
        label: Its id.
        ious: IoU of each model with the annotation.
        window: The part of the image around it.
    """

    label: int
    ious: tuple[float, ...]
    window: tuple[slice, slice]

    @property
    def difference(self) -> float:
        """How much the second model is better than the first."""
        return self.ious[1] - self.ious[0]


def compare_objects(path: PathLike, kind: str, min_size: int = 0, margin: int = 24) -> list[Comparison]:
    """All objects of one sample, ordered by how much the second model is better than the first.

    Args:
        path: A file of `generate_data_for_model_comparison`.
        kind: "point" or "box".
        min_size: Smaller objects, in pixels, are left out.
        margin: How much of the surroundings is shown, in pixels.
    """
    with h5py.File(path, "r") as file:
        labels = file["labels"][:]
        predictions = [file[f"{name}/{kind}"][:] for name in _model_groups(file) if kind in file[name]]
    _, boxes = get_centers_and_bounding_boxes(labels, mode="p")
    found = []
    for label, (y0, x0, y1, x1) in boxes.items():
        truth = labels == label
        if truth.sum() < min_size:
            continue
        ious = tuple(float(((p == label) & truth).sum() / ((p == label) | truth).sum()) for p in predictions)
        window = (slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin))
        found.append(Comparison(label, ious, window))
    return sorted(found, key=lambda c: c.difference, reverse=True)


def _model_groups(file: h5py.File) -> list[str]:
    return sorted(name for name in file if name.startswith("model"))


def model_comparison(
    output_folder: PathLike,
    n_images_per_sample: int,
    min_size: int,
    plot_folder: PathLike | None = None,
    point_radius: int = 4,
    outline_dilation: int = 0,
    have_model3: bool = False,
    enhance_image: bool = True,
) -> None:
    """Draw the objects on which the models differ most.

    Args:
        output_folder: Where `generate_data_for_model_comparison` wrote.
        n_images_per_sample: Objects that are drawn for each image: half in favour of either model.
        min_size: Smaller objects, in pixels, are left out.
        plot_folder: Where ``<kind>/sample_<i>.png`` is written; by default the pictures are shown.
        point_radius: Radius of the point prompt in the picture, in pixels.
        outline_dilation: By how much outlines are thickened, in pixels.
        have_model3: Draw the third model, too.
        enhance_image: Stretch the contrast.

    Raises:
        InputError: There are no samples.
        ParameterError: No object is to be drawn.
    """
    if n_images_per_sample < 1:
        raise ParameterError(f"n_images_per_sample must be at least 1, got {n_images_per_sample}.")
    plt = _pyplot()
    for path in _samples(output_folder):
        for kind in KINDS:
            chosen = _most_different(compare_objects(path, kind, min_size), n_images_per_sample)
            if not chosen:
                continue
            style = (point_radius, outline_dilation, enhance_image)
            figure = _draw(plt, path, kind, chosen, 3 if have_model3 else 2, style)
            if plot_folder is None:
                plt.show()
            else:
                target = Path(plot_folder) / kind / f"{path.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    figure.savefig(temporary, format="png", dpi=120)
            plt.close(figure)


def _samples(folder: PathLike) -> list[Path]:
    found = sorted(Path(folder).glob("sample_*.h5"), key=lambda path: int(path.stem.rpartition("_")[2]))
    if not found:
        raise InputError(f"There are no samples in '{folder}'; make them with generate_data_for_model_comparison.")
    return found


def _most_different(objects: list[Comparison], n: int) -> list[Comparison]:
    """From both ends of the order, each object once."""
    if len(objects) <= n:
        return objects
    return objects[: (n + 1) // 2] + objects[len(objects) - n // 2 :]


def _draw(
    plt: Any, path: Path, kind: str, objects: list[Comparison], n_models: int, style: tuple[int, int, bool]
) -> Any:
    point_radius, dilation, enhance = style
    with h5py.File(path, "r") as file:
        groups = _model_groups(file)[:n_models]
        image, labels = _for_display(file["image"][:], enhance), file["labels"][:]
        predictions = [(file[g].attrs["name"], file[f"{g}/{kind}"][:]) for g in groups]
    figure, axes = plt.subplots(
        len(objects),
        len(predictions),
        squeeze=False,
        figsize=(3 * len(predictions), 3 * len(objects)),
        layout="constrained",
    )
    for row, compared in zip(axes, objects):
        truth = labels == compared.label
        for axis, (name, prediction), iou in zip(row, predictions, compared.ious):
            axis.imshow(image[compared.window], cmap="gray")
            for mask, colour in ((truth, "tab:green"), (prediction == compared.label, "tab:red")):
                axis.contour(mask[compared.window], [0.5], colors=colour, linewidths=1 + dilation)
            _draw_prompt(plt, axis, kind, truth[compared.window], point_radius)
            axis.set_title(f"{name}: IoU {iou:.2f}", fontsize=9)
            axis.set_axis_off()
    figure.suptitle(f"{path.stem}, from a {kind}; annotation green, model red", fontsize=10)
    return figure


def _draw_prompt(plt: Any, axis: Any, kind: str, truth: np.ndarray, radius: int) -> None:
    centers, boxes = get_centers_and_bounding_boxes(truth.astype(np.uint8))
    (y, x), (y0, x0, y1, x1) = centers[1], boxes[1]
    if kind == "point":
        axis.add_patch(plt.Circle((x, y), radius, color="tab:cyan"))
    else:
        axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="tab:cyan"))


def _for_display(image: np.ndarray, enhance: bool) -> np.ndarray:
    low, high = np.percentile(image, (1, 99)) if enhance else (image.min(), image.max())
    return np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def iter_samples(output_folder: PathLike) -> Iterator[dict[str, np.ndarray]]:
    """Image, labels and the models' segmentations (``<model>: <kind>``) of every sample."""
    for path in _samples(output_folder):
        with h5py.File(path, "r") as file:
            layers = {"image": file["image"][:], "labels": file["labels"][:]}
            for group in _model_groups(file):
                for kind in file[group]:
                    layers[f"{group} ({file[group].attrs['name']}): {kind}"] = file[group][kind][:]
        yield layers


def model_comparison_with_napari(output_folder: PathLike, show_points: bool = True) -> None:
    """Look at the samples one after another in napari; closing a window opens the next.

    Args:
        output_folder: Where `generate_data_for_model_comparison` wrote.
        show_points: Show the segmentations from points; otherwise those from boxes.
    """
    import napari

    kind = "point" if show_points else "box"
    for layers in iter_samples(output_folder):
        viewer = napari.Viewer()
        viewer.add_image(layers.pop("image"))
        for name, labels in layers.items():
            if name == "labels" or name.endswith(kind):
                viewer.add_labels(labels, name=name)
        napari.run()
