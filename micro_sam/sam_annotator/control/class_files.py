"""Classifiers as files, and the classes that are written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_sam.errors import PromptError
from micro_sam.io import write_labels
from micro_sam.object_classification.classifier import (
    ObjectClass,
    Samples,
    TrainedClassifier,
    load_classifier,
    save_classifier,
)
from micro_sam.object_classification.tables import write_class_table
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import SAVING, Control, shown
from micro_sam.sam_annotator.session.saving import resolution_of

if TYPE_CHECKING:
    from micro_sam.sam_annotator.object_classifier import ObjectClassifier
    from micro_sam.sam_annotator.session.classification import ClassificationSession, Outcome


class ClassFileControl(Control):
    """Classifiers as files, and the classes that are written."""

    panel: ObjectClassifier
    session: ClassificationSession
    outcome: Outcome | None
    classifier: TrainedClassifier | None
    kept: dict[str, Samples]
    _train_if_wanted: Callable

    @shown
    def load(self, path: str) -> None:
        """Go on with a classifier that was saved."""
        classifier = load_classifier(path)
        if self.session.predictor is not None:
            classifier.check_model(self.session.predictor)
        self.kept, self.classifier = dict(classifier.samples), classifier
        self.session.adopt_classes(classifier.classes)
        self.say(f"Loaded a classifier of {len(classifier.classes)} classes.", "done")
        self._train_if_wanted()

    @shown
    def save(self, path: str) -> None:
        """Save the classifier with its samples."""
        if self.classifier is None:
            raise PromptError("There is no classifier yet: paint strokes of two classes, and press Train and predict.")
        path = path if Path(path).suffix else f"{path}.npz"
        self._start(SAVING, lambda: _saving(path, self.classifier), lambda _: self.say(f"Saved to {path}.", "done"))

    @shown
    def export(self, path: str) -> None:
        """Write the classes as an image and as a table."""
        if self.outcome is None:
            raise PromptError("There are no classes yet: press Train and predict first.")
        work = self.exporting(path)
        self._start(SAVING, lambda: work, lambda _: self.say(f"Wrote {path} and its table (.csv).", "done"))

    def exporting(self, path: str | Path) -> Generator[Progress, None, None]:
        """Writes the classes as they are now; a generator."""
        outcome, classes = self.outcome, self.session.classes
        return iter_export(path, outcome, classes, resolution_of(self.session.image.scale, self.layers.units()))

    @shown
    def forget(self) -> None:
        """Forget what was learned from other images."""
        self.kept, self.classifier = {}, None
        self.panel.files.show_samples("")
        self.say("What was learned from other images is forgotten.")
        self._train_if_wanted()


def iter_export(
    path: str | Path, outcome: Outcome, classes: Sequence[ObjectClass], resolution: Any = None
) -> Generator[Progress, None, None]:
    """Write the classes of objects as labels (.tif or .zarr), and beside them as a table (.csv)."""
    path = Path(path)
    yield Progress(0, 2, "Write classes")
    write_labels(path, outcome.image, resolution)
    yield Progress(1, 2, "Write the table")
    named = {c.id: c for c in (*outcome.classifier.classes, *classes)}
    order = [named[c.id] for c in outcome.classifier.classes]
    table = path.with_name(f"{path.name.removesuffix(path.suffix).removesuffix('.ome')}.csv")
    write_class_table(table, outcome.features, outcome.classes, outcome.probabilities, order, outcome.annotated)
    yield Progress(2, 2, "Write the table")


def _saving(path: str, classifier: TrainedClassifier) -> Generator[Progress, None, None]:
    yield Progress(0, 1, "Save the classifier")
    save_classifier(path, classifier)
