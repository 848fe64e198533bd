"""Leads the object classifier from image to image."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings import EmbeddingStore, infer_ndim
from micro_sam.errors import MicroSamError, ParameterError
from micro_sam.io import load_image_data, open_image
from micro_sam.io.paths import unique_names
from micro_sam.object_classification.classifier import save_classifier
from micro_sam.progress import Progress, drain
from micro_sam.sam_annotator.control.base import SAVING
from micro_sam.sam_annotator.jobs import sentence
from micro_sam.sam_annotator.keys import Keys
from micro_sam.sam_annotator.layers import add_image
from micro_sam.sam_annotator.session.loading import EmbeddingChoice
from micro_sam.sam_annotator.session.series_record import check_writable
from micro_sam.sam_annotator.widgets.series_widget import SeriesWidget

if TYPE_CHECKING:
    from micro_sam.sam_annotator.controller_classifier import ClassifierController
    from micro_sam.sam_annotator.object_classifier import ObjectClassifier

CLASSIFIER_NAME = "object_classifier.npz"


@dataclass(eq=False)
class SeriesItems:
    """The images of a series, their segmentations, and where results go.

    Args:
        images: Arrays or files.
        segmentations: The same for the labels of each.
        folder: Where results go.
        embeddings: For each image a path or the embeddings, or None for all.
        ndim: 2 or 3; found from the first image by default.

    Raises:
        ParameterError: They do not belong together.
        OutputError: The folder cannot be made.
    """

    images: Sequence[Any]
    segmentations: Sequence[Any]
    folder: str | os.PathLike
    embeddings: Sequence[Any] | None = None
    ndim: int | None = None

    def __post_init__(self) -> None:
        if not len(self.images):
            raise ParameterError("There are no images to classify objects in.")
        for name, given in (("segmentations", self.segmentations), ("embedding_paths", self.embeddings)):
            if given is not None and len(given) != len(self.images):
                raise ParameterError(f"Expected {len(self.images)} {name}, one for each image, got {len(given)}.")
        first = self.images[0]
        shape = tuple(open_image(first).shape) if _is_path(first) else tuple(np.shape(first))
        self.ndim = infer_ndim(shape) if self.ndim is None else self.ndim
        self.folder = Path(self.folder)
        check_writable(self.folder)
        if all(_is_path(image) for image in self.images):
            self.names = unique_names([Path(image) for image in self.images])
        else:
            self.names = [f"image_{number}" for number in range(1, len(self.images) + 1)]

    def read(self, index: int) -> tuple[Any, np.ndarray]:
        """An image and its labels."""
        image, labels = (
            load_image_data(data) if _is_path(data) else data
            for data in (self.images[index], self.segmentations[index])
        )
        return image, np.asarray(labels)

    def result_path(self, index: int) -> Path:
        """Where the classes of an image go."""
        return self.folder / f"{self.names[index]}.tif"

    @property
    def classifier_path(self) -> Path:
        """Where the classifier of the series goes."""
        return self.folder / CLASSIFIER_NAME


class ClassifierSeries:
    """Opens one image after another in an object classifier, and writes what was found.

    Args:
        panel: The classifier's panel.
        items: The images.
        tiles: Tile shape and halo.
        normalization: "minmax" or "robust".
    """

    def __init__(
        self,
        panel: ObjectClassifier,
        items: SeriesItems,
        tiles: tuple[Any, Any] = (None, None),
        normalization: str = "minmax",
    ) -> None:
        self.panel, self.items, self.index = panel, items, None
        self._tiles, self._normalization = tiles, normalization
        self.widget = SeriesWidget()
        self.widget.set_images(items.names)
        for unused in (self.widget.skip, self.widget.done):
            unused.hide()
        panel.insert(self.widget, before=panel.embedding)
        controller = self.controller
        controller.restores_by_itself = True
        controller.journal_beside = lambda: items.folder / "journals" / items.names[self.index or 0]
        self._keys = Keys({"N": self.next, "Shift-N": self.previous})
        self._keys.bind([controller.viewer])
        self.widget.next_requested.connect(self.next)
        self.widget.previous_requested.connect(self.previous)
        self.widget.jump_requested.connect(self.go_to)
        controller.closing.connect(self._save_now)

    @property
    def controller(self) -> ClassifierController:
        """The controller of the classifier."""
        return self.panel.controller

    def begin(self) -> None:
        """Open the first image that has no result yet, with the classifier that was trained before."""
        if self.items.classifier_path.is_file():
            self.controller.load(str(self.items.classifier_path))
        waiting = [k for k in range(len(self.items.names)) if not self._is_done(k)]
        self._open(waiting[0] if waiting else 0)

    def next(self) -> None:
        """Write the classes of this image and go to the next."""
        if self.index is not None and self.index + 1 < len(self.items.names):
            self.go_to(self.index + 1)
        else:
            self._write(lambda: self.controller.say("This was the last image; its classes are written.", "done"))

    def previous(self) -> None:
        """Write the classes of this image and go back to the one before."""
        if self.index:
            self.go_to(self.index - 1)

    def go_to(self, index: int) -> None:
        """Write the classes of this image and go to another."""
        if index != self.index:
            self._write(functools.partial(self._open, index))

    def _write(self, then: Any) -> None:
        controller = self.controller
        if controller.outcome is None or self.index is None:
            then()
            return
        work = self._saving()
        controller._start(SAVING, lambda: work, on_done=lambda _: then(), on_end=self._show)

    def _saving(self) -> Generator[Progress, None, None]:
        """Writes what there is now, whatever is opened meanwhile."""
        export, classifier = self.controller.exporting(self.items.result_path(self.index)), self.controller.classifier
        path = self.items.classifier_path

        def work() -> Generator[Progress, None, None]:
            yield from export
            save_classifier(path, classifier)

        return work()

    def _save_now(self) -> None:
        self._keys.close()
        if self.controller.outcome is not None and self.index is not None:
            drain(self._saving())

    def _open(self, index: int) -> None:
        controller, viewer = self.controller, self.controller.viewer
        try:
            image, labels = self.items.read(index)
        except MicroSamError as error:
            controller.show_error(sentence(error))
            return
        before = [layer for layer in (controller.layers.image, controller.objects) if layer is not None]
        self.index = index
        embeddings = None if self.items.embeddings is None else self.items.embeddings[index]
        is_ready = isinstance(embeddings, EmbeddingStore | dict)
        choice = EmbeddingChoice(
            None if is_ready or embeddings is None else str(embeddings),
            *self._tiles,
            normalization=self._normalization,
        )
        self.panel.embedding.set_embedding(choice)
        with controller.layers.muted():
            layer = add_image(viewer, image, self.items.ndim, self.items.names[index])
        controller.choose_image(layer)
        for old in before:
            if old in viewer.layers:
                viewer.layers.remove(old)
        if controller.session.image is not None and controller.layers.image is layer:
            controller.begin_with(labels)
            model = self.panel.embedding.model_choice()
            if is_ready:
                controller.use_embeddings(embeddings, model)
            else:
                controller.compute_with(model, choice)
        viewer.reset_view()
        self._show()

    def _is_done(self, index: int) -> bool:
        return self.items.result_path(index).is_file()

    def _show(self) -> None:
        states = ["done" if self._is_done(k) else "open" for k in range(len(self.items.names))]
        self.widget.show_state(states, self.index, [""] * len(states))


def _is_path(data: Any) -> bool:
    return isinstance(data, str | os.PathLike)
