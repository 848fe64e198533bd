"""How a person wants to work."""

from __future__ import annotations

import os
from dataclasses import dataclass

from micro_sam.errors import ParameterError
from micro_sam.sam_annotator.session import edits


@dataclass(frozen=True)
class Options:
    """How a person wants to work.

    Attributes:
        batched: Each positive point is an object of its own.
        live: Show the mask as soon as prompts change.
        tidy: Leave out parts of a mask away from the positive points.
        preserve_mode: What a commit may overwrite: "objects", "pixels" or "none".
        preservation_threshold: For "objects": which covered fraction keeps an object from being committed.
        commit_path: Where committed objects are saved after every commit; None for nowhere.
    """

    batched: bool = False
    live: bool = True
    tidy: bool = True
    preserve_mode: edits.PreserveMode = "objects"
    preservation_threshold: float = 0.75
    commit_path: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if self.preserve_mode not in edits.PRESERVE_MODES:
            modes = ", ".join(edits.PRESERVE_MODES)
            raise ParameterError(f"preserve_mode is one of {modes}, got {self.preserve_mode!r}.")
        if not 0 <= self.preservation_threshold <= 1:
            raise ParameterError(f"preservation_threshold is between 0 and 1, got {self.preservation_threshold}.")
        if self.commit_path is not None:  # a script may give a Path
            object.__setattr__(self, "commit_path", os.fspath(self.commit_path))
