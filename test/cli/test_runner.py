from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest

from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.errors import ImageError


def _run(execute, *arguments: str) -> int:
    parser = Parser(prog="tool")
    parser.add_argument("--some_flag")
    add_common_flags(parser)
    return run_command(parser, execute, list(arguments))


def _raise(error):
    def execute(args):
        raise error

    return execute


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImageError("The image\nis empty."), "tool: error: The image is empty."),
        (PermissionError(13, "Permission denied", "a.tif"), "'a.tif' cannot be used (Permission denied)"),
        (MemoryError(), "--tile_shape"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "--tile_shape"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "--tile_shape"),
    ],
)
def test_errors_a_person_can_mend_are_one_line_and_exit_code_2(error, line, capsys):
    assert _run(_raise(error)) == 2
    captured = capsys.readouterr()
    assert line in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""


def test_mistakes_in_the_program_are_not_hidden():
    with pytest.raises(RuntimeError, match="unexpected"):
        _run(_raise(RuntimeError("unexpected")))


def test_debug_shows_the_error_itself(monkeypatch):
    with pytest.raises(ImageError):
        _run(_raise(ImageError("x")), "--debug")
    monkeypatch.setenv("MICROSAM_DEBUG", "1")
    with pytest.raises(ImageError):
        _run(_raise(ImageError("x")))


def test_flags_are_not_abbreviated(capsys):
    assert _run(lambda args: None, "--some_flag", "x") == 0
    with pytest.raises(SystemExit) as exit_:
        _run(lambda args: None, "--some", "x")
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_our_warnings_are_one_line_and_those_of_libraries_are_left_out(capsys):
    def execute(args):
        logging.getLogger("micro_sam.part").warning("five channels")
        logging.getLogger("micro_sam.part").info("not so important")
        warnings.warn_explicit("first three", UserWarning, "here.py", 1, module="micro_sam.part")
        warnings.warn_explicit("deprecated", DeprecationWarning, "there.py", 1, module="numpy.part")

    assert _run(execute) == 0
    assert capsys.readouterr().err.splitlines() == ["tool: warning: five channels", "tool: warning: first three"]
    assert _run(execute, "-v") == 0
    assert "tool: not so important" in capsys.readouterr().err.splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")
def test_termination_cleans_up(tmp_path):
    code = """
import sys, time
from pathlib import Path
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.io.paths import replacing
parser = Parser(prog="tool"); add_common_flags(parser)
def execute(args):
    with replacing(Path("out.txt")) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
sys.exit(run_command(parser, execute, []))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"interrupted" in err
    assert list(tmp_path.iterdir()) == []
