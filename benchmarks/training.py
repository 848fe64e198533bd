"""Seconds per training step and peak memory, beside the public micro-sam package with the same weights and loader.

    python benchmarks/training.py [--public SITE] [--encoder vit_b] [--patch 512] [--objects 25] [--rounds 8] [--steps 3]

SITE is a Python environment's interpreter with the public package. Each package trains in a process of its own on the
same synthetic patches; the first step is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_WORKER = r'''
import json, resource, sys, time
import torch
given = json.loads(sys.argv[1])
sys.path[:0] = given["path"]
torch.set_num_threads(given["threads"])

class Patches(torch.utils.data.Dataset):
    """The same patches for both packages."""
    ndim = 2
    def __init__(self, n):
        self.items = torch.load(given["patches"])
        self.n = n
        self.times = []  # a step begins when its patch is asked for
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        self.times.append([time.perf_counter(), time.process_time()])
        return self.items[i % len(self.items)]

def loader(n):
    made = torch.utils.data.DataLoader(Patches(n), batch_size=1)
    made.shuffle = False
    return made

from micro_sam.training import train_sam
train_loader = loader(given["steps"])
train_sam(
    name="benchmark", model_type=given["encoder"], train_loader=train_loader, val_loader=loader(1),
    checkpoint_path=given["checkpoint"], n_iterations=given["steps"], n_objects_per_batch=given["objects"],
    n_sub_iteration=given["rounds"], save_root=given["root"], device=given["device"],
    verify_n_labels_in_loader=None, image_size=given["image_size"], **given["options"],
)
print(json.dumps({"times": train_loader.dataset.times, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
'''


def make_patches(path: Path, side: int) -> None:
    """Two patches with targets, as the loaders of both packages give them."""
    import torch

    from micro_sam.sample_data import synthetic_data
    from micro_sam.training.label_transform import InstanceTargets

    items = []
    for seed in range(2):
        raw, labels = synthetic_data((side, side), seed=seed, kind="nuclei", diameter=side / 16)
        targets = InstanceTargets(with_maps=True)(labels.astype("int64")).clip(min=0)
        items.append((torch.from_numpy(raw).float()[None].repeat(3, 1, 1), torch.from_numpy(targets)))
    torch.save(items, path)


def measure(python: str, path: list[str], given: dict, options: dict) -> tuple[float, float, float]:
    """Median seconds and CPU seconds of a step, and peak memory in GiB."""
    arguments = json.dumps({**given, "path": path, "options": options})
    result = subprocess.run(
        [python, "-c", _WORKER, arguments], capture_output=True, text=True, check=False, cwd=given["root"]
    )
    if result.returncode:
        raise SystemExit(result.stderr[-2000:])
    found = json.loads(result.stdout.strip().splitlines()[-1])
    gaps = [[b - a for a, b in zip(*pair)] for pair in itertools.pairwise(found["times"])]
    wall, cpu = (statistics.median(gap[i] for gap in gaps) for i in range(2))
    return wall, cpu, found["memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", help="Python interpreter that has the public package")
    parser.add_argument("--public_path", help="folder in which the public package lies, put before the search path")
    parser.add_argument("--encoder", default="vit_b")
    parser.add_argument("--patch", type=int, default=512)
    parser.add_argument("--objects", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--image_size", type=int, default=1024, help="side of the encoder's frame; smaller is cheaper")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--few_rounds", action="store_true", help="measure training with 2 rounds with gradients, too")
    parser.add_argument("--save_memory", action="store_true", help="measure activation checkpointing, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _prepare(root, args)
        given = {
            "encoder": args.encoder, "patches": str(root / "patches.pt"), "checkpoint": str(root / "sam.pt"),
            "root": folder, "steps": args.steps, "image_size": args.image_size, "objects": args.objects, "rounds": args.rounds,
            "device": args.device, "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        }  # fmt: skip
        rows = [("this package", measure(sys.executable, [], given, {}))]
        more = {"2 rounds with gradients": {"n_gradient_rounds": 2}} if args.few_rounds else {}
        more |= {"saving memory": {"activation_checkpointing": True}} if args.save_memory else {}
        rows += [
            (f"this package, {name}", measure(sys.executable, [], given, options)) for name, options in more.items()
        ]
        if args.public or args.public_path:
            path = [args.public_path] if args.public_path else []
            rows.append(("public package", measure(args.public or sys.executable, path, given, {})))
    last = rows[-1][1]
    for name, (wall, cpu, memory) in rows:
        times = f"{wall:7.2f} s ({cpu:.2f} s CPU) a step   {memory:5.1f} GiB"
        print(f"{name:40s} {times}   x {last[0] / wall:.2f} (CPU x {last[1] / cpu:.2f})")


def _prepare(root: Path, args: argparse.Namespace) -> None:
    import torch

    from micro_sam.models.build_sam import build_sam

    torch.manual_seed(0)
    torch.save(build_sam(args.encoder, image_size=args.image_size).state_dict(), root / "sam.pt")
    make_patches(root / "patches.pt", args.patch)


if __name__ == "__main__":
    main()
