"""What a training tells while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..progress import Progress


@dataclass(frozen=True)
class TrainingProgress(Progress):
    """A step of a training, with the numbers for its curves.

    Attributes:
        losses: The losses of the batch by name; empty at the end of an epoch.
        scores: The validation scores at the end of an epoch by name; "metric" is the one that decides, smaller is better.
        is_best: Whether this is the end of the best epoch so far.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False


def read_past(folder: str | os.PathLike) -> list[TrainingProgress]:
    """The ends of the epochs that a training in a checkpoint folder has behind it, from its ``metrics.json``."""
    path = Path(folder, "metrics.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["epochs"] if path.exists() else []
    past, best = [], float("inf")
    for row in rows:
        kinds = [
            {k.removeprefix(f"{kind}_"): v for k, v in row.items() if k.startswith(f"{kind}_") and v is not None}
            for kind in ("train", "validation")
        ]
        metric = kinds[1].get("metric", float("inf"))
        past.append(
            TrainingProgress(row["iteration"], row["iteration"], f"Epoch {row['epoch']}", *kinds, metric < best)
        )
        best = min(best, metric)
    return past
