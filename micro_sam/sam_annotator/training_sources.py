"""What a model is finetuned on: the open annotator, layers of the viewer, or files; and using the result where one was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.session.state import COMMITTED
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel
from micro_sam.training.data import TrainingData

if TYPE_CHECKING:
    from napari import Viewer

    from micro_sam.sam_annotator.annotator import AnnotatorWidget

ANNOTATOR, SERIES, LAYERS, FILES = "annotator", "series", "layers", "files"
Data = tuple[TrainingData, TrainingData | None]


@dataclass(frozen=True)
class FileChoice:
    """Images and labels in files.

    Attributes:
        images: A file or folder.
        labels: The same.
        image_key: The data set inside the files, or the pattern of a folder's files.
        label_key: The same for the labels.
    """

    images: str | None = None
    labels: str | None = None
    image_key: str | None = None
    label_key: str | None = None

    def data(self, what: str = "") -> TrainingData:
        """The same for a training; what is missing is one sentence."""
        for path, name in ((self.images, f"{what}images"), (self.labels, f"{what}labels")):
            if path is None:
                raise ParameterError(f"Choose the file or folder of the {name} first.")
        keys = [
            key or ("*" if Path(path).is_dir() and Path(path).suffix not in (".zarr", ".n5") else None)
            for path, key in ((self.images, self.image_key), (self.labels, self.label_key))
        ]
        return TrainingData([Path(self.images)], [Path(self.labels)], *keys)


@dataclass(frozen=True)
class SourceChoice:
    """Where the data comes from.

    Attributes:
        kind: ANNOTATOR, SERIES, LAYERS or FILES.
        image: The name of the image layer.
        labels: The name of the labels layer.
        files: The files.
        validation: Other files for validation; None holds out a part of the data.
    """

    kind: str = FILES
    image: str | None = None
    labels: str | None = None
    files: FileChoice = field(default_factory=FileChoice)
    validation: FileChoice | None = None


class ViewerSources:
    """Reads training data from a viewer, and brings the result into its annotator.

    Args:
        viewer: The viewer; None if there is none, then there are only files.
    """

    def __init__(self, viewer: Viewer | None) -> None:
        self.viewer = viewer

    def annotator(self) -> AnnotatorWidget | None:
        """The annotator that is open in the viewer."""
        if self.viewer is None:
            return None
        window = getattr(self.viewer.window, "_qt_window", None)
        panels = [] if window is None else window.findChildren(AnnotatorPanel)
        return next((panel for panel in panels if getattr(panel, "controller", None) is not None), None)

    def kinds(self) -> list[str]:
        """Where data can come from now, the most likely place first."""
        panel = self.annotator()
        found = [] if panel is None or panel.controller.session.image is None else [ANNOTATOR]
        if panel is not None and getattr(panel, "series", None) is not None:
            found.insert(0, SERIES)
        if all(self.layer_names()):
            found.append(LAYERS)
        return [*found, FILES]

    def layer_names(self) -> tuple[list[str], list[str]]:
        """The image layers and the labels layers of the viewer."""
        if self.viewer is None:
            return [], []
        from napari.layers import Image, Labels

        layers = list(self.viewer.layers)
        return tuple([layer.name for layer in layers if isinstance(layer, kind)] for kind in (Image, Labels))

    def data(self, choice: SourceChoice) -> Data:
        """The data for training and validation; arrays are copied, so that annotating can go on.

        Raises:
            ParameterError: Something is missing, or holds no object.
        """
        validation = None if choice.validation is None else choice.validation.data("validation ")
        if choice.kind == FILES:
            return choice.files.data(), validation
        if choice.kind == SERIES:
            return self._series_data(), validation
        name, image, labels = self._annotated() if choice.kind == ANNOTATOR else self._layers(choice)
        training, held_out = planes_with_objects(image, labels, name)
        return training, validation or held_out

    def _panel(self) -> AnnotatorWidget:
        panel = self.annotator()
        if panel is None or panel.controller.session.image is None:
            raise ParameterError("There is no annotator with an image any more: open it again, or choose files.")
        return panel

    def _annotated(self) -> tuple[str, Any, np.ndarray]:
        session = self._panel().controller.session
        labels = session.finished_labels()
        if not labels.any():
            raise ParameterError("No object is committed yet: commit some objects [C], then come back.")
        return session.image.name, session.image.source.array, labels

    def _layers(self, choice: SourceChoice) -> tuple[str, Any, np.ndarray]:
        names = [layer.name for layer in self.viewer.layers]
        for name, what in ((choice.image, "image"), (choice.labels, "labels")):
            if name not in names:
                raise ParameterError(f"Choose a layer for the {what} first.")
        image, labels = (self.viewer.layers[name] for name in (choice.image, choice.labels))
        first = [layer.data[0] if layer.multiscale else layer.data for layer in (image, labels)]
        return image.name, first[0], np.array(first[1])

    def _series_data(self) -> TrainingData:
        """The images of the series that are done, and the current one as far as objects are committed."""
        leading = self._panel().series
        series, session = leading.series, leading.controller.session
        images, labels = [], []
        for k in range(len(series)):
            if k == leading.index and session.image is not None and session.has(COMMITTED):
                images.append(session.image.source.array)
                labels.append(session.finished_labels().astype(np.int32))
            elif k != leading.index and series.state(k) == "done" and series.labels_path(k).exists():
                images.append(series.items[k].source)
                labels.append(series.labels_path(k))
        if not images:
            raise ParameterError("No image of the series is done yet: annotate one, press N, then come back.")
        return TrainingData(images, labels, series.key)

    def use(self, path: Path) -> bool:
        """Load a model file in the annotator that is open, which keeps its image, labels and history.

        Without an annotator one is opened for the first image of the viewer.

        Returns:
            False if there is no image to use it on.
        """
        panel = self.annotator() or self._open_annotator()
        if panel is None:
            return False
        old, embedding = panel.embedding.model_choice(), panel.embedding.embedding_choice()
        choice = ModelChoice(checkpoint_path=str(path), device=old.device, precision=old.precision)
        embedding = replace(embedding, path=_beside(embedding.path, path.stem))
        leading = getattr(panel, "series", None)
        if leading is not None and leading.series.embedding_folder is not None:
            leading.series.embedding_folder /= path.stem
            leading.series.embedding_folder.mkdir(exist_ok=True)
            embedding = replace(embedding, path=leading.series.embedding_path(leading.index))
        panel.embedding.set_model(choice)
        panel.embedding.set_embedding(embedding)
        if panel.controller.session.image is not None:
            panel.controller.compute_with(choice, embedding)
        return True

    def _open_annotator(self) -> AnnotatorWidget | None:
        from micro_sam.sam_annotator.annotator_2d import Annotator2d
        from micro_sam.sam_annotator.annotator_3d import Annotator3d

        names = self.layer_names()[0]
        if not names:
            return None
        layer = self.viewer.layers[names[0]]
        panel = (Annotator2d if layer.ndim == 2 else Annotator3d)(self.viewer)
        self.viewer.window.add_dock_widget(panel, name=panel.title, area="right", add_vertical_stretch=False)
        panel.controller.choose_image(layer)
        return panel


def planes_with_objects(image: Any, labels: np.ndarray, name: str = "image", share: float = 0.2) -> Data:
    """An annotated image or volume for training; of a volume the planes in which there are objects.

    Args:
        image: (Y, X) or (Z, Y, X), with channels last or without, numpy or lazy.
        labels: (Y, X) or (Z, Y, X).
        name: What it is called.
        share: The share of the planes that is held out: the last ones, because neighbours look alike.

    Raises:
        ParameterError: There is no object, or labels and image do not fit.
    """
    if tuple(image.shape)[: labels.ndim] != labels.shape:
        raise ParameterError(
            f"The image {tuple(image.shape)} and the labels {labels.shape} must cover the same pixels."
        )
    labels = labels.astype(np.int32)
    if not (labels > 0).any():
        raise ParameterError("The labels hold no object: annotate some first.")
    if labels.ndim == 2:
        return TrainingData([np.asarray(image)], [labels], names=(name,)), None
    planes = [z for z in range(len(labels)) if (labels[z] > 0).any()]
    if len(planes) == 1:
        return _planes(image, labels, planes), None
    border = max(1, len(planes) - max(1, round(share * len(planes))))
    return _planes(image, labels, planes[:border]), _planes(image, labels, planes[border:])


def _planes(image: Any, labels: np.ndarray, chosen: list[int]) -> TrainingData:
    names = tuple(f"plane {z}" for z in chosen)
    return TrainingData([np.asarray(image[z]) for z in chosen], [labels[z] for z in chosen], names=names)


def _beside(store: str | None, name: str) -> str | None:
    """Embeddings of another model are kept beside those there are."""
    if store is None:
        return None
    path = Path(store)
    return str(path.with_name(f"{path.stem}_{name}{path.suffix}"))
