"""An annotation session: what is annotated, with what, and everything a person can do to it. No window is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from micro_sam.errors import ParameterError, PromptError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.sam_annotator.session import edits
from micro_sam.sam_annotator.session.diff import Diff, Window, bounding_window, united
from micro_sam.sam_annotator.session.image import AnnotatedImage
from micro_sam.sam_annotator.session.journal import Journal
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.recovery import new_journal_folder
from micro_sam.sam_annotator.session.segmentation import Request, Segmentation, own_predictor, segment
from micro_sam.sam_annotator.session.state import (
    AUTO,
    BY_HAND,
    COMMITTED,
    CURRENT,
    OF_CURRENT,
    START,
    Correction,
    SessionState,
)

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings


@dataclass(frozen=True)
class Options:
    """How a person wants to work.

    Attributes:
        batched: Each positive point is an object of its own.
        live: Show the mask as soon as prompts change.
        tidy: Leave out parts of a mask away from the positive points.
        preserve_mode: What a commit may overwrite: "objects", "pixels" or "none".
        preservation_threshold: For "objects": which covered fraction keeps an object from being committed.
        commit_path: Where committed objects are saved after every commit; None for nowhere.
    """

    batched: bool = False
    live: bool = True
    tidy: bool = True
    preserve_mode: edits.PreserveMode = "objects"
    preservation_threshold: float = 0.75
    commit_path: str | None = None

    def __post_init__(self) -> None:
        if self.preserve_mode not in edits.PRESERVE_MODES:
            modes = ", ".join(edits.PRESERVE_MODES)
            raise ParameterError(f"preserve_mode is one of {modes}, got {self.preserve_mode!r}.")
        if not 0 <= self.preservation_threshold <= 1:
            raise ParameterError(f"preservation_threshold is between 0 and 1, got {self.preservation_threshold}.")


@dataclass(eq=False)
class AnnotationSession(SessionState):
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

    # Segmenting

    @property
    def can_segment(self) -> bool:
        """Whether there are a model and embeddings."""
        return self.predictor is not None and self.embeddings is not None

    def request(self, i: int | None = None, prompts: Prompts | None = None) -> Request:
        """What is to be segmented in a plane now; `run` answers it, also in a thread, and `accept` takes the answer.

        Args:
            i: The slice, None in an image.
            prompts: Other prompts than the session's, for example while one is dragged.
        """
        chosen = (self.prompts if prompts is None else prompts).in_slice(i)
        return Request(chosen, i, self.options.batched, self._start_mask(i), self.options.tidy, self.generation)

    def run(self, request: Request) -> Segmentation:
        """Answer a request. It changes nothing in the session and may be called in another thread.

        Raises:
            PromptError: There are no prompts, no model or no embeddings.
        """
        if not self.can_segment:
            raise PromptError("There are no embeddings of this image yet: compute them first.")
        return segment(own_predictor(self.predictor), self.embeddings, request)

    def accept(self, segmentation: Segmentation, live: bool = False) -> bool:
        """Make a segmentation the current object (or objects).

        Args:
            segmentation: The answer to a request.
            live: It was computed because prompts changed, and is undone together with them.

        Returns:
            False if it is out of date and was dropped.
        """
        request = segmentation.request
        if request.generation != self.generation:
            return False
        diff = self._answer_diff(segmentation)
        last, found = self.history.last, len(segmentation.found)
        details = {"objects": found, "scores": [round(o.score, 3) for o in segmentation.found], **self._model_name()}
        if live and last is not None and last.kind == "prompts":
            self.amend([diff], details)
        elif diff is not None:
            self.do("segment", f"Segmented {_count(found, 'object')}", diffs=[diff], details=details)
        return True

    def show_segmentation(self, segmentation: Segmentation) -> None:
        """Show a segmentation without making it a step, for example while a prompt is dragged."""
        if segmentation.request.generation == self.generation:
            self.show(None)
            self.show(self._answer_diff(segmentation))

    def segment(self, i: int | None = None) -> Segmentation:
        """Segment what the prompts in a plane say, at once."""
        answer = self.run(self.request(i))
        self.accept(answer)
        return answer

    def _answer_diff(self, segmentation: Segmentation) -> Diff | None:
        """What an answer changes in the current objects."""
        return self._current_diff(segmentation.objects, segmentation.request.i)

    def _current_diff(self, objects: Sequence[Instance | None], i: int | None) -> Diff | None:
        """From the current objects in a plane to these."""
        plane = self.labels[CURRENT] if i is None else self.labels[CURRENT][i]
        there = [instance.window for instance in objects if instance is not None]
        window = united([bounding_window(plane), *there])
        if window is None:
            return None
        origin = [s.start for s in window]
        block = np.zeros([s.stop - s.start for s in window], plane.dtype)
        ranked = sorted((o for o in enumerate(objects, start=1) if o[1] is not None), key=lambda pair: pair[1].score)
        for label, instance in ranked:
            inner = tuple(slice(s.start - o, s.stop - o) for s, o in zip(instance.window, origin))
            block[inner][instance.mask] = label
        old = plane[window]
        by_hand = self.labels[BY_HAND][window] if i is None else self.labels[BY_HAND][i][window]
        block = np.where(by_hand, old, block)  # what was painted by hand stays
        if i is not None:
            return Diff.between(CURRENT, (slice(i, i + 1), *window), old[None], block[None])
        return Diff.between(CURRENT, window, old, block)

    def _start_mask(self, i: int | None) -> Instance | None:
        if self.correcting is None:
            return None
        plane = self.labels[START] if i is None else self.labels[START][i]
        window = bounding_window(plane)
        return None if window is None else make_instance(plane[window] != 0, tuple(s.start for s in window))

    # Commit and clear

    def commit(self, key: str = CURRENT) -> edits.Commit | None:
        """Commit the current objects, or those of another label array; a corrected object goes back where it was.

        Returns:
            What was committed and what not; None for a corrected object.

        Raises:
            PromptError: There is nothing to commit.
        """
        if key == CURRENT and self.correcting is not None:
            self._commit_correction()
            return None
        window = self.window(key)
        if window is None:
            raise PromptError("There is nothing to commit: segment an object first.")
        done = edits.commit(
            self.labels[COMMITTED],
            self.labels[key][window],
            window,
            self.options.preserve_mode,
            self.options.preservation_threshold,
            self._first_id(key),
        )
        if not done.ids:
            percent = round(100 * self.options.preservation_threshold)
            raise PromptError(
                f"Not committed: it lies on committed objects (by more than {percent} %); change it, or what is preserved."
            )
        written = Diff.between(COMMITTED, done.window, self.labels[COMMITTED][done.window], done.block)
        values = self._commit_values(key, done)
        details = {"ids": list(done.ids.values()), "refused": len(done.refused), "preserve": self.options.preserve_mode}
        text = f"Committed {_count(len(done.ids), 'object')}"
        self.do("commit", text, values, [written, *self._all_emptied(key)], details)
        return done

    def _first_id(self, key: str) -> int:
        """The id of the first object of a label array when it is committed."""
        return self.next_id(COMMITTED)

    def _commit_values(self, key: str, done: edits.Commit) -> dict[str, Any]:
        """The values that change with a commit."""
        return {"prompts": Prompts()} if key == CURRENT else {}

    def _cleared_values(self) -> dict[str, Any]:
        """The values when there are no annotations."""
        return {"prompts": Prompts(), "correcting": None}

    def _commit_correction(self) -> None:
        key, label = self.correcting.key, self.correcting.label
        window = self.window(CURRENT)
        if window is None:
            raise PromptError("The corrected object is empty: add a prompt, clear it with Shift+C, or delete it.")
        mask = self.labels[CURRENT][window] != 0
        written = self._edit(key, edits.write_back(self.labels[key], label, mask, window))
        details = {"ids": [label] if key == COMMITTED else [], "labels": key, "label": label}
        self.do(
            "commit",
            f"Corrected object {label}",
            self._cleared_values(),
            [written, *self._all_emptied(CURRENT)],
            details,
        )

    def clear(self) -> None:
        """Remove prompts and current objects; an object that was being corrected goes back as it was."""
        back = self._put_back() if self.correcting is not None else None
        diffs = [back, *self._all_emptied(CURRENT)]
        if self.prompts or any(diffs):
            self.do("clear", "Cleared the annotations", self._cleared_values(), diffs)

    def _put_back(self) -> Diff | None:
        window = self.window(START)
        if window is None:
            return None
        mask = self.labels[START][window] != 0
        labels = self.labels[self.correcting.key]
        return self._edit(self.correcting.key, edits.write_back(labels, self.correcting.label, mask, window))

    def window(self, key: str) -> Window | None:
        """The block that holds everything in a label array; None if it is empty."""
        return bounding_window(self.labels[key])

    def has(self, key: str) -> bool:
        """Whether there is anything in a label array."""
        return key in self.labels and bool(self.labels[key].any())

    def _all_emptied(self, key: str) -> list[Diff | None]:
        """What empties a label array, and for the current object all that belongs to it."""
        return [self._emptied(k) for k in (OF_CURRENT if key == CURRENT else (key,)) if k in self.labels]

    def _emptied(self, key: str) -> Diff | None:
        window = self.window(key)
        if window is None:
            return None
        block = self.labels[key][window]
        return Diff.between(key, window, block, np.zeros_like(block))

    def empty(self, key: str, text: str) -> None:
        """Remove everything from a label array."""
        diff = self._emptied(key)
        if diff is not None:
            self.do("clear", text, diffs=[diff])

    # Objects that exist

    def correct(self, key: str, label: int) -> None:
        """Take an object out of its labels and make it the current object, to be corrected with prompts.

        Raises:
            PromptError: Another object is not committed yet, or there is no such object.
        """
        if self.correcting is not None:
            self.commit()
        if self.has(CURRENT):
            raise PromptError("There is a current object: commit it with C or clear it with Shift+C first.")
        window = edits.window_of(self.labels[key], label)
        block = self.labels[key][window]
        mask = (block == label).astype(np.uint8)
        taken = self._edit(key, edits.delete(self.labels[key], label))
        made = [self._edit(name, (window, mask.astype(self.labels[name].dtype))) for name in (CURRENT, START)]
        values = {"correcting": Correction(key, int(label)), "prompts": Prompts()}
        self.do(
            "correct",
            f"Took object {label} to correct it",
            values,
            [taken, *made],
            {"labels": key, "label": int(label)},
        )

    def delete(self, key: str, label: int) -> None:
        """Delete an object."""
        self._edited("delete", f"Deleted object {label}", key, edits.delete(self.labels[key], label), label=int(label))

    def merge(self, key: str, ids: Sequence[int]) -> None:
        """Make several objects one, with the id of the first."""
        edit = edits.merge(self.labels[key], ids)
        text = f"Merged objects {', '.join(str(int(label)) for label in ids)}"
        self._edited("merge", text, key, edit, merged=[int(label) for label in ids])

    def merge_along(self, key: str, stroke_yx: np.ndarray, i: int | None = None) -> None:
        """Merge the objects that a stroke touches."""
        self.merge(key, edits.along(self.labels[key], stroke_yx, i))

    def split_along(self, key: str, stroke_yx: np.ndarray, i: int | None = None) -> None:
        """Cut the objects that a stroke crosses.

        Raises:
            PromptError: It crosses none.
        """
        labels, error = self.labels[key], None
        diffs, parts = [], []
        for label in edits.along(labels, stroke_yx, i):
            try:
                edit, new = edits.split(labels, label, stroke_yx, self.next_id(key) + len(parts))
            except PromptError as refused:
                error = refused
                continue
            diffs.append(self._edit(key, edit))
            parts += new
        if not diffs:
            raise error or PromptError("The stroke touches no object: draw it across the object to split.")
        self.do("split", f"Split {_count(len(diffs), 'object')}", diffs=diffs, details={"labels": key, "new": parts})

    def fill(self, key: str, position: Sequence[int]) -> None:
        """Fill the holes of the object at a position, or the hole there."""
        self._edited("fill", "Filled holes", key, edits.fill(self.labels[key], position))

    def next_id(self, key: str) -> int:
        """The id for a new object.

        Raises:
            ParameterError: The array's type has no larger number.
        """
        labels = self.labels[key]
        lifted = self.correcting.label if self.correcting is not None and self.correcting.key == key else 0
        number = max(self._largest(key), lifted) + 1
        if number > np.iinfo(labels.dtype).max:
            raise ParameterError(f"There are no more ids in labels of type {labels.dtype}; convert them to uint32.")
        return number

    def _largest(self, key: str) -> int:
        return int(self.labels[key].max())

    def _edit(self, key: str, edit: edits.Edit) -> Diff | None:
        window, block = edit
        return Diff.between(key, window, self.labels[key][window], block)

    def _edited(self, kind: str, text: str, key: str, edit: edits.Edit, **details: Any) -> None:
        self.do(kind, text, diffs=[self._edit(key, edit)], details={"labels": key, **details})

    # Labels from elsewhere

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
            self.do(kind, text, diffs=[diff], details={**details, **(self._model_name() if key == AUTO else {})})

    def finished_labels(self) -> np.ndarray:
        """The committed labels, with an object that is being corrected as it was before."""
        labels = self.labels[COMMITTED].copy()
        if self.correcting is not None and self.correcting.key == COMMITTED:
            labels[(self.labels[START] != 0) & (labels == 0)] = self.correcting.label
        return labels

    def _model_name(self) -> Mapping[str, Any]:
        return {} if self.predictor is None else {"model": getattr(self.predictor, "model_name", None)}

    def resume(self, folder: str | os.PathLike) -> None:
        """Go on where an earlier session of this image stopped; see `SessionState.resume_journal`."""
        self.resume_journal(Path(folder))


def _versions() -> dict[str, str]:
    from micro_sam import __version__

    return {"micro_sam_version": __version__}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def ids_in(labels: np.ndarray) -> Iterable[int]:
    """The ids of a label array."""
    found = np.unique(labels)
    return (int(label) for label in found if label)
