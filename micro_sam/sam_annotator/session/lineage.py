"""Who comes from whom: an immutable value that can be undone, written into a journal and brought into order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from micro_sam.errors import PromptError
from micro_sam.io.track_tables import families_of, mothers_of

Spans = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Lineage:
    """Links from daughters to mothers.

    Attributes:
        links: (daughter, mother), sorted by daughter; a track has at most one mother.
    """

    links: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, mothers: Mapping[int, int]) -> Lineage:
        """From daughter -> mother."""
        return cls(tuple(sorted((int(daughter), int(mother)) for daughter, mother in mothers.items())))

    @classmethod
    def from_families(cls, lineages: Sequence[Mapping[int, Sequence[int]]]) -> Lineage:
        """From a list with one dict per family, label -> labels of the daughters."""
        return cls.of(mothers_of(lineages))

    @cached_property
    def mothers(self) -> dict[int, int]:
        """Daughter -> mother."""
        return dict(self.links)

    def mother(self, track: int) -> int | None:
        """The mother of a track."""
        return self.mothers.get(track)

    def daughters(self, track: int) -> list[int]:
        """The daughters of a track."""
        return [daughter for daughter, mother in self.links if mother == track]

    def families(self, tracks: Iterable[int]) -> list[dict[int, list[int]]]:
        """One dict per family of these tracks, label -> labels of the daughters, as functions for tracks take it."""
        there = sorted(set(tracks))
        known = set(there)
        return families_of({track: [d for d in self.daughters(track) if d in known] for track in there})

    def linked(self, daughter: int, mother: int, spans: Spans) -> Lineage:
        """With this mother for a track.

        Raises:
            PromptError: The daughter begins before the mother ends.
        """
        if daughter == mother:
            raise PromptError("A track cannot be its own mother: click another one.")
        if not _in_order(daughter, mother, spans):
            raise PromptError(
                f"Track {mother} is there until frame {spans[mother][1]}, but track {daughter} begins in frame "
                f"{spans[daughter][0]}; a daughter begins after its mother ends: cut the mother first."
            )
        return Lineage.of({**self.mothers, daughter: mother})

    def unlinked(self, daughter: int) -> Lineage:
        """Without a mother for a track."""
        return Lineage.of({d: m for d, m in self.links if d != daughter})

    def renamed(self, names: Mapping[int, int]) -> Lineage:
        """With other ids for some tracks; links of a track to itself that come of it are dropped."""
        pairs = [(names.get(daughter, daughter), names.get(mother, mother)) for daughter, mother in self.links]
        return Lineage.of({daughter: mother for daughter, mother in pairs if daughter != mother})

    def only(self, tracks: Iterable[int]) -> Lineage:
        """The links between these tracks."""
        known = set(tracks)
        return Lineage.of({d: m for d, m in self.links if d in known and m in known})

    def merged(self, other: Lineage) -> Lineage:
        """The links of both; where they differ those of the other."""
        return Lineage.of({**self.mothers, **other.mothers})

    def consistent(self, spans: Spans, lifted: int | None = None) -> Lineage:
        """The links that are possible: both tracks are there, and the daughter begins after the mother ends.

        Args:
            spans: First and last frame of each track.
            lifted: A track that is being corrected, and so is not in the labels now; its links are kept.
        """
        return Lineage.of(
            {
                daughter: mother
                for daughter, mother in self.links
                if lifted in (daughter, mother) or _in_order(daughter, mother, spans)
            }
        )

    def to_json(self) -> dict[str, int]:
        """A description that `from_json` reads."""
        return {str(daughter): mother for daughter, mother in self.links}

    @classmethod
    def from_json(cls, value: Mapping[str, int]) -> Lineage:
        """The inverse of `to_json`."""
        return cls.of({int(daughter): int(mother) for daughter, mother in value.items()})


def _in_order(daughter: int, mother: int, spans: Spans) -> bool:
    return daughter in spans and mother in spans and spans[mother][1] < spans[daughter][0]


@dataclass(frozen=True)
class Draft:
    """The lineage that is being annotated and not committed yet.

    Attributes:
        tracks: The ids of its tracks; prompts carry them as ``track_id``.
        lineage: Which of them come from which.
        fixed: (track, frame): masks that were painted by hand, which tracking leaves as they are.
    """

    tracks: tuple[int, ...] = (1,)
    lineage: Lineage = field(default_factory=Lineage)
    fixed: tuple[tuple[int, int], ...] = ()

    def divided(self, mother: int, daughters: Sequence[int]) -> Draft:
        """With daughters of a track."""
        lineage = self.lineage.merged(Lineage.of(dict.fromkeys(daughters, mother)))
        return Draft((*self.tracks, *daughters), lineage, self.fixed)

    def without(self, tracks: Iterable[int]) -> Draft:
        """Without some tracks."""
        gone = set(tracks)
        kept = tuple(track for track in self.tracks if track not in gone)
        return Draft(kept, self.lineage.only(kept), tuple(pair for pair in self.fixed if pair[0] not in gone))

    def with_fixed(self, pairs: Iterable[tuple[int, int]]) -> Draft:
        """With further masks that were painted by hand."""
        return Draft(self.tracks, self.lineage, tuple(sorted({*self.fixed, *pairs})))

    def to_json(self) -> dict[str, Any]:
        """A description that `from_json` reads."""
        return {"tracks": list(self.tracks), "mothers": self.lineage.to_json(), "fixed": [list(p) for p in self.fixed]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Draft:
        """The inverse of `to_json`."""
        fixed = tuple((int(track), int(frame)) for track, frame in value["fixed"])
        return cls(tuple(map(int, value["tracks"])), Lineage.from_json(value["mothers"]), fixed)
