"""Classify objects without a window: a few examples of each class train a random forest, which is applied to another image.

    python examples/classify_objects.py [output folder]

Nuclei are bright or dim here. The features come from the model's embedding, from shape and from brightness, so that classes may differ
in whatever can be seen. In a window the examples are painted: examples/object_classifier.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from micro_sam.labels import object_windows
from micro_sam.object_classification import (
    ObjectClass,
    Samples,
    iter_object_features,
    run_prediction_with_object_classifier,
    save_classifier,
    train,
)
from micro_sam.object_classification.classifier import describe_model
from micro_sam.progress import drain
from micro_sam.sample_data import synthetic_data
from micro_sam.util import get_sam_model, precompute_image_embeddings

BRIGHT, DIM = 1, 2
CLASSES = (ObjectClass(BRIGHT, "bright", "#e6194b"), ObjectClass(DIM, "dim", "#4363d8"))
N_EXAMPLES = 6


def main(folder: Path = Path("demo_output")) -> float:
    """Train on six nuclei of each class, classify a second image; returns the share that is right."""
    folder.mkdir(exist_ok=True)
    predictor = get_sam_model("vit_t_builtin")
    image, labels, classes = bright_and_dim(seed=1)
    embeddings = precompute_image_embeddings(predictor, image, verbose=False)
    features = drain(iter_object_features(embeddings, labels, image=image), False)
    chosen = np.concatenate([np.flatnonzero(classes == found)[:N_EXAMPLES] for found in (BRIGHT, DIM)])
    samples = {"first image": Samples(features.values[chosen], classes[chosen])}
    classifier = train(samples, CLASSES, features.names, ndim=2, model=describe_model(predictor))
    save_classifier(folder / "bright_or_dim.npz", classifier)

    image, labels, classes = bright_and_dim(seed=2)
    [found] = run_prediction_with_object_classifier([image], [labels], predictor, folder / "bright_or_dim.npz")
    of_objects = np.array(
        [found[window][labels[window] == label][0] for label, window in object_windows(labels).items()]
    )
    right = float(np.mean(of_objects == classes))
    print(
        f"{len(classes)} nuclei of a second image: {right:.0%} classified right after {N_EXAMPLES} examples of each class."
    )
    return right


def bright_and_dim(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of nuclei of which about half are dimmed, their labels, and the class of each in ascending order of ids."""
    image, labels = synthetic_data((256, 256), seed=seed, diameter=26, density=0.4, noise=0.02)
    ids = np.arange(1, labels.max() + 1)
    classes = np.where(np.random.default_rng(seed).random(len(ids)) < 0.5, DIM, BRIGHT)
    dimmed = np.isin(labels, ids[classes == DIM])
    ground = np.median(image[labels == 0])
    return np.where(dimmed, ground + 0.3 * (image - ground), image).clip(0, 255).astype(np.uint8), labels, classes


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo_output"))
