"""The classes of objects as a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

import numpy as np

from micro_sam.io import replacing
from micro_sam.object_classification.classifier import ObjectClass
from micro_sam.object_classification.features import ObjectFeatures
from micro_sam.object_classification.shapes import shape_names


def write_class_table(
    path: str | os.PathLike,
    features: ObjectFeatures,
    classes: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[ObjectClass],
    annotated: np.ndarray | None = None,
) -> None:
    """Write a CSV file with a line for each object: id, class, probabilities, place and shape (in pixels).

    Args:
        path: The file.
        features: The objects.
        classes: The id of the class of each, (n,).
        probabilities: How probable each class is, (n, n_classes).
        names: The classes, in the order of the probabilities.
        annotated: Which objects were given their class by a person, (n,) bool.

    Raises:
        OutputError: It cannot be written.
    """
    annotated = np.zeros(len(classes), bool) if annotated is None else annotated
    name_of = {found.id: found.name for found in names}
    shapes = shape_names(features.ndim)
    columns = [features.names.index(name) for name in shapes]
    axes = "yx" if features.ndim == 2 else "zyx"
    header = ["id", "class_id", "class", "annotated", *(f"probability_{found.name}" for found in names)]
    header += [f"box_{axis}_{end}" for end in ("min", "max") for axis in axes] + list(shapes)
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row, (label, class_id) in enumerate(zip(features.ids, classes)):
            window = features.windows[int(label)]
            writer.writerow(
                [
                    int(label),
                    int(class_id),
                    name_of[int(class_id)],
                    "yes" if annotated[row] else "no",
                    *(f"{value:.4f}" for value in probabilities[row]),
                    *(s.start for s in window),
                    *(s.stop for s in window),
                    *(f"{value:.6g}" for value in features.values[row, columns]),
                ]
            )
