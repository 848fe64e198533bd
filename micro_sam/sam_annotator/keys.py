"""Keys of an annotator, bound in one viewer and its layers, and given back when the annotator is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Keys:
    """Binds keys. Layers get them too, because napari's own keys of a layer win over those of the viewer.

    Args:
        actions: What keys do, for example ``{"S": segment}``; names as napari has them, such as "Control-Z".
    """

    def __init__(self, actions: Mapping[str, Callable[[], Any]]) -> None:
        self._actions = dict(actions)
        self._bound: list[tuple[Any, dict[str, Any]]] = []

    def bind(self, owners: Iterable[Any]) -> None:
        """Bind the keys in a viewer or in layers; those that have them already stay as they are."""
        known = {id(owner) for owner, _ in self._bound}
        for owner in owners:
            if id(owner) not in known:
                before = {
                    key: owner.bind_key(key, _without_owner(do), overwrite=True) for key, do in self._actions.items()
                }
                self._bound.append((owner, before))

    def close(self) -> None:
        """Give the keys back."""
        for owner, before in self._bound:
            for key, function in before.items():
                owner.bind_key(key, None, overwrite=True)
                if function is not None:
                    owner.bind_key(key, function)
        self._bound.clear()
        self._actions.clear()


def _without_owner(action: Callable[[], Any]) -> Callable[[Any], None]:
    def pressed(owner: Any) -> None:
        action()

    return pressed
