"""Long work beside the window: in threads, with progress, cancelling, and without answers that come too late."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from qtpy.QtCore import QObject, Signal

from micro_sam.errors import MicroSamError
from micro_sam.progress import Progress

logger = logging.getLogger(__name__)

Work = Generator[Any, None, Any]
_EXIT_SECONDS = 60


@dataclass(eq=False)
class Job:
    """A piece of work and who is told about it. All functions are called in the thread of the window.

    Attributes:
        slot: Its name; starting another job in the slot cancels this one.
        work: A generator; it is closed in its own thread when the job is cancelled.
        on_progress: Called with each `Progress`.
        on_item: Called with whatever else it yields.
        on_done: Called with what it returns.
        on_error: Called with a sentence.
        on_end: Called at the end in any case, cancelled or not.
        cancelled: Set when it should end at its next step.
        at_exit: What is registered to be called when the program ends before the job does.
    """

    slot: str
    work: Callable[[], Work]
    on_progress: Callable[[Progress], None] | None = None
    on_item: Callable[[Any], None] | None = None
    on_done: Callable[[Any], None] | None = None
    on_error: Callable[[str], None] | None = None
    on_end: Callable[[], None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    at_exit: Callable[[], None] | None = None


class JobRunner(ABC):
    """Runs jobs. At most one runs in each slot."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Run a job; one that runs in its slot is cancelled, and nothing is heard of it any more except its end."""

    @abstractmethod
    def cancel(self, slot: str) -> bool:
        """Cancel the job in a slot; False if none runs."""

    @abstractmethod
    def is_running(self, slot: str | None = None) -> bool:
        """Whether a job runs, in a slot or in any."""

    @abstractmethod
    def close(self) -> None:
        """Cancel everything and forget everybody; threads end by themselves at their next step."""


class InlineJobs(JobRunner):
    """Runs a job at once and to its end, for scripts and tests."""

    def __init__(self) -> None:
        self._running: dict[str, Job] = {}

    def start(self, job: Job) -> None:
        self._running[job.slot] = job
        try:
            for kind, value in _events(job):
                _tell(job, kind, value)
        finally:
            self._running.pop(job.slot, None)

    def cancel(self, slot: str) -> bool:
        job = self._running.get(slot)
        if job is not None:
            job.cancelled.set()
        return job is not None

    def is_running(self, slot: str | None = None) -> bool:
        return bool(self._running) if slot is None else slot in self._running

    def close(self) -> None:
        for slot in list(self._running):
            self.cancel(slot)


class ThreadedJobs(JobRunner):
    """Runs each job in a thread of its own and tells about it in the thread of the window."""

    def __init__(self) -> None:
        self._running: dict[str, Job] = {}
        self._bridge = _Bridge(self._on_told)

    def start(self, job: Job) -> None:
        self.cancel(job.slot)
        self._running[job.slot] = job
        thread = threading.Thread(target=self._run, args=(job,), daemon=True, name=f"micro_sam {job.slot}")
        job.at_exit = functools.partial(_end_before_exit, job, thread)
        atexit.register(job.at_exit)
        thread.start()

    def _run(self, job: Job) -> None:
        bridge = self._bridge
        for kind, value in _events(job):
            if not bridge.tell(job, kind, value):
                job.cancelled.set()
        atexit.unregister(job.at_exit)

    def _on_told(self, job: Job, kind: str, value: Any) -> None:
        if kind == "end" and self._running.get(job.slot) is job:
            del self._running[job.slot]
        _tell(job, kind, value)

    def cancel(self, slot: str) -> bool:
        job = self._running.pop(slot, None)
        if job is None:
            return False
        job.cancelled.set()
        if job.on_end is not None:
            job.on_end()
        job.on_end = None
        return True

    def is_running(self, slot: str | None = None) -> bool:
        return bool(self._running) if slot is None else slot in self._running

    def close(self) -> None:
        for job in self._running.values():
            job.cancelled.set()
            job.on_end = None
        self._running.clear()
        self._bridge.silence()


