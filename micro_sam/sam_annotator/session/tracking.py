"""A session on a time series: prompts belong to tracks, tracks divide, and lineages are undone and restored with labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from psygnal import SignalGroupDescriptor

from micro_sam.errors import ParameterError, PromptError
from micro_sam.sam_annotator.session import edits
from micro_sam.sam_annotator.session.certainty import Certainty
from micro_sam.sam_annotator.session.diff import Diff, bounding_window
from micro_sam.sam_annotator.session.frames import FrameTable, ids_of
from micro_sam.sam_annotator.session.history import Step
from micro_sam.sam_annotator.session.lineage import Draft, Lineage, Spans
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.state import (
    AUTO,
    CODECS,
    COMMITTED,
    CURRENT,
    START,
    Codec,
    Correction,
)
from micro_sam.sam_annotator.session.track_prompts import TrackPrompting

_LINEAGE = Codec(Lineage.to_json, Lineage.from_json)


@dataclass(eq=False)
class TrackingSession(Certainty, TrackPrompting):
    """A time series that is being annotated.

    The current labels hold the tracks of one lineage, the draft, under the ids that they will have when they are
    committed. Every step that changes committed labels also brings the committed lineage into order.

    Attributes:
        lineage: Which committed tracks come from which.
        auto_lineage: Which tracks of the automatic result come from which.
        draft: The lineage that is being annotated.
    """

    kind: str = "annotator_tracking"
    lineage: Lineage = field(default_factory=Lineage)
    auto_lineage: Lineage = field(default_factory=Lineage)
    draft: Draft = field(default_factory=Draft)

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()
    codecs: ClassVar[Mapping[str, Codec]] = {
        **CODECS,
        "lineage": _LINEAGE,
        "auto_lineage": _LINEAGE,
        "draft": Codec(Draft.to_json, Draft.from_json),
    }

    def start(self, shape: Sequence[int]) -> None:
        """Begin with empty labels and no tracks."""
        self.lineage, self.auto_lineage, self.draft = Lineage(), Lineage(), Draft()
        super().start(shape)
        self.committed_frames = FrameTable(self.labels[COMMITTED])

    # Steps keep labels and lineage together

    def do(
        self,
        kind: str,
        text: str,
        values: Mapping[str, Any] | None = None,
        diffs: Iterable[Diff | None] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Step:
        """Make a step; see `SessionState.do`. Links that are no longer possible after it are undone with it."""
        made, changed, said = tuple(diff for diff in diffs if diff is not None), dict(values or {}), dict(details or {})
        touching = [diff for diff in made if diff.key == COMMITTED]
        if not self._replaying and (touching or "lineage" in changed):
            wanted = changed.get("lineage", self.lineage)
            spans = self._spans_after(touching)
            changed["lineage"] = wanted.consistent(spans, _lifted(changed, self.correcting))
            if "draft" not in changed and self.draft.tracks[0] in spans and not self._is_drafting:
                changed["draft"] = Draft((max(spans) + 1,))
            dropped = sorted(set(wanted.links) - set(changed["lineage"].links))
            said |= {"unlinked": [list(link) for link in dropped]} if dropped else {}
        text = text.replace("object", "track") if kind == "commit" else text
        return super().do(kind, text, changed, made, said)

    def _spans_after(self, diffs: Sequence[Diff]) -> Spans:
        """The spans of the committed tracks, if these changes were made."""
        labels, table = self.labels[COMMITTED], self.committed_frames
        frames = sorted({frame for diff in diffs for frame in range(diff.window[0].start, diff.window[0].stop)})
        for diff in diffs:
            diff.apply(labels)
        table.forget(frames)
        spans = table.spans()
        for diff in reversed(diffs):
            diff.revert(labels)
        table.forget(frames)
        return spans

    def _announce(self, diffs: Sequence[Diff], shown: Diff | None) -> None:
        for diff in diffs:
            if diff.key == COMMITTED:
                self.committed_frames.forget(range(diff.window[0].start, diff.window[0].stop))
        super()._announce(diffs, shown)

    # Commit, clear, correct

    def _fresh_draft(self, after: int = 0) -> Draft:
        return Draft((max(int(self.labels[COMMITTED].max()), after) + 1,))

    def _first_id(self, key: str) -> int:
        first, taken = self.draft.tracks[0], self.committed_frames.spans()
        own = key == CURRENT and not any(track in taken for track in self.draft.tracks)
        return first if own else super()._first_id(key)

    def _commit_values(self, key: str, done: edits.Commit) -> dict[str, Any]:
        source = self.draft.lineage if key == CURRENT else self.auto_lineage
        added = source.only(done.ids).renamed(done.ids)
        values = {**super()._commit_values(key, done), "lineage": self.lineage.merged(added)}
        last = max(done.ids.values())
        return values | ({"draft": self._fresh_draft(last)} if key == CURRENT else {"auto_lineage": Lineage()})

    def _cleared_values(self) -> dict[str, Any]:
        lifted = self.correcting.label if self.correcting is not None and self.correcting.key == COMMITTED else 0
        return {**super()._cleared_values(), "draft": self._fresh_draft(lifted)}

    def commit(self, key: str = CURRENT) -> edits.Commit | None:
        """Commit the draft with its lineage, or the automatic result with its lineages; see `AnnotationSession.commit`."""
        if key == CURRENT and self.correcting is None and self.labels[CURRENT].any():
            self._check_draft()
        return super().commit(key)

    def _check_draft(self) -> None:
        spans = FrameTable(self.labels[CURRENT]).spans()
        for daughter, mother in self.draft.lineage.links:
            if daughter in spans and mother in spans and spans[mother][1] >= spans[daughter][0]:
                raise PromptError(
                    f"Track {mother} is still there in frame {spans[mother][1]}, but its daughter {daughter} begins in frame "
                    f"{spans[daughter][0]}: track again with Shift+S, or erase one of them there."
                )

    def _commit_correction(self) -> None:
        """Write the corrected track back under its id, and daughters it got under new ones."""
        self._check_draft()
        key, label = self.correcting.key, self.correcting.label
        current, labels = self.labels[CURRENT], self.labels[key]
        window = bounding_window(current)
        if window is None:
            raise PromptError("The corrected track is empty: add a prompt, clear it with Shift+C, or delete it.")
        block, drawn = np.array(labels[window]), current[window]
        free = (drawn != 0) & (block == 0)
        block[free] = drawn[free]
        ids = sorted(ids_of(block[free]))
        values = {**self._cleared_values(), **self._corrected_values(key, label)}
        name = {COMMITTED: "lineage", AUTO: "auto_lineage"}.get(key)
        if name is not None:
            values[name] = self._corrected_lineage(getattr(self, name), label)
        if key == COMMITTED:
            values["draft"] = self._fresh_draft(max([*ids, label]))
        diffs = [Diff.between(key, window, labels[window], block), *self._all_emptied(CURRENT)]
        details = {"ids": ids if key == COMMITTED else [], "labels": key, "label": label}
        self.do("commit", f"Corrected track {label}", values, diffs, details)

    def _corrected_lineage(self, lineage: Lineage, label: int) -> Lineage:
        """A lineage with new daughters of a corrected track in the place of earlier ones."""
        if self.draft.lineage.daughters(label):
            for daughter in lineage.daughters(label):
                lineage = lineage.unlinked(daughter)
        return lineage.merged(self.draft.lineage)

    def correct(self, key: str, label: int) -> None:
        """Take a track out of its labels and make it the draft, to be corrected with prompts."""
        if self.correcting is not None:
            self.commit()
        if self.labels[CURRENT].any():
            raise PromptError("There is a current track: commit it with C or clear it with Shift+C first.")
        label = int(label)
        window = edits.window_of(self.labels[key], label)
        mask = self.labels[key][window] == label
        made = [
            self._edit(key, edits.delete(self.labels[key], label)),
            self._edit(CURRENT, (window, np.where(mask, label, 0).astype(np.uint32))),
            self._edit(START, (window, mask.astype(np.uint8))),
        ]
        values = {"correcting": Correction(key, label), "prompts": Prompts(), "draft": Draft((label,))}
        self.do("correct", f"Took track {label} to correct it", values, made, {"labels": key, "label": label})

    def _corrected_slices(self) -> set[int]:
        return super()._corrected_slices() | {frame for _, frame in self.draft.fixed}

    # Tracks that exist

    def split_along(self, key: str, stroke_yx: np.ndarray, i: int | None = None) -> None:
        """Cut the objects that a stroke crosses, in its frame only: elsewhere they lie somewhere else."""
        if i is None:
            super().split_along(key, stroke_yx, i)
            return
        labels, parts, diffs, error = self.labels[key], [], [], None
        for label in edits.along(labels, stroke_yx, i):
            try:
                (window, block), new = edits.split(labels[i], label, stroke_yx, self.next_id(key) + len(parts))
            except PromptError as refused:
                error = refused
                continue
            diffs.append(self._edit(key, ((slice(i, i + 1), *window), block[None])))
            parts += new
        if not diffs:
            raise error or PromptError("The stroke touches no object: draw it across the object to split.")
        text = f"Split {len(diffs)} object{'s' if len(diffs) > 1 else ''} in frame {i}"
        self.do("split", text, diffs=diffs, details={"labels": key, "new": parts})

    def merge(self, key: str, ids: Sequence[int]) -> None:
        """Make several tracks one, with the id of the first, which also gets their daughters."""
        edit = edits.merge(self.labels[key], ids)
        first, *others = (int(label) for label in ids)
        values = {}
        if key == COMMITTED:
            lineage = self.lineage
            for other in others:
                lineage = lineage.unlinked(other)
            values["lineage"] = lineage.renamed(dict.fromkeys(others, first))
        text = f"Merged tracks {', '.join(map(str, [first, *others]))}"
        self.do("merge", text, values, [self._edit(key, edit)], {"labels": key, "merged": [first, *others]})

    # Results

    def put_tracks(
        self, key: str, labels: np.ndarray, lineage: Lineage, text: str, kind: str = "load", **details: Any
    ) -> None:
        """Replace labels and lineage by a result, or by what was loaded.

        Raises:
            ParameterError: They have another shape than the series.
        """
        expected = self.labels[key].shape
        if labels.shape != expected:
            raise ParameterError(f"The tracks have the shape {labels.shape}, but the time series has {expected}.")
        whole = tuple(slice(0, n) for n in labels.shape)
        diff = Diff.between(key, whole, self.labels[key], labels.astype(self.labels[key].dtype))
        values: dict[str, Any] = {"lineage" if key == COMMITTED else "auto_lineage": lineage}
        values |= self._replaced_values(key)
        if key == COMMITTED and not self.labels[CURRENT].any() and not self.prompts:
            values["draft"] = Draft((int(labels.max(initial=0)) + 1,))
        extra = self._model_name() if key == AUTO else {}
        self.do(kind, text, values, [diff], {**details, **extra})

    def lineages(self) -> list[dict[int, list[int]]]:
        """The committed lineages: one dict per family, label -> labels of the daughters."""
        lifted = [self.correcting.label] if self.correcting is not None and self.correcting.key == COMMITTED else []
        return self.lineage.families([*self.committed_frames.spans(), *lifted])


def _lifted(values: Mapping[str, Any], now: Correction | None) -> int | None:
    """The track that is being corrected after a step."""
    after = values.get("correcting", now)
    return after.label if after is not None and after.key == COMMITTED else None
