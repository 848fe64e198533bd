"""Moving about in the tracking annotator with the movie of `movie_toys`."""

from __future__ import annotations

from movie_toys import centre
from window_driver import Window


def go_to(window: Window, frame: int) -> None:
    window.viewer.dims.set_point(0, frame * window.controller.layers.image.scale[0])
    window.settle(3)


def click(window: Window, track: int, frame: int) -> None:
    """Click a cell of the movie in its frame."""
    go_to(window, frame)
    window.click(*centre(track, frame))
    window.answered()
    window.settle(3)


def done(window: Window) -> None:
    window.wait(lambda: not window.controller.jobs.is_running())
    window.settle(5)
