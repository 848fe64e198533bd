"""Long work is written as a generator that yields `Progress`; this module drains such generators."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One step of a long piece of work.

    Attributes:
        done: How many units are finished.
        total: How many units there are.
        text: What is being done, for a person to read.
    """

    done: int
    total: int
    text: str = ""


def drain(
    work: Generator[Progress, None, T],
    verbose: bool = False,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
) -> T:
    """Run a generator of `Progress` to its end and return what it returns.

    Args:
        work: The generator. It may be closed early by an exception from a callback; what it wrote stays resumable.
        verbose: Show a tqdm bar. Ignored when callbacks are given.
        pbar_init: Called with (total, description) on the first progress and whenever total or text changes.
        pbar_update: Called with the number of units finished since the last call.
    """
    last, state = 0, None
    _, pbar_init, pbar_update, close = handle_pbar(verbose, pbar_init, pbar_update)
    try:
        while True:
            try:
                progress = next(work)
            except StopIteration as stop:
                return stop.value
            if state != (progress.total, progress.text):
                state, last = (progress.total, progress.text), 0
                pbar_init(progress.total, progress.text)
            if progress.done > last:
                pbar_update(progress.done - last)
            last = max(last, progress.done)
    finally:
        work.close()
        close()


def handle_pbar(
    verbose: bool, pbar_init: Callable[[int, str], None] | None, pbar_update: Callable[[int], None] | None
) -> tuple[Any, Callable[[int, str], None], Callable[[int], None], Callable[[], None]]:
    """The progress callbacks to call, whatever was passed.

    Args:
        verbose: Show a tqdm bar if no callbacks are given.
        pbar_init: Called with (total, description), or None.
        pbar_update: Called with the number of units finished since the last call, or None.

    Returns:
        The tqdm bar or None, then ``init``, ``update`` and ``close``, which can always be called.
    """
    bar = None
    if verbose and pbar_init is None and pbar_update is None:
        from tqdm import tqdm

        bar = tqdm(delay=1e-3)  # shows nothing before it knows how much there is to do
        pbar_init, pbar_update = _reset_bar(bar), bar.update
    close = bar.close if bar is not None else lambda: None
    return bar, pbar_init or (lambda total, description: None), pbar_update or (lambda n: None), close


def _reset_bar(bar) -> Callable[[int, str], None]:
    def init(total: int, description: str) -> None:
        bar.delay = 0
        bar.set_description(description, refresh=False)
        bar.reset(total=total)

    return init
