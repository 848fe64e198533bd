"""Two copies of LLVM in one process do not get along: Mesa's, which draws the window, and the one inside Triton.

Loading Triton after Mesa's LLVM ends the process with a segmentation fault. torchvision loads Triton on import (through
torch._dynamo, which does without it just as well), so that opening an annotator from the Plugins menu of a running
napari would crash wherever Mesa draws: without a GPU driver, on AMD, and in remote desktops.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)


def keep_triton_out() -> bool:
    """Keep Triton from being loaded if Mesa's LLVM is there already; True if that was needed.

    Only ``torch.compile`` for GPUs needs Triton, and nothing in a window uses it.
    """
    if "triton" in sys.modules or not _mesa_has_llvm():
        return False
    logger.debug("Mesa uses LLVM in this process, so Triton is not loaded.")
    sys.modules["triton"] = None  # type: ignore[assignment]
    return True


def _mesa_has_llvm() -> bool:
    try:
        return "libLLVM" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
