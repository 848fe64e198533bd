"""How long commands and imports take to start and how much memory they hold, beside the eager imports they avoid.

    python benchmarks/startup.py [--repeat 5]

Each row is a fresh process; the fastest of the repeats is shown, with the largest resident memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A thing to start: its name, the arguments for Python, and the limit in seconds it should stay below."""

    name: str
    arguments: tuple[str, ...]
    limit: float | None = None


_COMMANDS = ("automatic_segmentation", "precompute_embeddings", "info")
CASES = (
    Case("python (does nothing)", ("-c", "pass")),
    *(Case(f"micro_sam.{name} --help", ("-m", f"micro_sam.cli.{name}", "--help"), 1.0) for name in _COMMANDS),
    Case(
        "unknown flag (an error)", ("-m", "micro_sam.cli.automatic_segmentation", "-i", "x", "-o", "y", "--oops"), 1.0
    ),
    Case("import micro_sam", ("-c", "import micro_sam"), 1.5),
    Case("import micro_sam.util", ("-c", "import micro_sam.util"), 1.5),
    Case("util.get_sam_model (loads torch)", ("-c", "import micro_sam.util as util; util.get_sam_model")),
    Case("eager: torch", ("-c", "import torch")),
    Case(
        "eager: torch, torch_em, elf, napari", ("-c", "import torch, torch_em, elf.io, napari.layers, skimage.measure")
    ),
)


def measure(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Wall time in seconds and largest resident memory in MB of a Python process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="How often each is started.")
    repeat = parser.parse_args().repeat
    print(f"{'start':44} {'seconds':>8} {'limit':>6} {'MB':>6}")
    for case in CASES:
        measure(case.arguments)  # files into the cache of the system
        runs = [measure(case.arguments) for _ in range(repeat)]
        limit = "" if case.limit is None else f"{case.limit:.1f}"
        print(f"{case.name:44} {min(s for s, _ in runs):8.2f} {limit:>6} {max(m for _, m in runs):6.0f}")


if __name__ == "__main__":
    main()
