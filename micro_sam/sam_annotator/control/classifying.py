"""Training on strokes, predicting, and the objects in doubt."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.errors import PromptError
from micro_sam.object_classification.classifier import Samples, TrainedClassifier
from micro_sam.object_classification.features import ObjectFeatures
from micro_sam.sam_annotator.control.base import EMBEDDINGS, Control, shown
from micro_sam.sam_annotator.jobs import Job
from micro_sam.sam_annotator.session.classification import (
    STROKES,
    ClassificationSession,
    Outcome,
    Task,
    iter_train_and_predict,
)

if TYPE_CHECKING:
    from napari.layers import Labels

    from micro_sam.sam_annotator.layers.classifier_layers import ClassifierLayers
    from micro_sam.sam_annotator.object_classifier import ObjectClassifier

CLASSIFY = "classify"
_MOST_DOUBTFUL = 50


class ClassifyControl(Control):
    """Training on strokes, predicting, and the objects in doubt."""

    panel: ObjectClassifier
    layers: ClassifierLayers
    session: ClassificationSession
    objects: Labels | None
    features: ObjectFeatures | None
    outcome: Outcome | None
    classifier: TrainedClassifier | None
    kept: dict[str, Samples]
    _train_again: bool
    _image_key: Callable[[], str]
    _segmentation: Callable[[], np.ndarray]
    _show_classes: Callable[[], None]

    def _on_stepped(self) -> None:
        history = self.session.history
        for widget, step in ((self.panel.classes.undo, history.last), (self.panel.classes.redo, history.next)):
            widget.setEnabled(step is not None)
        self._message = None
        self._train_if_wanted()
        self.update_hint()

    @shown
    def train(self) -> None:
        """Learn from all strokes, and classify all objects."""
        self._message = None
        if self.session.image is None:
            raise PromptError("There is no image: drag a file into the window first.")
        if self.objects is None:
            raise PromptError("There are no objects: choose a labels layer, or segment with Annotator 2d or 3d first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        if not self.session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        self._train(shows_progress=True)

    def _train_if_wanted(self, *_: Any) -> None:
        if self.panel.classify.automatic.isChecked() and self._can_train():
            self._train(shows_progress=self.features is None)

    def _can_train(self) -> bool:
        ready = self.session.can_segment and not self.jobs.is_running(EMBEDDINGS)
        return self.objects is not None and ready and (self.classifier is not None or len(self._painted_classes()) > 1)

    def _painted_classes(self) -> set[int]:
        known = {c.id for c in self.session.classes}
        strokes = self.session.labels[STROKES]
        here = {int(c) for plane in strokes.reshape(-1, strokes.shape[-1]) if plane.any() for c in np.unique(plane)}
        return known & {*here, *(int(c) for samples in self.kept.values() for c in samples.classes)}

    def _train(self, shows_progress: bool) -> None:
        if self.jobs.is_running(CLASSIFY):
            self._train_again = True
            return
        session = self.session
        task = Task(
            self._image_key(),
            session.image.source.array,
            session.embeddings,
            session.predictor,
            self._segmentation(),
            session.labels[STROKES],
            session.classes,
            self.features,
            dict(self.kept),
            self.classifier,
        )
        work = functools.partial(iter_train_and_predict, task)
        if shows_progress:
            self._start(CLASSIFY, work, self._on_outcome, self._on_features, self._on_trained)
        else:
            done, failed, ended = self._on_outcome, self.show_error, self._on_trained
            self.jobs.start(Job(CLASSIFY, work, None, self._on_features, done, failed, ended))

    def _on_features(self, features: ObjectFeatures) -> None:
        self.features = features

    @shown
    def _on_outcome(self, outcome: Outcome) -> None:
        self.outcome, self.classifier = outcome, outcome.classifier
        self.layers.show_prediction(outcome.image)
        self.keys.bind(self.layers.own())
        self._show_outcome()

    def _on_trained(self) -> None:
        if self._train_again:
            self._train_again = False
            self.panel.later(self._train_if_wanted)

    def _show_outcome(self) -> None:
        outcome, names = self.outcome, {c.id: c.name for c in (*self.outcome.classifier.classes, *self.session.classes)}
        counts = Counter(outcome.classes.tolist())
        text = ", ".join(f"{counts[class_id]} {names[class_id]}" for class_id in sorted(counts))
        listed = []
        for row in outcome.doubtful()[:_MOST_DOUBTFUL]:
            label, best = int(outcome.features.ids[row]), outcome.probabilities[row].max()
            listed.append((label, f"{label}: {names[int(outcome.classes[row])]}, {best:.0%}"))
        self.panel.classify.show_found(f"{len(outcome.classes)} objects: {text}", listed)
        samples = outcome.classifier.samples
        n_objects = sum(len(found.classes) for found in samples.values())
        images = "this image" if len(samples) == 1 else f"{len(samples)} images"
        self.panel.files.show_samples(f"Learned from {n_objects} objects in {images}." if samples else "")
        self._show_classes()

    @shown
    def look_at(self, label: int) -> None:
        """Move the view to an object."""
        if self.features is not None and label in self.features.windows:
            self.layers.look_at(self.features.windows[label])
            self.say(f"Object {label} is in the middle: paint over it if its class is wrong, or press U for the next.")

    @shown
    def look_at_next(self) -> None:
        """Move the view to the next object in doubt."""
        label = self.panel.classify.following()
        if label is None:
            raise PromptError("There is no object in doubt: paint strokes of at least two classes first.")
        self.look_at(label)
