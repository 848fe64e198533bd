"""Looking at slices or frames in which the model is least certain, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import Control, shown
from micro_sam.sam_annotator.session.certainty import Certainty
from micro_sam.sam_annotator.session.follow_settings import DOUBTFUL

if TYPE_CHECKING:
    from micro_sam.sam_annotator.widgets.doubtful_list import DoubtfulList


class DoubtfulControl(Control):
    """Looking at slices or frames in which the model is least certain, one after another."""

    session: Certainty
    #: How the object comes into other slices, for the sentence that says that there is nothing to look at.
    _to_follow: str = "propagate an object with Shift+S first"
    _slice_name: str = "slice"
    _doubtful_below: float = DOUBTFUL

    @property
    def _doubtful_list(self) -> DoubtfulList:
        raise NotImplementedError

    @shown
    def look_at(self, i: int) -> None:
        """Go to a slice or frame."""
        self.layers.go_to(i)

    @shown
    def look_at_next_doubtful(self) -> None:
        """Go to the next doubtful slice or frame behind this one, else to the first."""
        found = sorted(i for i, _ in self._doubtful())
        if not found:
            raise PromptError(f"There is no doubtful {self._slice_name}: {self._to_follow}.")
        here = self.layers.current_slice() or 0
        self.layers.go_to(next((i for i in found if i > here), found[0]))

    def _doubtful(self) -> list[tuple[int, float]]:
        return self.session.doubtful(self._doubtful_below) if self.session.labels and not self._closed else []

    def _show_doubtful(self) -> None:
        self._doubtful_list.show_doubtful(self._doubtful())

    def _doubtful_text(self) -> str:
        """How many are doubtful, as a sentence; nothing if none is."""
        found = len(self._doubtful())
        if not found:
            return ""
        many = f"{found} {self._slice_name}s are doubtful" if found > 1 else f"1 {self._slice_name} is doubtful"
        return f" {many}: look at the list [J], add prompts and press Shift+S again, or commit [C]."
