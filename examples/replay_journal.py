"""Annotate without a window, and make the labels again from the journal, the record of what was done.

    python examples/replay_journal.py [journal]

Every annotator writes such a journal beside its embeddings (``cells.zarr.journal/``). It says with which prompts, model and
parameters each object was made: a protocol for the methods section, and a way back after a crash.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from micro_sam.io import write_labels
from micro_sam.labels import interior_point
from micro_sam.sam_annotator.session import AnnotatedImage, AnnotationSession, Point, Prompts, replay
from micro_sam.sample_data import synthetic_data
from micro_sam.util import get_sam_model, precompute_image_embeddings


def main(folder: Path = Path("demo_output"), journal: Path | None = None) -> np.ndarray:
    """Replay a journal, which is made first if there is none; returns the labels."""
    folder.mkdir(exist_ok=True)
    if journal is None:
        journal = annotate(folder)
    replayed = replay(journal)
    print(f"{journal} leads to {len(replayed.origins)} objects in an image of shape {replayed.committed.shape}.")
    for label, prompts in replayed.origins.items():
        clicks = ", ".join(f"({p.y:.0f}, {p.x:.0f}){'' if p.positive else ' negative'}" for p in prompts.points)
        print(f"  object {label}: clicked at (y, x) = {clicks}")
    write_labels(folder / "replayed.tif", replayed.committed)
    return replayed.committed


def annotate(folder: Path) -> Path:
    """Click three nuclei, as in the 2d annotator; returns the folder of the journal."""
    image, truth = synthetic_data((256, 256), seed=1, diameter=40)
    predictor = get_sam_model("vit_t_builtin")
    store = folder / "replay.zarr"
    session = AnnotationSession()
    session.open(AnnotatedImage.from_array(image), journal_beside=store)
    session.predictor = predictor
    session.embeddings = precompute_image_embeddings(predictor, image, store, verbose=False)
    for label in (5, 10, 15):
        y, x = interior_point(truth == label)
        session.set_prompts(Prompts(points=(Point(float(y), float(x)),)))
        session.segment()
        session.commit()
    journal = session.journal_folder
    session.close_journal()
    return journal


if __name__ == "__main__":
    main(journal=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
