"""Going through objects from the most to the least doubtful, and deciding about each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import EMBEDDINGS, REVIEW, shown
from micro_sam.sam_annotator.control.objects import ObjectControl
from micro_sam.sam_annotator.control.prompts import PromptControl
from micro_sam.sam_annotator.session.doubt import iter_doubts
from micro_sam.sam_annotator.session.history import Step
from micro_sam.sam_annotator.session.review import Doubt
from micro_sam.sam_annotator.session.reviewing import CORRECTING, DELETED
from micro_sam.sam_annotator.session.segmentation import own_predictor
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT, LAYER_PREFIX, count


class ReviewControl(PromptControl, ObjectControl):
    """Going through objects from the most to the least doubtful, and deciding about each."""

    #: The object that is looked at.
    _looked_at: Doubt | None = None
    #: How many objects are open, and what that was counted for.
    _counted: tuple[tuple, int] = ((), 0)
    #: What one object is called.
    _reviewed_name: str = "object"

    def _review_links(self) -> list[tuple[Any, Callable]]:
        widget = self.panel.review
        return [
            (widget.list_requested, self.list_doubtful),
            (widget.previous_requested, self.review_previous),
            (widget.next_requested, self.review_next),
            (widget.keep_requested, self.keep_reviewed),
            (widget.correct_requested, self.correct_reviewed),
            (widget.delete_requested, self.delete_reviewed),
            (self.panel.review_folded.toggled, self._on_review_folded),
        ]

    def _review_keys(self) -> dict[str, Callable[[], Any]]:
        return {
            "Q": self.review_previous,
            "W": self.review_next,
            "G": self.keep_reviewed,
            "Shift-W": self.correct_reviewed,
            "Shift-Q": self.delete_reviewed,
        }

    # The list

    @shown
    def list_doubtful(self) -> None:
        """Order objects by doubt, beside the window, and look at the first."""
        self._message = None
        session = self.session
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        key = self._key_to_review()
        labels, predictor, embeddings = session.labels[key], own_predictor(session.predictor), session.embeddings
        self._start(
            REVIEW,
            lambda: iter_doubts(labels, predictor, embeddings, self._reviewed_name == "track"),
            on_done=functools.partial(self._on_listed, key),
        )

    def _key_to_review(self) -> str:
        """The labels layer that is selected, else the automatic result, else the committed objects."""
        hit = None if self.tools.tool is not None else self.layers.selected_labels()
        if hit is not None and (hit.key is None or self.session.has(hit.key)):
            return self._key(hit)
        before = (self.session.review.key,) if self.session.review.key.startswith(LAYER_PREFIX) else ()
        key = next((key for key in (AUTO, *before, COMMITTED) if self.session.has(key)), None)
        if key is None:
            raise PromptError("There are no objects to review: segment everything, or commit some, first.")
        return key

    @shown
    def _on_listed(self, key: str, doubts: tuple[Doubt, ...]) -> None:
        if self.previews.is_busy:  # a mask and its prompt belong together
            self.panel.later(functools.partial(self._on_listed, key, doubts))
            return
        self.session.list_doubts(key, doubts)
        self._looked_at = None
        if key.startswith(LAYER_PREFIX):
            self.use_prompt_tool("point")  # where Ctrl+Z is ours, and not that of the other layer
        self._go_on()

    # Going through it

    @shown
    def review_next(self) -> None:
        """Go to the next object in the list; make the list first if there is none."""
        self._step_in_review(1)

    @shown
    def review_previous(self) -> None:
        """Go back to the object before in the list."""
        self._step_in_review(-1)

    def _step_in_review(self, step: int) -> None:
        self._message = None
        doubts = self.session.review.doubts
        if not doubts:
            self._unfold_review()
            self.list_doubtful()
            return
        here = self._here()
        if here is None:
            self._go_on()
        else:
            self._look_at_doubt(doubts[(doubts.index(here) + step) % len(doubts)])

    def _go_on(self) -> None:
        """Go to the next object that nobody has decided about."""
        doubts, still_open, here = self.session.review.doubts, self.session.open_doubts(), self._here()
        if not still_open:
            self._show_review()
            self.say(f"All {count(len(doubts), self._reviewed_name)} are reviewed.", "done")
            return
        behind = -1 if here is None else doubts.index(here)
        self._look_at_doubt(next((doubt for doubt in still_open if doubts.index(doubt) > behind), still_open[0]))

    def _look_at_doubt(self, doubt: Doubt) -> None:
        is_first, self._looked_at = self._looked_at is None, doubt
        self._unfold_review()
        self.layers.look_at(doubt.window, doubt.i, zoom=True)
        self._show_review()
        if is_first:  # the buttons appear now
            self.panel.review_folded.refit()
            self.panel.bring_into_view(self.panel.review)
        self.update_hint()

    # Deciding

    @shown
    def keep_reviewed(self) -> None:
        """The object is good as it is."""
        self._message = None
        self.session.keep(self._decidable().label)
        self._go_on()

    @shown
    def delete_reviewed(self) -> None:
        """Delete the object."""
        self._message = None
        self.session.delete(self.session.review.key, self._decidable().label)
        self._go_on()

    @shown
    def correct_reviewed(self) -> None:
        """Take the object up to correct it with prompts."""
        self._message = None
        doubt = self._decidable()
        self.previews.drop()
        self.session.correct(self.session.review.key, doubt.label)
        self.use_prompt_tool("point")
        self.layers.look_at(doubt.window, doubt.i, zoom=True)
        self.update_hint()

    def _decidable(self) -> Doubt:
        """The object that is looked at, if it is there.

        Raises:
            PromptError: It is not.
        """
        doubt = self._here()
        if doubt is None:
            raise PromptError("No object is being reviewed: press Next [W] first.")
        state = self.session.decided(doubt)
        if state == CORRECTING:
            raise PromptError("The object is being corrected: commit it with C, or clear it with Shift+C.")
        if state == DELETED:
            raise PromptError("The object is not there any more: go to the next one [W], or take it back with Ctrl+Z.")
        return doubt

    def _here(self) -> Doubt | None:
        """The object that is looked at; after Commit all it has another id."""
        return self.session.review.same(self._looked_at)

    def _after_commit(self, done: Any) -> None:
        super()._after_commit(done)
        corrected, here = self._listed_in(self.session.history.last), self._here()
        if done is None and here is not None and corrected == here:
            self._go_on()
            if hint := self.review_hint():
                self.say(f"{self.session.history.last.text}. The next one: {hint[0].lower()}{hint[1:]}", "done")

    @shown
    def undo(self) -> None:
        """Take back the last step; a decision in review is shown."""
        step = self.session.history.last
        super().undo()
        self._return_to(step)

    @shown
    def redo(self) -> None:
        """Make the step again that was taken back last; a decision in review is shown."""
        step = self.session.history.next
        super().redo()
        self._return_to(step)

    def _return_to(self, step: Step | None) -> None:
        doubt = self._listed_in(step)
        if self._looked_at is not None and doubt is not None:
            self._look_at_doubt(doubt)

    def _listed_in(self, step: Step | None) -> Doubt | None:
        """The object in the list that a step is about."""
        details, review = {} if step is None else step.details, self.session.review
        place = review.place(details.get("label")) if details.get("labels") == review.key else None
        return None if place is None else review.doubts[place]

    # What is shown

    def _unfold_review(self) -> None:
        if not self.panel.review_folded.isExpanded():
            self.panel.review_folded.expand(animate=False)
            self.panel.bring_into_view(self.panel.review)

    def _on_review_folded(self, unfolded: bool) -> None:
        self._show_review()

    def _show_review(self) -> None:
        """Show the object that is looked at, in the panel and on the image."""
        if self._closed:
            return
        if not self.panel.review_folded.isExpanded():
            self.layers.remove_outline()
            return
        doubt, n_all = self._here(), len(self.session.review.doubts)
        if doubt is None:
            self.layers.remove_outline()
        else:
            self.layers.outline(self.session.labels[self.session.review.key], doubt.label, doubt.window, doubt.i)
        progress = f"{n_all - self._count_open()} of {n_all} reviewed" if n_all else ""
        state = None if doubt is None else self.session.decided(doubt)
        self.panel.review.show_object(
            "" if doubt is None else self._doubt_text(doubt, state),
            progress,
            doubt is not None and state not in (CORRECTING, DELETED),
        )

    def _count_open(self) -> int:
        """How many objects are open; counted anew when something changed that matters."""
        session = self.session
        state = (session.review, session.verdicts, session.correcting)
        if not all(a is b for a, b in zip(state, self._counted[0])) or not self._counted[0]:
            self._counted = (state, len(session.open_doubts()))
        return self._counted[1]

    def _note_labels(self, key: str) -> None:
        """Labels changed: objects under review may be gone or back."""
        if key == self.session.review.key:
            self._counted = ((), 0)

    def _doubt_text(self, doubt: Doubt, state: str | None) -> str:
        place = self.session.review.place(doubt.label) + 1
        why = "; ".join(doubt.reasons) or "nothing stands out"
        decided = f" <b>({state})</b>" if state is not None else ""
        which = f"<b>{self._reviewed_name.capitalize()} {place} of {len(self.session.review.doubts)}</b>"
        return f"{which} (id {doubt.label}), doubt {doubt.doubt:.2f}{decided}: {why}."

    def review_hint(self) -> str | None:
        """What can be done with the object that is looked at; None if something else goes on."""
        session, here = self.session, self._here()
        if here is None or self.tools.tool is not None or session.prompts or not self.panel.review_folded.isExpanded():
            return None
        if session.correcting is not None or session.has(CURRENT) or session.decided(here) is not None:
            return None
        return f"Keep the {self._reviewed_name} [G], correct it [Shift+W], cut it [Shift+X], delete it [Shift+Q], or go on [W]."
