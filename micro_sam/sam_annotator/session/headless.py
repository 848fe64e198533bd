"""Make the labels of a journal again, without a window."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from micro_sam.sam_annotator.session.journal import read_journal
from micro_sam.sam_annotator.session.kinds import state_for
from micro_sam.sam_annotator.session.prompts import Prompts
from micro_sam.sam_annotator.session.state import AUTO, COMMITTED, CURRENT


@dataclass(frozen=True, eq=False)
class Replayed:
    """What a journal leads to.

    Attributes:
        committed: The committed labels.
        current: The current object.
        auto: The automatic segmentation.
        prompts: The prompts that were not committed yet.
        origins: For committed objects the prompts they were made with.
        header: What the journal says about image, model and version.
        lineages: Of a time series, one dict per family: track -> daughters.
    """

    committed: np.ndarray
    current: np.ndarray
    auto: np.ndarray
    prompts: Prompts
    origins: dict[int, Prompts]
    header: dict[str, Any]
    lineages: list[dict[int, list[int]]] = field(default_factory=list)


def replay(folder: str | os.PathLike) -> Replayed:
    """Make the labels again from a journal's record of what was done.

    Args:
        folder: The journal.

    Raises:
        InputError: It cannot be read.
    """
    records = read_journal(folder)
    state = state_for(records[0].content)
    state.replay(records)
    labels = state.labels
    header = dict(records[0].content)
    lineages = state.lineages() if hasattr(state, "lineages") else []
    return Replayed(labels[COMMITTED], labels[CURRENT], labels[AUTO], state.prompts, state.origins, header, lineages)
