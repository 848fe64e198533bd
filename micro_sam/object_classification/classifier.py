"""A trained classifier of objects: its classes, its forest, and what it was trained with; as a file without code."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError, ParameterError
from micro_sam.io import replacing
from micro_sam.object_classification.features import ObjectFeatures
from micro_sam.object_classification.forest import Forest

FORMAT, VERSION = "micro_sam object classifier", 1
_MOST_BYTES = 2**31
_HEADER = "description"


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects.

    Attributes:
        id: Its number, from 1; never used again for another class.
        name: What it is called.
        color: Its colour, such as "#e6194b".
    """

    id: int
    name: str
    color: str


@dataclass(frozen=True, eq=False)
class Samples:
    """Objects of one image whose class was given by a person.

    Attributes:
        values: Their features, (n, n_features), float32.
        classes: The ids of their classes, (n,).
    """

    values: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier that can be applied, saved, and trained further.

    Attributes:
        classes: The classes, in the order of the forest's.
        forest: Tells them apart.
        feature_names: What it looks at.
        ndim: 2 for images, 3 for volumes and time series.
        model: Name and hash of the model whose embeddings it looks at.
        samples: What it was trained on, by image.
    """

    classes: tuple[ObjectClass, ...]
    forest: Forest
    feature_names: tuple[str, ...]
    ndim: int
    model: Mapping[str, str | None]
    samples: Mapping[str, Samples] = field(default_factory=dict)

    def probabilities(self, features: ObjectFeatures) -> np.ndarray:
        """The probability of each class for each object, (n, n_classes).

        Raises:
            ParameterError: The features are others than those it was trained with.
        """
        check_features(features, self.feature_names, self.ndim)
        return self.forest.predict(features.values)

    def predict(self, features: ObjectFeatures) -> np.ndarray:
        """The id of the most probable class of each object, (n,)."""
        return self.class_ids[self.probabilities(features).argmax(axis=1)]

    @property
    def class_ids(self) -> np.ndarray:
        """The ids of the classes."""
        return np.array([found.id for found in self.classes])

    def check_model(self, predictor: Any) -> None:
        """Refuse another model than the one whose embeddings it was trained with.

        Raises:
            ParameterError: Naming both.
        """
        check_model(self.model, describe_model(predictor))


def describe_model(predictor: Any) -> dict[str, str | None]:
    """What tells a model from others: its name and the hash of its weights."""
    return {"name": getattr(predictor, "model_name", None), "hash": getattr(predictor, "_hash", None)}


def check_model(trained: Mapping[str, str | None], used: Mapping[str, str | None]) -> None:
    """Raise `ParameterError` if a classifier was trained with another model than the one in use."""
    same = trained["hash"] == used["hash"] if trained["hash"] and used["hash"] else trained["name"] == used["name"]
    if not same:
        raise ParameterError(
            f"The classifier was trained with the model '{trained['name']}', but the embeddings are of "
            f"'{used['name']}'{' with other weights' if trained['name'] == used['name'] else ''}; use the same model."
        )


def check_features(features: ObjectFeatures, names: Sequence[str], ndim: int) -> None:
    """Raise `ParameterError` if features are others than expected."""
    if features.ndim != ndim:
        kinds = {2: "images", 3: "volumes or time series"}
        raise ParameterError(f"The classifier was trained on {kinds[ndim]}, this is one of {kinds[features.ndim]}.")
    if tuple(features.names) != tuple(names):
        expected, came = (sum(name.startswith("intensity_mean") for name in n) for n in (names, features.names))
        raise ParameterError(
            f"The classifier was trained on images of {expected} channel(s), this one has {came}; convert the image."
        )


def train(
    samples: Mapping[str, Samples],
    classes: Sequence[ObjectClass],
    feature_names: Sequence[str],
    ndim: int,
    model: Mapping[str, str | None],
) -> TrainedClassifier:
    """Train a classifier on the objects of one or several images.

    Args:
        samples: The objects by image; those of classes that are not among ``classes`` are left out.
        classes: The classes.
        feature_names: What the features are.
        ndim: 2 for images, 3 for volumes and time series.
        model: Which model the embeddings are of, see `describe_model`.

    Raises:
        ParameterError: There are no samples, or only of one class.
    """
    known = {found.id: found for found in classes}
    kept = {name: _of_classes(found, list(known)) for name, found in samples.items()}
    kept = {name: found for name, found in kept.items() if len(found.classes)}
    if not kept:
        raise ParameterError("There are no samples yet: paint over objects of at least two classes.")
    values = np.concatenate([found.values for found in kept.values()])
    used, targets = np.unique(np.concatenate([found.classes for found in kept.values()]), return_inverse=True)
    if len(used) < 2:
        name = known[int(used[0])].name
        raise ParameterError(f"There are samples of the class '{name}' only; paint over objects of another class, too.")
    order = tuple(known[int(class_id)] for class_id in used)
    return TrainedClassifier(
        order, Forest.fit(values, targets, _groups(feature_names)), tuple(feature_names), ndim, dict(model), kept
    )


def _groups(names: Sequence[str]) -> list[np.ndarray]:
    """Features of the embedding, and those that were measured."""
    from_embedding = np.array([name.startswith("embedding") for name in names])
    return [np.flatnonzero(from_embedding), np.flatnonzero(~from_embedding)]


def _of_classes(samples: Samples, ids: Sequence[int]) -> Samples:
    there = np.isin(samples.classes, ids)
    return Samples(np.asarray(samples.values)[there], np.asarray(samples.classes)[there])


def save_classifier(path: str | os.PathLike, classifier: TrainedClassifier) -> None:
    """Write a classifier with its samples as an npz file: arrays and a description in JSON, nothing that could run.

    Raises:
        OutputError: It cannot be written.
    """
    described = {
        "format": FORMAT,
        "version": VERSION,
        "classes": [asdict(found) for found in classifier.classes],
        "feature_names": list(classifier.feature_names),
        "ndim": classifier.ndim,
        "model": dict(classifier.model),
        "images": list(classifier.samples),
    }
    arrays = {f"forest_{name}": array for name, array in classifier.forest.to_arrays().items()}
    for number, found in enumerate(classifier.samples.values()):
        arrays |= {f"values_{number}": found.values, f"classes_{number}": found.classes}
    arrays[_HEADER] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_classifier(path: str | os.PathLike) -> TrainedClassifier:
    """Read a classifier; nothing in the file is ever executed.

    Raises:
        MissingInputError: There is no such file.
        InputError: It is no classifier, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"There is no classifier at '{path}'; check the path.")
    arrays = _read_arrays(path)
    try:
        described = json.loads(arrays[_HEADER].tobytes())
        if described["format"] != FORMAT or described["version"] != VERSION:
            raise InputError(
                f"'{path}' is version {described['version']} of '{described['format']}', expected {VERSION} of '{FORMAT}'."
            )
        return _made_from(described, arrays)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"'{path}' is damaged or holds no object classifier; save the classifier again.") from error


def _made_from(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TrainedClassifier:
    classes = tuple(ObjectClass(int(c["id"]), str(c["name"]), str(c["color"])) for c in described["classes"])
    names = tuple(str(name) for name in described["feature_names"])
    prefix = "forest_"
    parts = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    forest = Forest.from_arrays(parts, len(names))
    samples = {
        str(image): Samples(arrays[f"values_{number}"], arrays[f"classes_{number}"])
        for number, image in enumerate(described["images"])
    }
    fits = all(s.values.shape == (len(s.classes), len(names)) and s.classes.dtype.kind == "i" for s in samples.values())
    if forest.n_classes != len(classes) or not fits:
        raise ValueError("classes, features and samples do not fit each other")
    model = {key: described["model"].get(key) for key in ("name", "hash")}
    return TrainedClassifier(classes, forest, names, int(described["ndim"]), model, samples)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file; objects that would have to be unpickled are refused by numpy."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MOST_BYTES:
            raise InputError(f"'{path}' holds {size} bytes, too much for an object classifier; check the path.")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise InputError(
            f"'{path}' holds no object classifier of this version; files of joblib or pickle are not read because they "
            "could run code. Train it again from strokes."
        ) from error
