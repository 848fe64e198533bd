"""``micro_sam.info``: what is installed, what it computes on, which models are there, and what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from micro_sam.cli.runner import Parser, add_common_flags, run_command

_DESCRIPTION = """\
Show the version, the device and why it was chosen, the cache, every model and whether it is already there, and what is
wrong with the installation and how to mend it."""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(prog="micro_sam.info", description=_DESCRIPTION)
    add_common_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), execute, argv)


def execute(args: argparse.Namespace) -> None:
    """Print the report."""
    micro_sam_info()


def micro_sam_info() -> None:
    """Print the version, the device and why, the cache, the models, and what is wrong and how to mend it."""
    from micro_sam.health import report

    for line in report():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
