"""A session in which the objects of a segmentation are classified: strokes by class, on the image's pixels."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from micro_sam.errors import ParameterError, PromptError
from micro_sam.object_classification.classifier import (
    ObjectClass,
    Samples,
    TrainedClassifier,
    check_features,
    check_model,
    describe_model,
    train,
)
from micro_sam.object_classification.features import ObjectFeatures, iter_object_features
from micro_sam.object_classification.prediction import project_prediction_to_segmentation
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.journal import Journal, Record
from micro_sam.sam_annotator.session.session import AnnotationSession
from micro_sam.sam_annotator.session.state import CODECS, COMMITTED, Codec

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

KIND = "object_classifier"
#: Strokes take the place of committed labels: they are what the person makes.
STROKES = COMMITTED
PALETTE = (
    "#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#469990", "#ffe119",
)  # fmt: skip
_MOST_CLASSES = 255

Classes = tuple[ObjectClass, ...]


def default_classes() -> Classes:
    """The classes to begin with."""
    return tuple(ObjectClass(k, f"class {k}", PALETTE[k - 1]) for k in (1, 2))


def _decoded(classes: Sequence[Mapping[str, Any]]) -> Classes:
    return tuple(ObjectClass(int(c["id"]), str(c["name"]), str(c["color"])) for c in classes)


def _encoded(classes: Classes) -> list[dict[str, Any]]:
    return [asdict(found) for found in classes]


@dataclass(eq=False)
class ClassificationSession(AnnotationSession):
    """Strokes on one image, and the classes they stand for, which go on from image to image.

    Attributes:
        classes: The classes.
    """

    kind: str = KIND
    classes: Classes = field(default_factory=default_classes)

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()
    codecs: ClassVar[Mapping[str, Codec]] = {**CODECS, "classes": Codec(_encoded, _decoded)}

    def start(self, shape: Sequence[int]) -> None:
        """Begin without strokes; the classes stay."""
        super().start(shape)
        self.labels = {STROKES: np.zeros(tuple(shape), np.uint8)}

    def _new_journal(self, beside: str | os.PathLike | None) -> Journal:
        journal = super()._new_journal(beside)
        journal.append("begin", {"text": "Classes", "values": {"classes": _encoded(self._first_classes)}})
        return journal

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Begin with an image, see `AnnotationSession.open`."""
        super().open(*args, **kwargs)
        self._first_classes = self.classes

    def _replay(self, record: Record) -> None:
        if record.do == "begin":
            self.classes = self._first_classes = _decoded(record.content["values"]["classes"])
        else:
            super()._replay(record)

    _first_classes: ClassVar[Classes] = default_classes()

    # Classes

    def of_class(self, class_id: int) -> ObjectClass:
        """The class with this id.

        Raises:
            ParameterError: There is none.
        """
        found = next((c for c in self.classes if c.id == class_id), None)
        if found is None:
            raise ParameterError(f"There is no class {class_id}; there are {[c.id for c in self.classes]}.")
        return found

    def add_class(self, name: str | None = None) -> ObjectClass:
        """Add a class.

        Raises:
            ParameterError: There is one of that name, or there are too many.
        """
        used = [c.id for c in (*self.classes, *self._first_classes)] + [int(self.labels[STROKES].max(initial=0))]
        number = max(used) + 1
        if number > _MOST_CLASSES:
            raise ParameterError(f"There cannot be more than {_MOST_CLASSES} classes.")
        name = self._free_name(name, number)
        made = ObjectClass(number, name, PALETTE[(number - 1) % len(PALETTE)])
        self.do("classes", f"Added the class {name}", {"classes": (*self.classes, made)})
        return made

    def _free_name(self, name: str | None, number: int) -> str:
        names = {c.name for c in self.classes}
        if name is None:
            return next(n for n in (f"class {k}" for k in range(number, number + 300)) if n not in names)
        name = " ".join(name.split())
        if not name or name in names:
            raise ParameterError(f"A class needs a name of its own, got '{name}'.")
        return name

    def rename_class(self, class_id: int, name: str) -> None:
        """Give a class another name.

        Raises:
            ParameterError: There is no such class, or another one of that name.
        """
        old = self.of_class(class_id)
        if " ".join(name.split()) != old.name:
            self._replace_class(old, f"Renamed the class {old.name}", name=self._free_name(name, class_id))

    def recolor_class(self, class_id: int, color: str) -> None:
        """Give a class another colour."""
        old = self.of_class(class_id)
        self._replace_class(old, f"Changed the colour of {old.name}", color=color)

    def _replace_class(self, old: ObjectClass, text: str, **changes: str) -> None:
        made = tuple(replace(c, **changes) if c is old else c for c in self.classes)
        self.do("classes", text, {"classes": made})

    def remove_class(self, class_id: int) -> None:
        """Remove a class with its strokes."""
        old, labels = self.of_class(class_id), self.labels[STROKES]
        whole = tuple(slice(0, n) for n in labels.shape)
        diff = Diff.between(STROKES, whole, labels, np.where(labels == class_id, 0, labels))
        kept = tuple(c for c in self.classes if c is not old)
        self.do("classes", f"Removed the class {old.name}", {"classes": kept}, [diff])

    def adopt_classes(self, classes: Classes) -> None:
        """Take over the classes of a classifier; own ones with strokes stay."""
        ids = {c.id for c in classes}
        used = set(np.unique(self.labels[STROKES]).tolist()) if STROKES in self.labels else set()
        mine = tuple(c for c in self.classes if c.id not in ids and c.id in used)
        if STROKES in self.labels:
            self.do("classes", "Took over classes", {"classes": (*classes, *mine)})
        else:
            self.classes = (*classes, *mine)


