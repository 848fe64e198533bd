"""Objects in the order of doubt, and which of them a person has looked at: values that are undone and written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from micro_sam.sam_annotator.session.diff import Window

KEPT, CORRECTED = "kept", "corrected"
#: What a person decided, by the id of the object.
Verdicts = dict[int, str]


@dataclass(frozen=True)
class Doubt:
    """How doubtful an object is, and why.

    Attributes:
        label: Its id.
        doubt: From 0 to 1.
        reasons: Why, in a few words each, the weightiest first.
        box: Where it is, first and last pixel (exclusive) along each axis of the labels: y0, y1, x0, x1, or z0, z1, ...
        area: Its pixels, in a volume or time series those of all planes.
        i: The slice or frame in which it is most doubtful, None in an image.
    """

    label: int
    doubt: float
    reasons: tuple[str, ...]
    box: tuple[int, ...]
    area: int
    i: int | None = None

    @property
    def window(self) -> Window:
        """Where it is, as slices."""
        return tuple(slice(*pair) for pair in zip(self.box[::2], self.box[1::2]))


@dataclass(frozen=True)
class Review:
    """The objects of a label array, the most doubtful first.

    Attributes:
        key: The label array; "" for none.
        doubts: The objects.
    """

    key: str = ""
    doubts: tuple[Doubt, ...] = ()

    def place(self, label: int | None) -> int | None:
        """Where an object is in the list; None if it is not."""
        return next((k for k, doubt in enumerate(self.doubts) if doubt.label == label), None)

    def same(self, doubt: Doubt | None) -> Doubt | None:
        """The entry for an object of an earlier list, which may have another id by now; None if there is none."""
        return None if doubt is None else next((d for d in self.doubts if replace(d, label=doubt.label) == doubt), None)

    def renamed(self, key: str, ids: Mapping[int, int]) -> Review:
        """The list after its objects were written into other labels under other ids; those without one are left out."""
        return Review(key, tuple(replace(d, label=ids[d.label]) for d in self.doubts if d.label in ids))

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {"labels": self.key, "doubts": [asdict(doubt) for doubt in self.doubts]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Review:
        """From the journal."""
        return cls(content["labels"], tuple(_doubt(item) for item in content["doubts"]))


def _doubt(content: Mapping[str, Any]) -> Doubt:
    lists: Mapping[str, Sequence[Any]] = {name: tuple(content[name]) for name in ("reasons", "box")}
    return Doubt(**{**content, **lists})


def verdicts_to_json(verdicts: Verdicts) -> dict[str, str]:
    """For the journal."""
    return {str(label): verdict for label, verdict in verdicts.items()}


def verdicts_from_json(content: Mapping[str, str]) -> Verdicts:
    """From the journal."""
    return {int(label): verdict for label, verdict in content.items()}
