"""Wires the object classifier: strokes lead to samples, samples to a forest, and the forest to classes of all objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.object_classification.classifier import Samples, TrainedClassifier
from micro_sam.object_classification.features import ObjectFeatures
from micro_sam.sam_annotator.control.base import EMBEDDINGS, shown
from micro_sam.sam_annotator.control.class_files import ClassFileControl
from micro_sam.sam_annotator.control.class_strokes import ClassControl
from micro_sam.sam_annotator.control.classifying import CLASSIFY, ClassifyControl
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.layers.classifier_layers import ClassifierLayers
from micro_sam.sam_annotator.session.classification import (
    STROKES,
    ClassificationSession,
    Outcome,
    annotated_objects,
)
from micro_sam.sam_annotator.session.recovery import Unfinished

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from micro_sam.sam_annotator.object_classifier import ObjectClassifier


class ClassifierController(ClassControl, ClassifyControl, ClassFileControl, AnnotatorController):
    """One object classifier in one viewer; see `AnnotatorController` for the arguments."""

    panel: ObjectClassifier
    layers: ClassifierLayers
    session: ClassificationSession
    image_slots = (EMBEDDINGS, CLASSIFY)
    #: Earlier strokes on an image are taken up without asking.
    restores_by_itself = False

    def __init__(self, *args: Any) -> None:
        self.objects: Labels | None = None
        self.features: ObjectFeatures | None = None
        self.outcome: Outcome | None = None
        self.classifier: TrainedClassifier | None = None
        self.kept: dict[str, Samples] = {}
        self._own_journals: set[Path] = set()
        self._train_again = False
        self._contour = 0
        super().__init__(*args)
        self._show_classes()

    def _table(self) -> list[tuple[Any, Callable]]:
        """Who listens to what."""
        panel, layers, session = self.panel, self.layers, self.session
        return [
            *self._shared_links(),
            (panel.classes.segmentation_chosen, self._on_objects_chosen),
            (panel.classes.class_chosen, self.paint_class),
            (panel.classes.add_requested, self.add_class),
            (panel.classes.remove_requested, self.remove_class),
            (panel.classes.renamed, self.rename_class),
            (panel.classes.recolored, self.recolor_class),
            (panel.classes.eraser_chosen, self.erase),
            (panel.classes.size_changed, layers.set_brush_size),
            (panel.classes.undo_requested, self.undo),
            (panel.classes.redo_requested, self.redo),
            (panel.classify.train_requested, self.train),
            (panel.classify.automatic_toggled, self._train_if_wanted),
            (panel.classify.jump_requested, self.look_at),
            (panel.classify.next_requested, self.look_at_next),
            (panel.files.load_requested, self.load),
            (panel.files.save_requested, self.save),
            (panel.files.export_requested, self.export),
            (panel.files.forget_requested, self.forget),
            (session.events.classes, lambda _: self._show_classes()),
            (self.embeddings_ready, self._on_embeddings_ready),
        ]

    def _key_actions(self) -> dict[str, Callable[[], Any]]:
        actions: dict[str, Callable[[], Any]] = {
            "T": self.train,
            "U": self.look_at_next,
            "0": self.erase,
            "Control-Z": self.undo,
            "Control-Shift-Z": self.redo,
        }
        for number in range(1, 10):
            actions[str(number)] = functools.partial(self.paint_number, number)
        return actions

    # The image and its objects

    def begin_with(self, result: Any) -> None:
        """Begin with these objects."""
        labels = np.asarray(result)
        with self.layers.muted():
            transform = {name: getattr(self.layers.image, name)[-labels.ndim :] for name in ("scale", "translate")}
            layer = self.viewer.add_labels(labels, name="segmentation", opacity=0.4, **transform)
            self.viewer.layers.move(len(self.viewer.layers) - 1, self.viewer.layers.index(self.layers.image) + 1)
        self.choose_objects(layer)
        self._on_images_changed()

    @shown
    def choose_image(self, layer: Image) -> None:
        """Classify the objects in the image of a layer."""
        super().choose_image(layer)
        if self.session.image is not None and self.layers.image is layer:
            self._choose_only_objects()

    def _choose_only_objects(self) -> None:
        """Choose the segmentation where there is only one that fits."""
        image = self.session.image
        if self._closed or image is None or self.objects is not None:
            return
        fitting = [found for found in self.layers.segmentations() if tuple(found.data.shape) == tuple(image.shape)]
        if len(fitting) == 1:
            self.choose_objects(fitting[0])

    def close_image(self) -> None:
        """End work on the image; its samples are kept."""
        self._keep_samples()
        if self.session.journal_folder is not None:
            self._own_journals.add(self.session.journal_folder)
        super().close_image()
        self._forget_objects()

    def _keep_samples(self) -> None:
        if self.features is not None and self.objects is not None and STROKES in self.session.labels:
            found = annotated_objects(
                self.session.labels[STROKES], self._segmentation(), self.features.ids, self.session.classes
            )
            self.kept.pop(self._image_key(), None)
            if len(found[0]):
                self.kept[self._image_key()] = Samples(self.features.values[found[0]], found[1])

    def _image_key(self) -> str:
        image = self.session.image
        return f"{image.name} [{image.fingerprint[:8]}]"

    def _let_go_of_objects(self) -> None:
        """Leave their layer as it was."""
        if self.objects is not None:
            self.objects.contour = self._contour
            for event in (self.objects.events.data, self.objects.events.paint):
                event.disconnect(self._on_objects_edited)

    def _forget_objects(self) -> None:
        self._let_go_of_objects()
        self.objects = self.features = self.outcome = None
        self.panel.classify.show_found("", ())

    @shown
    def choose_objects(self, layer: Labels) -> None:
        """Classify the objects of a labels layer."""
        image = self.session.image
        if image is None:
            raise PromptError("There is no image yet: drag its file into the window first.")
        data = layer.data[0] if layer.multiscale else layer.data
        if tuple(data.shape) != tuple(image.shape):
            raise PromptError(
                f"The segmentation '{layer.name}' has the shape {tuple(data.shape)}, but the image has {image.shape}; "
                "choose labels of this image."
            )
        if layer is not self.objects:
            self._forget_objects()
            self.objects, self._contour = layer, layer.contour
            layer.contour = layer.contour or 1  # inside is the class
            for event in (layer.events.data, layer.events.paint):
                event.connect(self._on_objects_edited)
        self._on_images_changed()
        self.layers.brush(self.panel.classes.chosen())
        self._train_if_wanted()
        self.update_hint()

    def _on_objects_edited(self, event: Any = None) -> None:
        self.features = None

    def _on_objects_chosen(self, name: str) -> None:
        layer = next((layer for layer in self.layers.segmentations() if layer.name == name), None)
        if layer is not None and layer is not self.objects:
            self.choose_objects(layer)
            self._on_images_changed()

    def _on_images_changed(self) -> None:
        super()._on_images_changed()
        layers = self.layers.segmentations()
        if self.objects is not None and self.objects not in layers:
            self._forget_objects()
        self.panel.classes.set_segmentations(
            [layer.name for layer in layers], None if self.objects is None else self.objects.name
        )
        if self.objects is None and layers and self.session.image is not None:
            self.panel.later(self._choose_only_objects)

    def _segmentation(self) -> np.ndarray:
        return np.asarray(self.objects.data[0] if self.objects.multiscale else self.objects.data)

    def show_layers(self) -> None:
        """Make the layer of strokes if it is missing."""
        self.layers.classes = self.session.classes
        super().show_layers()
        self.panel.classes.set_size(int(self.layers.labels[STROKES].brush_size))

    # What is said, and what other annotators do that this one does not

    def _on_embeddings_ready(self) -> None:
        self._message = None
        self.features = None
        self._train_if_wanted()
        self.update_hint()

    def _on_unfinished(self, found: Unfinished | None) -> None:
        self.unfinished = found
        if found is None or found.n_objects == 0 or len(self.session.history):
            return
        if self.restores_by_itself or found.folder in self._own_journals:
            self.restore()
            return
        super()._on_unfinished(found)
        when = f"{found.changed.astimezone():%d %B, %H:%M}"
        self.panel.banner.offer(f"There are earlier strokes on this image: {found.n_steps} steps, {when}.")

    def restore(self) -> None:
        """Take up the strokes that were found."""
        super().restore()
        self._show_classes()
        self._train_if_wanted()

    def update_hint(self) -> None:
        """Show what to do next, unless there is a message."""
        if self._message is None and not self._closed:
            self.panel.status.say(self._hint())

    def _hint(self) -> str:
        session = self.session
        if session.image is None:
            return "Drag an image into the window, and the labels of its objects."
        if self.objects is None:
            return "Choose a labels layer with the objects of this image, or segment it with Annotator 2d or 3d first."
        if self.jobs.is_running(EMBEDDINGS):
            return "The model looks at the image; you can already paint over objects."
        if not session.can_segment:
            return "Press Compute embeddings: the classifier sees objects with the eyes of the model."
        if self.outcome is None and self.jobs.is_running(CLASSIFY):
            return "The objects are looked at and the strokes learned; go on painting meanwhile."
        painted = self._painted_classes()
        if not painted and self.classifier is None:
            return "Paint a short stroke over some objects of each class; keys 1 to 9 choose the class."
        if len(painted) < 2 and self.classifier is None:
            return "Now choose another class (keys 1 to 9) and paint over some of its objects."
        if self.outcome is None:
            return "Press T to learn from the strokes and classify all objects."
        return "Paint over objects whose class is wrong, or press U to see those in doubt."

    def close(self) -> None:
        """Let go of everything; layers stay."""
        if not self._closed:
            super().close()
            self._let_go_of_objects()

    def _show_options(self) -> None:
        pass

    def _show_modes(self) -> None:
        pass
