"""Write the weights that ship with the package from training checkpoints: their running averages, in float16.

    python finetuning/builtin/export.py --work WORK [WORK ...] --output micro_sam/models/weights/vit_t_builtin.pt

The mean of several runs that began with the same weights, or went on from each other, is often better than each of them.
So is, at times, a share of the last weights (``--last``), or, where prompts are answered, of the exported
ones that the run began with (``--began-with``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

PARTS = {"sam": "model_state", "decoder": "decoder_state"}
"""The networks' names in checkpoints of the training, and in exported files."""


def export(
    checkpoints: Sequence[Path],
    output: Path,
    last: float = 0.0,
    began_with: Path | None = None,
    began_with_share: float = 0.0,
) -> None:
    """One file with ``model_state`` (flat Segment Anything names), ``decoder_state`` and ``metadata``.

    Args:
        checkpoints: Of runs that went on from each other or began with the same weights.
        output: The file to write.
        last: Share of each run's last weights; the rest is its running average.
        began_with: Exported weights that take part in the prompt encoder and the mask decoder.
        began_with_share: Their share of these.
    """
    states = [torch.load(checkpoint, map_location="cpu", weights_only=True) for checkpoint in checkpoints]
    state = max(states, key=lambda state: state["step_index"])
    members = [((1 - last) / len(states), other["average"]) for other in states]
    members += [(last / len(states), other["modules"]) for other in states]
    shares = [share for share, _ in members]
    half = {
        part: {key: _mean(shares, [weights[name][key] for _, weights in members]) for key in state["average"][name]}
        for name, part in PARTS.items()
    }
    if began_with is not None:
        first = torch.load(began_with, map_location="cpu", weights_only=True)["model_state"]
        kept = (1 - began_with_share, began_with_share)
        prompted = {k: v for k, v in half["model_state"].items() if not k.startswith("image_encoder.")}
        half["model_state"] |= {key: _mean(kept, (value, first[key])) for key, value in prompted.items()}
    metadata = {
        "name": "vit_t_builtin",
        "encoder": "vit_t",
        "steps": state["step_index"],
        "averaged": sorted(other["step_index"] for other in states),
        "last": last,
        "began_with": began_with_share,
        "minutes": round(state["seconds"] / 60, 1),
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in state["settings"].items()},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    torch.save({**half, "metadata": metadata}, part)
    os.replace(part, output)


def _mean(shares: Sequence[float], values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weighted mean of parameters in float16; of whole numbers (counts of steps) the largest."""
    if not values[0].is_floating_point():
        return torch.stack(tuple(values)).amax(0)
    return sum(share * value.float() for share, value in zip(shares, values)).half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, nargs="+", required=True, help="folders with latest.pt")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--last", type=float, default=0.0, help="share of the last weights instead of their average")
    parser.add_argument("--began-with", nargs=2, metavar=("FILE", "SHARE"), help="exported weights to mix in")
    args = parser.parse_args()
    file, share = args.began_with or (None, 0.0)
    export([w / "latest.pt" for w in args.work], args.output, args.last, file and Path(file), float(share))


if __name__ == "__main__":
    main()
