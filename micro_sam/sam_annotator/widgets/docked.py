"""A panel that lets go of everything when it is closed, in whichever way napari does that."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent


class DockedPanel:
    """Mixed into a widget with a controller, whose ``close`` is called when it is closed or taken out of the window.

    It is no widget itself: Qt does not know the signals of a second base that is one.
    """

    controller: Any
    _docked = False

    def closeEvent(self, event: Any) -> None:
        """The panel was closed."""
        self.controller.close()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        """The panel was put into the window, or taken out of it, which is how napari closes it."""
        if event.type() == QEvent.Type.ParentChange:
            was_docked, self._docked = self._docked, self.parent() is not None
            if was_docked and not self._docked:
                self.controller.close()
            elif self._docked and not was_docked:
                self.on_docked()
        return super().event(event)

    def on_docked(self) -> None:
        """The panel was put into the window."""
