"""Automatic segmentation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from micro_sam.errors import ParameterError, PromptError
from micro_sam.instance_segmentation.settings import SETTINGS, settings_for
from micro_sam.sam_annotator.control.base import AUTOMATIC, EMBEDDINGS, Control, shown
from micro_sam.sam_annotator.session.automatic import default_settings, modes_of
from micro_sam.sam_annotator.session.state import AUTO


class AutomaticControl(Control):
    """Automatic segmentation."""

    def _show_modes(self) -> None:
        predictor = self.session.predictor
        modes = modes_of(predictor)
        mode = self._mode_wanted if self._mode_wanted in modes else modes[0]
        self.panel.automatic.set_modes(modes, mode)
        self._on_mode_chosen(mode)

    def prefer_mode(self, mode: str | None) -> None:
        """The mode to begin with, if the model can do it.

        Raises:
            ParameterError: There is no such mode.
        """
        if mode not in (None, *SETTINGS):
            raise ParameterError(f"The mode is one of {', '.join(SETTINGS)}, got {mode!r}.")
        self._mode_wanted = mode

    def prefer_settings(self, settings: Mapping[str, Any]) -> None:
        """Parameters of automatic segmentation to begin with, instead of the model's own; each for the modes that have it.

        Raises:
            ParameterError: No mode has one of them.
        """
        known = {item.name for mode in SETTINGS.values() for item in fields(mode)}
        if unknown := sorted(set(settings) - known):
            raise ParameterError(f"No mode has the parameter '{unknown[0]}'; there are {', '.join(sorted(known))}.")
        self._settings_wanted = dict(settings)

    def _on_mode_chosen(self, mode: str) -> None:
        if mode in SETTINGS:
            predictor = self.session.predictor
            name, own = getattr(predictor, "model_name", None), getattr(predictor, "defaults", None)
            settings = default_settings(mode, name, own) if name else settings_for(mode)
            names = {item.name for item in fields(settings)}
            wanted = {name: value for name, value in self._settings_wanted.items() if name in names}
            self.panel.automatic.set_settings(replace(settings, **wanted))

    @shown
    def segment_automatically(self) -> None:
        """Segment all objects of this plane."""
        session, i = self.session, self.layers.current_slice()
        if not session.can_segment:
            raise PromptError("There are no embeddings of this image yet: press Compute embeddings first.")
        if self.jobs.is_running(EMBEDDINGS):
            raise PromptError("The embeddings are still being computed: wait until they are complete.")
        settings = self.panel.automatic.settings()
        self._start(
            AUTOMATIC,
            lambda: self.automatic.iter_segment(session.image, session.predictor, session.embeddings, settings, i),
            on_done=functools.partial(self._on_automatic, settings, i),
        )

    def _prepare_automatic(self) -> None:
        """Do the expensive part of automatic segmentation ahead of time."""
        session, settings = self.session, self.panel.automatic.settings()
        self._start(
            AUTOMATIC,
            lambda: self.automatic.iter_prepare(
                session.image, session.predictor, session.embeddings, settings, self.layers.current_slice()
            ),
        )

    @shown
    def _on_automatic(self, settings: Any, i: int | None, labels: np.ndarray) -> None:
        found = int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
        details = {
            "mode": settings.mode,
            "settings": {**settings.init_kwargs(), **settings.generate_kwargs()},
            "found": found,
        }
        self.session.put(AUTO, labels, f"Segmented automatically: {found} objects", i, kind="automatic", **details)
        self.say(f"{found} objects found. Commit all, change parameters, or review the doubtful ones [W].", "done")

    def _on_automatic_settings(self) -> None:
        if self.session.has(AUTO):
            self.segment_automatically()
