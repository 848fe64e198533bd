from __future__ import annotations

import time

import pytest

from micro_sam.progress import Progress, drain


def _work(closed=None):
    try:
        for done in range(4):
            yield Progress(done, 3, "Embed")
        for done in (0, 2):
            yield Progress(done, 2, "Segment")
        return "result"
    finally:
        if closed is not None:
            closed.append(True)


def test_draining_gives_what_the_work_returns():
    assert drain(_work()) == "result"


def test_callbacks_hear_of_every_stage_and_every_step():
    started, steps = [], []
    drain(_work(), pbar_init=lambda total, text: started.append((total, text)), pbar_update=steps.append)
    assert started == [(3, "Embed"), (2, "Segment")]
    assert steps == [1, 1, 1, 2]


def test_a_bar_is_shown_when_asked_for(capsys):
    def slow():
        for progress in _work():
            time.sleep(0.005)
            yield progress

    drain(slow(), verbose=True)
    shown = capsys.readouterr().err
    assert "Embed" in shown and "2/2" in shown and "0it" not in shown
    drain(_work())
    assert capsys.readouterr().err == ""


def test_work_that_ends_at_once_shows_no_bar(capsys):
    def nothing():
        return 1
        yield

    assert drain(nothing(), verbose=True) == 1
    assert capsys.readouterr().err == ""


def test_an_exception_in_a_callback_closes_the_work():
    closed = []

    def cancel(n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain(_work(closed), pbar_update=cancel)
    assert closed == [True]
