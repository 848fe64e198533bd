"""Running a command: one line and exit code 2 for every error a person can do something about."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from micro_sam.errors import MicroSamError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line and takes no abbreviated flags."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        message = " ".join(message.split()).removesuffix(".")
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help).\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Wraps the help of flags, leaves the description as written, and names defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False, argparse.SUPPRESS) or action.option_strings == []:
            return action.help or ""
        return super()._get_help_string(action) or ""


def run_command(
    parser: argparse.ArgumentParser,
    execute: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments and run a command.

    Args:
        parser: Its parser, with the flags of `add_common_flags`.
        execute: Does the work; returns the exit code, None for 0.
        argv: The arguments, None for those of the process.

    Returns:
        The exit code: 2 after an error. With ``--debug`` or the variable MICROSAM_DEBUG the error is raised instead.
    """
    args = parser.parse_args(argv)
    debug = args.debug or bool(os.environ.get("MICROSAM_DEBUG"))
    _set_up_logging(parser.prog, args.verbose)
    try:
        with _terminated_like_interrupted():
            return execute(args) or 0
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; finished results are kept.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug or not is_expected(error):
            raise
        print(f"{parser.prog}: error: {describe(error)}", file=sys.stderr)
        return EXIT_ERROR


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A polite request to stop (SIGTERM) cleans up in the same way as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_jobs(jobs: Sequence[Any], process: Callable[[Any], None], debug: bool) -> int:
    """Process one job after another; what fails is reported and the others go on.

    Args:
        jobs: Values with a ``path``.
        process: Does one of them.
        debug: Raise the first error.

    Returns:
        The exit code.
    """
    failures = 0
    for number, job in enumerate(jobs, start=1):
        try:
            process(job)
        except Exception as error:
            if debug or len(jobs) == 1 or not is_expected(error):
                raise
            failures += 1
            print(f"{job.path}: error: {describe(error)}", file=sys.stderr, flush=True)
        logging.getLogger("micro_sam.cli").info("%d of %d images done", number, len(jobs))
    if failures:
        print(f"{failures} of {len(jobs)} images failed; the others are done.", file=sys.stderr)
    return EXIT_ERROR if failures else 0


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that a person can do something about, and not a mistake in the program."""
    return isinstance(error, MicroSamError | OSError) or _is_out_of_memory(error)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch raises a RuntimeError of its own for a GPU and a plain one for the CPU.
    is_torchs = isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory", str(error))
    return isinstance(error, MemoryError) or bool(is_torchs)


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and not isinstance(error, MicroSamError) and error.filename is not None:
        return f"'{error.filename}' cannot be used ({error.strerror}); check the path and its permissions."
    if _is_out_of_memory(error):
        return "There is not enough memory; use --tile_shape and --halo to work in tiles, or a smaller batch size."
    return " ".join(str(error).split()) or type(error).__name__


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every command."""
    group = parser.add_argument_group("messages")
    group.add_argument("-v", "--verbose", action="store_true", help="Show progress and say more about what is done.")
    group.add_argument("--debug", action="store_true", help="Show where in the program an error came from.")
    group.add_argument("--version", action=_Version)


class _Version(argparse.Action):
    """``--version``; the version is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="Show the version and exit.")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from micro_sam import __version__

        print(f"micro_sam {__version__}")
        parser.exit()


def _set_up_logging(prog: str, verbose: bool) -> None:
    logging.basicConfig(format=f"{prog}: %(levelname_lower)s%(message)s", force=True, handlers=[_Handler()])
    logging.getLogger("micro_sam").setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("tifffile", "PIL", "matplotlib"):  # they log what then comes as an error anyway
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Our own warnings are for the person at the keyboard; those of libraries among each other are not.
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"micro_sam(\.|$)")
    warnings.showwarning = lambda message, category, *_, **__: logging.getLogger("micro_sam").warning("%s", message)


class _Handler(logging.StreamHandler):
    """Writes records to the standard error as it is when they come, in one line, past a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        record.levelname_lower = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        self.stream = sys.stderr
        super().emit(record)
