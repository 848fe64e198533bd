"""The part of a session that can be undone and is written down: label arrays and a few small values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from psygnal import Signal, SignalGroupDescriptor

from micro_sam.errors import InputError, ParameterError
from micro_sam.sam_annotator.session.diff import Diff, Window, united
from micro_sam.sam_annotator.session.history import History, Step
from micro_sam.sam_annotator.session.journal import Journal, Record
from micro_sam.sam_annotator.session.keeps_journal import KeepsJournal
from micro_sam.sam_annotator.session.prompts import Prompts, rounded, what_changed
from micro_sam.sam_annotator.session.review import Review, Verdicts, verdicts_from_json, verdicts_to_json

CURRENT, AUTO, COMMITTED, START = "current", "auto", "committed", "start"
#: Where the current object was painted by hand; and by slice how sure it is where it came from other slices, 0 elsewhere.
BY_HAND, REACHED = "by_hand", "reached"
LABEL_DTYPES = {CURRENT: "uint32", AUTO: "uint32", COMMITTED: "uint32", START: "uint8", BY_HAND: "uint8"}
OF_CURRENT = (CURRENT, START, BY_HAND, REACHED)
LAYER_PREFIX = "layer:"
_NOT_STEPS = ("open", "amend", "undo", "redo", "layer", "closed", "saved", "discarded", "restored")


@dataclass(frozen=True)
class Correction:
    """An object that is being corrected: it was taken out of its labels and is the current object now.

    Attributes:
        key: The label array it comes from and goes back to.
        label: Its id there.
    """

    key: str
    label: int


@dataclass(frozen=True)
class Codec:
    """How a small value is written into the journal and read from it."""

    encode: Callable[[Any], Any] = lambda value: value
    decode: Callable[[Any], Any] = lambda value: value


CODECS: dict[str, Codec] = {
    "prompts": Codec(Prompts.to_json, Prompts.from_json),
    "correcting": Codec(
        lambda value: None if value is None else asdict(value),
        lambda value: None if value is None else Correction(**value),
    ),
    "review": Codec(Review.to_json, Review.from_json),
    "verdicts": Codec(verdicts_to_json, verdicts_from_json),
}


@dataclass(eq=False)
class SessionState(KeepsJournal):
    """Labels and values that change in steps, each of which can be undone and is written into a journal.

    Attributes:
        prompts: The prompts.
        correcting: The object that is being corrected, None otherwise.
        review: Objects by doubt, for review.
        verdicts: What was decided about them.
        labels: The label arrays by key; their content changes in place.
        history: What can be undone and redone.
        generation: Counts every change; an answer computed for an earlier generation is out of date.
        origins: For committed objects the prompts they were made with.
    """

    prompts: Prompts = field(default_factory=Prompts)
    correcting: Correction | None = None
    review: Review = field(default_factory=Review)
    verdicts: Verdicts = field(default_factory=dict)

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()
    codecs: ClassVar[Mapping[str, Codec]] = CODECS
    #: (key, window): labels were changed there.
    labels_changed = Signal(str, tuple)
    #: A step was made, undone or redone.
    stepped = Signal()

    def __post_init__(self) -> None:
        self.labels: dict[str, np.ndarray] = {}
        self.history = History()
        self.generation = 0
        self.origins: dict[int, Prompts] = {}
        self._number = 1
        self._transient: Diff | None = None

    def start(self, shape: Sequence[int]) -> None:
        """Begin with empty labels of a shape (YX or ZYX); what was there before is forgotten."""
        self.close_journal()
        self.labels = {key: np.zeros(tuple(shape), dtype) for key, dtype in LABEL_DTYPES.items()}
        if len(shape) == 3:
            self.labels[REACHED] = np.zeros(shape[0], "uint8")
        self.history, self.origins, self._number, self._transient = History(), {}, 1, None
        self.generation += 1
        self.prompts, self.correcting = Prompts(), None
        self.review, self.verdicts = Review(), {}
        self.stepped.emit()

    def adopt(self, name: str, array: np.ndarray) -> str:
        """Take in the labels of another layer, so that they can be edited, undone and written down.

        Returns:
            Their key.

        Raises:
            ParameterError: They cannot be changed in place, or have another shape than the image.
        """
        key = LAYER_PREFIX + name
        if self.labels.get(key) is array:
            return key
        if not isinstance(array, np.ndarray) or not array.flags.writeable:
            raise ParameterError(
                f"The layer '{name}' cannot be changed because it is not in memory; make a copy of it."
            )
        if array.shape != self.labels[COMMITTED].shape:
            expected = self.labels[COMMITTED].shape
            raise ParameterError(f"The layer '{name}' has the shape {array.shape}, but the image has {expected}.")
        self.labels[key] = array
        whole = tuple(slice(0, n) for n in array.shape)
        content = Diff.between(key, whole, np.zeros_like(array), array)
        described = {"layer": name, "shape": list(array.shape), "dtype": array.dtype.str}
        self._write("layer", described, () if content is None else (content,))
        return key

    # Steps

    def do(
        self,
        kind: str,
        text: str,
        values: Mapping[str, Any] | None = None,
        diffs: Iterable[Diff | None] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Step:
        """Make a step: change values and labels, remember how to undo it, and write it down.

        Args:
            kind: What it is.
            text: The same for a person.
            values: New values by name; those in `codecs`.
            diffs: Changes of labels, in this order.
            details: What else the journal should say.
        """
        shown = self._drop_transient()
        changed = {name: (getattr(self, name), value) for name, value in (values or {}).items()}
        changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
        made = tuple(diff for diff in diffs if diff is not None)
        step = Step(self._number, kind, text, changed, made, dict(details or {}))
        encoded = {name: self.codecs[name].encode(after) for name, (_, after) in changed.items()}
        content = {"step": step.number, "text": text}
        content |= {"values": encoded} if encoded else {}
        content |= {"details": step.details} if step.details else {}
        self._write(kind, content, made)
        self._number += 1
        self.history.push(step)
        self._make(step, shown)
        return step

    def amend(self, diffs: Iterable[Diff | None], details: Mapping[str, Any] | None = None) -> None:
        """Make changes of labels that belong to the last step and are undone together with it."""
        shown = self._drop_transient()
        made = tuple(diff for diff in diffs if diff is not None)
        if not made:
            self._announce((), shown)
            return
        step = self.history.amend(made)
        self._write("amend", {"step": step.number, "details": dict(details or {})}, made)
        for diff in made:
            diff.apply(self.labels[diff.key])
        self._announce(made, shown)
        self.stepped.emit()

    def undo(self) -> Step | None:
        """Take back the last step; None if there is none."""
        shown = self._drop_transient()
        step = self.history.undo()
        if step is None:
            self._announce((), shown)
            return None
        self._write("undo", {"step": step.number, "text": step.text})
        for diff in reversed(step.diffs):
            diff.revert(self.labels[diff.key])
        self._settle(step, shown, after=False)
        for label in step.details.get("ids", ()):
            self.origins.pop(int(label), None)
        return step

    def redo(self) -> Step | None:
        """Make again what was undone last; None if there is nothing."""
        step = self.history.redo()
        if step is None:
            return None
        self._write("redo", {"step": step.number, "text": step.text})
        self._make(step, self._drop_transient())
        return step

    def _make(self, step: Step, shown: Diff | None) -> None:
        if step.kind == "commit":
            used = step.values.get("prompts", (self.prompts, None))[0]
            self.origins.update({int(label): used for label in step.details.get("ids", ())})
        for diff in step.diffs:
            diff.apply(self.labels[diff.key])
        self._settle(step, shown, after=True)

    def _settle(self, step: Step, shown: Diff | None, after: bool) -> None:
        self.generation += 1
        for name, pair in step.values.items():
            setattr(self, name, pair[after])
        self._announce(step.diffs, shown)
        self.stepped.emit()

    def _announce(self, diffs: Sequence[Diff], shown: Diff | None) -> None:
        windows: dict[str, list[Window]] = {}
        for diff in (*diffs, *([] if shown is None else [shown])):
            windows.setdefault(diff.key, []).append(diff.window)
        for key, there in windows.items():
            self.labels_changed.emit(key, united(there))

    # What is only shown

    def show(self, diff: Diff | None) -> None:
        """Show a change of labels that is no step: the next step or the next call takes it away again."""
        before = self._drop_transient()
        self._transient = diff
        if diff is not None:
            diff.apply(self.labels[diff.key])
        self._announce([d for d in (diff,) if d is not None], before)

    def _drop_transient(self) -> Diff | None:
        """Take away what is only shown; the caller announces it, so that the screen changes once."""
        shown, self._transient = self._transient, None
        if shown is not None:
            shown.revert(self.labels[shown.key])
        return shown

    # Earlier work

    def resume_journal(self, folder: Path) -> None:
        """Take up the journal of an earlier session of the same image: its labels, values and history; and go on with it.

        Raises:
            InputError: It belongs to another image, cannot be read, or is in use.
        """
        journal, records = Journal.resume(folder)
        expected = list(self.labels[COMMITTED].shape)
        if records[0].content["image"]["labels_shape"] != expected:
            journal.close()
            raise InputError(f"The journal '{folder}' belongs to an image of another shape than {expected}.")
        self.replay(records)
        self._journal, self._make_journal = journal, None
        self._write("restored", {})

    def replay(self, records: Sequence[Record]) -> None:
        """Make everything again that a journal says, beginning with empty labels."""
        self.start(records[0].content["image"]["labels_shape"])
        self._replaying = True
        try:
            for record in records:
                self._replay(record)
        finally:
            self._replaying = False
        for key, array in self.labels.items():
            self.labels_changed.emit(key, tuple(slice(0, n) for n in array.shape))

    def _replay(self, record: Record) -> None:
        if record.do == "layer":
            content = record.content
            key = LAYER_PREFIX + content["layer"]
            self.labels[key] = np.zeros(content["shape"], content["dtype"])
            for diff in record.diffs:
                diff.apply(self.labels[key])
        elif record.do == "amend":
            self.amend(record.diffs)
        elif record.do in ("undo", "redo"):
            getattr(self, record.do)()
        elif record.do not in _NOT_STEPS:
            values = {name: self.codecs[name].decode(v) for name, v in record.content.get("values", {}).items()}
            details = record.content.get("details", {})
            self.do(record.do, record.content["text"], values, record.diffs, details)

    def set_prompts(self, prompts: Prompts) -> Step | None:
        """The prompts were changed; None if they are what they were."""
        prompts = rounded(prompts)
        return (
            None
            if prompts == self.prompts
            else self.do("prompts", what_changed(self.prompts, prompts), {"prompts": prompts})
        )


def count(number: int, what: str) -> str:
    """A number with its noun, "1 object" or "3 objects"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
