"""Write the weights that ship with the package from training checkpoints: their running averages, in float16.

python finetuning/builtin/export.py --work WORK [WORK ...] --output micro_sam/models/weights/vit_t_builtin.pt

The mean of several runs that began with the same weights, or went on from each other, is often better than each of them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch


def export(checkpoints: Sequence[Path], output: Path) -> None:
    """One file with ``model_state`` (flat Segment Anything names), ``decoder_state`` and ``metadata``."""
    states = [torch.load(checkpoint, map_location="cpu", weights_only=True) for checkpoint in checkpoints]
    state = max(states, key=lambda state: state["step_index"])
    averages = [other["average"] for other in states]
    half = {
        name: {key: _mean([average[name][key] for average in averages]) for key in weights}
        for name, weights in state["average"].items()
    }
    metadata = {
        "name": "vit_t_builtin",
        "encoder": "vit_t",
        "steps": state["step_index"],
        "averaged": sorted(other["step_index"] for other in states),
        "minutes": round(state["seconds"] / 60, 1),
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in state["settings"].items()},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    torch.save({"model_state": half["sam"], "decoder_state": half["decoder"], "metadata": metadata}, part)
    os.replace(part, output)


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of parameters in float16; of whole numbers the last."""
    return torch.stack(tuple(values)).mean(0).half() if values[0].is_floating_point() else values[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, nargs="+", required=True, help="folders with latest.pt")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    export([work / "latest.pt" for work in args.work], args.output)


if __name__ == "__main__":
    main()
