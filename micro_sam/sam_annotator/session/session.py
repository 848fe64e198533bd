"""An annotation session: what is annotated, with what, and everything a person can do to it. No window is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator.session.asking import Asking
from micro_sam.sam_annotator.session.committing import Committing
from micro_sam.sam_annotator.session.diff import Diff, Window
from micro_sam.sam_annotator.session.image import AnnotatedImage
from micro_sam.sam_annotator.session.journal import Journal
from micro_sam.sam_annotator.session.options import Options
from micro_sam.sam_annotator.session.recovery import new_journal_folder
from micro_sam.sam_annotator.session.state import AUTO, BY_HAND, CURRENT

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

__all__ = ["AnnotationSession", "Options"]


@dataclass(eq=False)
class AnnotationSession(Asking, Committing):
    """One image, volume or time series that is being annotated.

    Attributes:
        kind: Which annotator, for the journal: "annotator_2d", ...
        image: What is annotated.
        predictor: The model.
        embeddings: The image's embeddings, as far as they are computed.
        options: How the person wants to work.
    """

    kind: str = "annotator_2d"
    image: AnnotatedImage | None = None
    predictor: SamPredictor | None = None
    embeddings: ImageEmbeddings | None = None
    options: Options = field(default_factory=Options)

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    def open(
        self, image: AnnotatedImage, journal_beside: str | os.PathLike | None = None, journal: bool = True
    ) -> None:
        """Begin with an image: empty labels, no embeddings, a journal of its own.

        Args:
            image: The image.
            journal_beside: The embeddings' path, beside which the journal is kept; without it is kept in the cache.
            journal: Whether to write one.
        """
        self.start(image.shape)
        self.image, self.embeddings = image, None
        self.write_journal((lambda: self._new_journal(journal_beside)) if journal else None)

    def _new_journal(self, beside: str | os.PathLike | None) -> Journal:
        folder = new_journal_folder(self.image, beside)
        return Journal.create(folder, {"annotator": self.kind, "image": self.image.describe(), **_versions()})

    def painted(self, key: str, window: Window, before: np.ndarray) -> None:
        """Labels were painted by hand: note what changed.

        Args:
            key: Which labels; they hold the result already.
            window: Where.
            before: What was there.
        """
        diff = Diff.between(key, window, before, np.array(self.labels[key][window]))
        if diff is not None:
            noted = self._noted_by_hand(window, before) if key == CURRENT else []
            self.do("paint", "Painted", diffs=[diff, *noted], details={"labels": key})

    def _noted_by_hand(self, window: Window, before: np.ndarray) -> list[Diff | None]:
        """Remember which pixels of the current object were painted, so that no segmentation takes them back."""
        old = self.labels[BY_HAND][window]
        new = np.where(before != self.labels[CURRENT][window], np.uint8(1), old)
        return [Diff.between(BY_HAND, window, old, new)]

    def put(
        self, key: str, labels: np.ndarray, text: str, i: int | None = None, kind: str = "load", **details: Any
    ) -> None:
        """Replace labels, of everything or of a slice, by others: a result, or what was loaded.

        Raises:
            ParameterError: They have another shape.
        """
        target = self.labels[key] if i is None else self.labels[key][i : i + 1]
        labels = np.asarray(labels).reshape(labels.shape if i is None else (1, *labels.shape))
        if labels.shape != target.shape:
            raise ParameterError(f"The labels have the shape {labels.shape}, but the image has {target.shape}.")
        first = (
            (slice(0, n) for n in target.shape)
            if i is None
            else (slice(i, i + 1), *(slice(0, n) for n in target.shape[1:]))
        )
        diff = Diff.between(key, tuple(first), target, labels.astype(target.dtype))
        if diff is not None:
            model = self._model_name() if key == AUTO else {}
            self.do(kind, text, self._replaced_values(key), [diff], {**details, **model})

    def _reviewer(self) -> Mapping[str, Any]:
        return self._model_name()

    def resume(self, folder: str | os.PathLike) -> None:
        """Go on where an earlier session of this image stopped; see `SessionState.resume_journal`."""
        self.resume_journal(Path(folder))


def _versions() -> dict[str, str]:
    from micro_sam import __version__

    return {"micro_sam_version": __version__}
