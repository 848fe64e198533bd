"""The controller of the 3d annotator: what a slice needs is in the base, here is what goes through the volume."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from micro_sam.errors import ParameterError, PromptError
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.volume_settings import volume_arguments
from micro_sam.progress import Progress
from micro_sam.sam_annotator.control.base import AUTOMATIC, EMBEDDINGS, REVIEW, shown
from micro_sam.sam_annotator.control.doubtful import DoubtfulControl
from micro_sam.sam_annotator.controller import AnnotatorController
from micro_sam.sam_annotator.hints import Situation
from micro_sam.sam_annotator.layers import Hit
from micro_sam.sam_annotator.session.automatic_volume import iter_prepare_slices, iter_segment_volume
from micro_sam.sam_annotator.session.propagation import ReachedSlice, iter_run
from micro_sam.sam_annotator.session.state import AUTO, REACHED
from micro_sam.sam_annotator.session.volume import VolumeSession

if TYPE_CHECKING:
    from napari.layers import Image

    from micro_sam.sam_annotator.annotator_3d import Annotator3d
    from micro_sam.sam_annotator.widgets.doubtful_list import DoubtfulList

PROPAGATION = "propagation"
_PROPAGATION_NAMES = frozenset(item.name for item in fields(PropagationSettings))


class Controller3d(DoubtfulControl, AnnotatorController):
    """One 3d annotator in one viewer."""

    image_slots: ClassVar[tuple[str, ...]] = (EMBEDDINGS, AUTOMATIC, REVIEW, PROPAGATION)

    session: VolumeSession
    panel: Annotator3d

    _limits_wanted: tuple[int | None, int | None] = (None, None)
    _waits_for_answer = _waits_for_embeddings = _commit_when_reached = False

    def _table(self) -> list[tuple[Any, Callable]]:
        widget, volume = self.panel.propagation, self.panel.volume
        self._arrived: list[ReachedSlice] = []
        return [
            *super()._table(),
            (widget.propagate_requested, self.propagate),
            (widget.settings_changed, self._on_propagation_settings),
            (widget.doubtful.chosen, self.look_at),
            (widget.doubtful.next_requested, self.look_at_next_doubtful),
            (widget.limit_here, self._on_limit_here),
            (volume.settings_changed, self._on_volume_settings),
            (self.embeddings_ready, self._go_on_with_embeddings),
        ]

    def _key_actions(self) -> dict[str, Callable[[], Any]]:
        return super()._key_actions() | {"Shift-S": self.propagate, "J": self.look_at_next_doubtful}

    # The volume

    def choose_image(self, layer: Image) -> None:
        """Annotate the volume of a layer."""
        super().choose_image(layer)
        if self.session.image is not None and self.layers.image is layer:
            limits, self._limits_wanted = self._limits_wanted, (None, None)
            self._set_limits(limits)

    @shown
    def _set_limits(self, limits: tuple[int | None, int | None]) -> None:
        depth = self.session.image.shape[0]
        first, last = (default if limit is None else limit for limit, default in zip(limits, (0, depth - 1)))
        self.panel.propagation.set_depth(depth)
        self.session.z_limits = (None, None)
        if not 0 <= first <= last < depth:
            raise ParameterError(f"z_limits must be two slices from 0 to {depth - 1} in ascending order, got {limits}.")
        self.panel.propagation.set_depth(depth, limits)
        self.session.z_limits = self.panel.propagation.limits()

    def _option_names(self) -> set[str]:
        own = {"z_limits", "doubtful_below"} | _PROPAGATION_NAMES | volume_arguments()
        return super()._option_names() | own

    def _take_options(self, changes: dict[str, Any]) -> None:
        limits = changes.pop("z_limits", None)
        own = {name: changes.pop(name) for name in list(changes) if name in _PROPAGATION_NAMES}
        volume = {name: changes.pop(name) for name in list(changes) if name in volume_arguments()}
        self._doubtful_below = changes.pop("doubtful_below", self._doubtful_below)
        self.session.propagation = replace(self.session.propagation, **own)
        self.panel.volume.set_settings(replace(self.panel.volume.settings(), **volume))
        super()._take_options(changes)
        if limits is not None and self.session.image is not None:
            self._set_limits(tuple(limits))
        elif limits is not None:
            self._limits_wanted = tuple(limits)

    def _show_options(self) -> None:
        super()._show_options()
        self.panel.propagation.set_settings(self.session.propagation, self._doubtful_below)

    @shown
    def _on_propagation_settings(self) -> None:
        widget = self.panel.propagation
        self.session.propagation = widget.settings(self.session.propagation)
        self.session.z_limits = widget.limits()
        self._doubtful_below = widget.doubt.value()
        self._show_doubtful()

    @shown
    def _on_limit_here(self, which: int) -> None:
        i = self.layers.current_slice()
        if i is not None:
            (self.panel.propagation.first, self.panel.propagation.last)[which].setValue(i)

    # Propagation

    @shown
    def propagate(self) -> None:
        """Follow the current object through the volume; as soon as everything that is needed for it is there."""
        self._message = None
        session = self.session
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(PROPAGATION):
            raise PromptError("The object is being propagated already: wait, or press Cancel.")
        self._waits_for_answer = self.previews.is_busy
        if self._waits_for_answer or not self._is_embedded(self._entered_slices(), "propagation"):
            return
        plan, predictor, embeddings = session.plan_propagation(), session.predictor, session.embeddings
        self._arrived.clear()
        self._start(
            PROPAGATION,
            lambda: iter_run(plan, predictor, embeddings),
            on_item=self._on_reached,
            on_done=self._on_propagated,
            on_end=self._on_propagation_end,
        )

    def _entered_slices(self) -> set[int]:
        first, last = self.session.z_limits
        depth = self.session.image.shape[0]
        entered = set(range(first or 0, depth if last is None else last + 1))
        return entered | set(self.session.prompts.slices())

    def _is_embedded(self, slices: Iterable[int], what: str) -> bool:
        """Whether slices have embeddings; if they are being computed, `what` begins when they are there.

        Raises:
            PromptError: They are missing, and nobody computes them.
        """
        missing = self._missing(slices)
        self._waits_for_embeddings = bool(missing) and what == "propagation"
        if not missing:
            return True
        if not self.jobs.is_running(EMBEDDINGS):
            raise PromptError(f"The embeddings of {len(missing)} slices are missing: press Compute embeddings.")
        if what == "propagation":
            self.say(f"Propagation begins as soon as {len(missing)} more slices are embedded. You can go on meanwhile.")
            return False
        raise PromptError(f"{len(missing)} slices are not embedded yet: wait, or segment only the slice you look at.")

    def _missing(self, slices: Iterable[int]) -> set[int]:
        missing = getattr(self.session.embeddings, "missing", None)
        return set() if missing is None else {item.i for item in missing()} & set(slices)

    def _go_on_with_embeddings(self) -> None:
        if self._waits_for_embeddings and not self._missing(self._entered_slices()):
            self.propagate()

    def _on_progress(self, progress: Progress) -> None:
        super()._on_progress(progress)
        if self._waits_for_embeddings:
            self._go_on_with_embeddings()

    @shown
    def _on_reached(self, found: ReachedSlice) -> None:
        self._arrived.append(found)
        if not self.previews.is_busy:
            self._take_arrived()

    def _take_arrived(self) -> None:
        """Show what has been reached; not between a prompt and its mask, which belong together."""
        arrived, self._arrived = self._arrived, []
        for found in arrived:
            self.session.reach(found)

    @shown
    def _on_propagated(self, reached: list[int]) -> None:
        self._take_arrived()
        self.session.finish_propagation(reached)
        text = f"The object reaches from slice {reached[0]} to {reached[-1]}."
        text += self._doubtful_text() or " Commit it [C], or add prompts where it is wrong and propagate again."
        self.say(text, "done")

    @shown
    def _on_propagation_end(self) -> None:
        self._take_arrived()
        self._show_doubtful()
        wanted, self._commit_when_reached = self._commit_when_reached, False
        if wanted:
            self.commit()

    def _on_answer(self, answer: Any, purpose: str) -> None:
        super()._on_answer(answer, purpose)
        self._after_answer(purpose)

    def _on_preview_error(self, error: str, purpose: str, waiting: bool) -> None:
        super()._on_preview_error(error, purpose, waiting)
        if not waiting:
            self._after_answer(purpose)

    @shown
    def _after_answer(self, purpose: str) -> None:
        if purpose == "drag" or self.previews.is_busy:
            return
        self._take_arrived()
        if self._waits_for_answer:
            self.propagate()

    @shown
    def cancel(self) -> None:
        """Cancel what is running; what propagation has reached is kept."""
        self._commit_when_reached = self._waits_for_embeddings = False
        if self.jobs.cancel(PROPAGATION):
            self.say("Propagation was stopped. What it reached is kept; Ctrl+Z takes it back.")
            return
        super().cancel()

    def commit(self) -> None:
        """Commit the current object; if it is being propagated, when that is done."""
        if self.jobs.is_running(PROPAGATION):
            self._commit_when_reached = True
            self.say("The object is committed as soon as it is propagated through the volume.")
            return
        super().commit()

    def _stop(self) -> None:
        self._commit_when_reached = self._waits_for_answer = self._waits_for_embeddings = False
        self.jobs.cancel(PROPAGATION)

    def clear(self) -> None:
        """Remove prompts and the current object; a propagation that runs is ended."""
        self._stop()
        super().clear()

    def undo(self) -> None:
        """Take back the last step; a propagation that runs is ended first."""
        self._stop()
        super().undo()

    def redo(self) -> None:
        """Make the step again that was taken back last."""
        self._stop()
        super().redo()

    def restore(self) -> None:
        """Take up the work that was found."""
        self._stop()
        super().restore()
        self._show_doubtful()

    # Doubtful slices

    @property
    def _doubtful_list(self) -> DoubtfulList:
        return self.panel.propagation.doubtful

    def _on_stepped(self) -> None:
        super()._on_stepped()
        if not self.jobs.is_running(PROPAGATION):
            self._show_doubtful()

    def next_step(self, now: Situation) -> str:
        """What to do next, as a sentence."""
        if now.tool is None and now.can_segment and now.has_current and now.correcting is None:
            if self.session.labels[REACHED].any():
                return (
                    "Commit the object [C], or add prompts in slices where it is wrong and propagate again [Shift+S]."
                )
            return "Propagate the object [Shift+S], refine it with more points [T], or commit only this slice [C]."
        return super().next_step(now)

    # Automatic segmentation

    @shown
    def segment_automatically(self) -> None:
        """Segment all objects of this slice, or of the whole volume."""
        session, i = self.session, None if self.panel.volume.is_volume else self.layers.current_slice()
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        self._is_embedded(range(session.image.shape[0]) if i is None else [i], "automatic")
        settings, parts = self.panel.automatic.settings(), (session.image, session.predictor, session.embeddings)
        if i is None:
            volume = self.panel.volume.settings()
            work = functools.partial(iter_segment_volume, self.automatic, *parts, settings, volume)
        else:
            work = functools.partial(self.automatic.iter_segment, *parts, settings, i)
        self._start(AUTOMATIC, work, on_done=functools.partial(self._on_automatic, settings, i))

    def _prepare_automatic(self) -> None:
        session, settings = self.session, self.panel.automatic.settings()
        parts = (session.image, session.predictor, session.embeddings, settings, range(session.image.shape[0]))
        self._start(AUTOMATIC, functools.partial(iter_prepare_slices, self.automatic, *parts))

    def _on_automatic(self, settings: Any, i: int | None, labels: np.ndarray) -> None:
        own = labels if i is None else self.session.with_own_ids(AUTO, labels, i)
        super()._on_automatic(settings, i, own)

    def _on_volume_settings(self) -> None:
        if self.panel.volume.is_volume:
            self._on_automatic_settings()

    # Objects

    def _hit(self, position: Any) -> Hit:
        if self.viewer.dims.ndisplay == 3:
            raise PromptError("Switch back to slices first (the cube button below the layer list).")
        return super()._hit(position)
