"""What all segmenters have in common: initialize once, generate often, and a state that can be kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from micro_sam.errors import MicroSamError


class NotInitializedError(MicroSamError, RuntimeError):
    """`generate` or `get_state` was called before `initialize` or `set_state`."""


class Segmenter(ABC):
    """Base of all automatic segmentation. ``initialize`` is the expensive part, ``generate`` may be called often."""

    _state: Any = None

    @property
    def is_initialized(self) -> bool:
        """Whether `generate` can be called."""
        return self._state is not None

    def _initialized(self) -> Any:
        if self._state is None:
            raise NotInitializedError(f"{type(self).__name__} has no image yet: call initialize or set_state first.")
        return self._state

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """The state as a dict of numpy arrays, numbers and strings, which `set_state` takes.

        Raises:
            NotInitializedError: There is none yet.
        """

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None:
        """Take over a state from `get_state`, instead of calling ``initialize``."""

    def clear_state(self) -> None:
        """Forget the state."""
        self._state = None