def annotated_objects(
    strokes: np.ndarray, segmentation: np.ndarray, ids: np.ndarray, classes: Classes
) -> tuple[np.ndarray, np.ndarray]:
    """Which objects were painted over, and with which class.

    Args:
        strokes: The ids of classes where something was painted, 0 elsewhere.
        segmentation: The objects' labels.
        ids: The objects' ids in ascending order.
        classes: The classes; strokes of others do not count.

    Returns:
        The places of the objects in ``ids``, and the class of each: the one with most of the painted pixels.
    """
    there = (strokes != 0) & (segmentation != 0)
    painted, labels = strokes[there], segmentation[there]
    known = np.isin(painted, [c.id for c in classes]) & np.isin(labels, ids)
    pairs, counts = np.unique(np.stack([labels[known], painted[known]]).astype(np.int64), axis=1, return_counts=True)
    best: dict[int, tuple[int, int]] = {}
    for (label, class_id), count in zip(pairs.T.tolist(), counts.tolist()):
        if count > best.get(label, (0, 0))[0]:
            best[label] = (count, class_id)
    rows = np.searchsorted(ids, np.array(sorted(best), dtype=ids.dtype))
    return rows, np.array([best[label][1] for label in sorted(best)], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that training and predicting need.

    Attributes:
        name: What the samples of this image are filed under.
        image: The image's array.
        embeddings: Its embeddings.
        predictor: The model.
        segmentation: Its labels.
        strokes: What was painted.
        classes: The classes.
        features: The objects' features, if they were computed before.
        kept: Samples of images so far; those of this image count only while nothing is painted on it.
        classifier: One that was trained before; used as it is where nothing is painted and nothing else is known.
    """

    name: str
    image: Any
    embeddings: ImageEmbeddings
    predictor: SamPredictor
    segmentation: np.ndarray
    strokes: np.ndarray
    classes: Classes
    features: ObjectFeatures | None = None
    kept: Mapping[str, Samples] = field(default_factory=dict)
    classifier: TrainedClassifier | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What training and predicting lead to.

    Attributes:
        features: The objects.
        classifier: What was trained.
        classes: The id of the class of each object: the painted one where there is one, else the most probable.
        probabilities: How probable each class of the classifier is, (n, n_classes).
        annotated: Which objects were painted over, (n,) bool.
        image: The classes as an image.
    """

    features: ObjectFeatures
    classifier: TrainedClassifier
    classes: np.ndarray
    probabilities: np.ndarray
    annotated: np.ndarray
    image: np.ndarray

    def doubtful(self) -> list[int]:
        """The places of the objects that were not painted over, those first whose two best classes are closest."""
        best = np.sort(self.probabilities, axis=1)
        margin = best[:, -1] - best[:, -2]
        return [int(row) for row in np.argsort(margin, kind="stable") if not self.annotated[row]]


def iter_train_and_predict(task: Task) -> Generator[Progress | ObjectFeatures, None, Outcome]:
    """Collect features, train and predict.

    Yields:
        `Progress`, and the features as soon as they are complete.

    Raises:
        MicroSamError: In a sentence what is missing or does not fit.
    """
    model, features = describe_model(task.predictor), task.features
    if features is None:
        features = yield from iter_object_features(task.embeddings, task.segmentation, image=task.image)
        yield features
    yield Progress(0, 0, "Train")
    rows, classes = annotated_objects(task.strokes, task.segmentation, features.ids, task.classes)
    samples = {**task.kept, **({task.name: Samples(features.values[rows], classes)} if len(rows) else {})}
    if task.strokes.any() and not samples:
        raise PromptError("The strokes touch no objects: paint over objects, not beside them.")
    classifier = task.classifier
    if classifier is not None and (task.kept or not len(rows)):
        check_model(classifier.model, model)
        check_features(features, classifier.feature_names, classifier.ndim)
    if samples or classifier is None:
        classifier = train(samples, task.classes, features.names, features.ndim, model)
    yield Progress(0, 0, "Predict")
    probabilities = classifier.probabilities(features)
    predicted = classifier.class_ids[probabilities.argmax(axis=1)]
    predicted[rows] = classes
    annotated = np.zeros(len(predicted), bool)
    annotated[rows] = True
    shown = project_prediction_to_segmentation(task.segmentation, predicted, features.ids)
    return Outcome(features, classifier, predicted, probabilities, annotated, shown)
