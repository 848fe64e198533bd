"""Write the weights that ship with the package from a training checkpoint: the running average, in float16.

python finetuning/builtin/export.py --work WORK --output micro_sam/models/weights/vit_t_builtin.pt
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch


def export(checkpoint: Path, output: Path) -> None:
    """One file with ``model_state`` (flat Segment Anything names), ``decoder_state`` and ``metadata``."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    half = {
        name: {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        for name, weights in state["average"].items()
    }
    metadata = {
        "name": "vit_t_builtin",
        "encoder": "vit_t",
        "steps": state["step_index"],
        "minutes": round(state["seconds"] / 60, 1),
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in state["settings"].items()},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    torch.save({"model_state": half["sam"], "decoder_state": half["decoder"], "metadata": metadata}, part)
    os.replace(part, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with latest.pt")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    export(args.work / "latest.pt", args.output)


if __name__ == "__main__":
    main()