def _events(job: Job) -> Generator[tuple[str, Any], None, None]:
    """Drive the work; what happens, and always an end."""
    work = None
    try:
        work = job.work()
        while not job.cancelled.is_set():
            try:
                value = next(work)
            except StopIteration as stop:
                yield "done", stop.value
                break
            yield ("progress" if isinstance(value, Progress) else "item"), value
    except Exception as error:
        if not isinstance(error, MicroSamError):
            logger.exception("Unexpected error in '%s'", job.slot)
        yield "error", sentence(error)
    finally:
        if work is not None:
            work.close()
        yield "end", None


def _tell(job: Job, kind: str, value: Any) -> None:
    if kind == "end":
        if job.on_end is not None:
            job.on_end()
        return
    listener = getattr(job, f"on_{kind}")
    if listener is not None and not job.cancelled.is_set():
        arguments = () if kind == "end" else (value,)
        listener(*arguments)


def sentence(error: BaseException) -> str:
    """An error as a sentence for a person."""
    while type(error).__name__ == "EmitLoopError" and error.__cause__ is not None:  # raised by who was told about it
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, MicroSamError):
        return text
    if isinstance(error, MemoryError) or "out of memory" in text:
        return "There is not enough memory: use smaller tiles, a smaller model, or another device."
    if isinstance(error, OSError) and error.filename:
        return f"'{error.filename}' cannot be used ({error.strerror}); check the path and its permissions."
    return f"Something unexpected went wrong ({type(error).__name__}: {text}); your work is kept, please report this."


def _end_before_exit(job: Job, thread: threading.Thread) -> None:
    """Let a thread finish its step: a program that ends while a network computes in a thread would crash."""
    job.cancelled.set()
    thread.join(_EXIT_SECONDS)


class LatestOnly:
    """Answers questions in one thread; a question that was overtaken by a newer one is never asked.

    Args:
        ask: Answers a question, in the thread.
        on_answer: Called with the answer, in the thread of the window.
        on_error: Called with a sentence.
    """

    def __init__(
        self, ask: Callable[[Any], Any], on_answer: Callable[[Any], None], on_error: Callable[[str], None]
    ) -> None:
        self._ask, self._bridge = ask, _Bridge(lambda kind, value: self._listeners[kind](value))
        self._listeners = {"answer": on_answer, "error": on_error}
        self._condition = threading.Condition()
        self._question: list[Any] = []
        self._closed = False
        self._busy = False
        self._thread: threading.Thread | None = None

    def put(self, question: Any) -> None:
        """Ask this; a question that still waits is dropped."""
        with self._condition:
            self._question = [question]
            self._condition.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="micro_sam preview")
            self._thread.start()

    def drop(self) -> None:
        """Forget the question that waits."""
        with self._condition:
            self._question = []

    @property
    def is_busy(self) -> bool:
        """Whether a question waits or is being answered."""
        return self._busy or bool(self._question)

    def close(self) -> None:
        """End the thread; nothing is heard of it any more."""
        self._bridge.silence()
        self._listeners.clear()
        with self._condition:
            self._closed, self._question, self._ask = True, [], None
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(_EXIT_SECONDS)  # at most one decoding

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._question)
                if self._closed:
                    return
                [question], self._question, self._busy = self._question, [], True
                ask, bridge = self._ask, self._bridge
            try:
                bridge.tell("answer", ask(question))
            except Exception as error:
                if not isinstance(error, MicroSamError):
                    logger.exception("Unexpected error")
                bridge.tell("error", sentence(error))
            finally:
                self._busy = False
                del ask, question


class _Bridge(QObject):
    """Carries calls from other threads into the thread it was made in."""

    _told = Signal(tuple)

    def __init__(self, listener: Callable[..., None]) -> None:
        super().__init__()
        self._listener: Callable[..., None] | None = listener
        self._told.connect(self._on_told)

    def tell(self, *arguments: Any) -> bool:
        """Call the listener, from any thread; False if there is none any more."""
        try:
            if self._listener is not None:
                self._told.emit(arguments)
        except RuntimeError:  # the application is gone
            return False
        return self._listener is not None

    def _on_told(self, arguments: tuple) -> None:
        if self._listener is not None:
            self._listener(*arguments)

    def silence(self) -> None:
        """Nobody listens any more."""
        self._listener = None
