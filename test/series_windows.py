"""A window with an image series in it."""

from __future__ import annotations

from window_driver import Window

from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

MODEL = {"model_type": "vit_t_builtin", "device": "cpu", "return_viewer": True}


class SeriesWindow(Window):
    """A window with a series in it."""

    @property
    def series(self):
        return self.widget.series

    @property
    def strip(self):
        return self.widget.series.strip

    def at_image(self, index: int) -> None:
        """Wait until an image is there, with its embeddings."""
        self.wait(lambda: self.series.index == index and not self.series._moving)
        self.ready()

    def rows(self) -> list[str]:
        return [self.strip.images.item(k).text() for k in range(self.strip.images.count())]

    def ahead_ready(self, index: int) -> None:
        self.wait(lambda: self.series.ahead is not None and self.series.ahead.index == index)
        self.wait(lambda: self.series.ahead.embeddings is not None)

    def commit(self, y: float, x: float) -> None:
        self.click(y, x)
        self.answered()
        self.key("C")


def window_of(viewer) -> SeriesWindow:
    panels = [p for p in viewer.window._qt_window.findChildren(AnnotatorPanel) if not p.controller._closed]
    return SeriesWindow(viewer, panels[-1])
