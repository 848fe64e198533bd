"""Objects followed through a volume: this package beside the public micro-sam package, same weights, one run.

    python benchmarks/propagation.py --reference-python OTHER_ENV/bin/python [--objects 10] [--slices 9]

OTHER_ENV is a virtual environment with `pip install micro-sam`. Both packages get a vit_b whose encoder has random weights
(it does not run here) and whose prompt encoder and mask decoder are those of `vit_t_builtin`, the embeddings that
`vit_t_builtin` computes for a synthetic volume, and the true masks of the middle slice. The volume is one image of nuclei
that drifts from slice to slice, so that every object is in every slice, and no object ends early: the IoU threshold is 0.

Printed: milliseconds per slice for one object, by `segment_mask_in_volume` of both; for all objects, one after another by
both, and together by ours; and for each the mean IoU with the truth in the slices that were not given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PROJECTIONS = ("mask", "box", "points")

DRIVER = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from micro_sam.util import get_sam_model
from micro_sam.multi_dimensional_segmentation import segment_mask_in_volume

folder, out, repeats = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
projections = sys.argv[4].split(",")
torch.set_num_threads(int(sys.argv[5]))
clock = time.process_time if sys.argv[7] == "cpu" else time.perf_counter
data = np.load(folder / "data.npz")
predictor = get_sam_model(model_type="vit_b", checkpoint_path=str(folder / "vit_b.pth"), device="cpu")
embeddings = {"features": data["features"], "input_size": tuple(data["input_size"].tolist()),
              "original_size": tuple(data["original_size"].tolist())}
labels, middle = data["labels"], len(data["labels"]) // 2
ids = [int(i) for i in data["ids"]]


def start(i):
    segmentation = np.zeros(labels.shape, dtype=np.uint32)
    segmentation[middle] = i * (labels[middle] == i)
    return segmentation


def one(i, projection):
    segmentation = (start(i) > 0).astype(np.uint32)
    before = clock()
    found = segment_mask_in_volume(segmentation, predictor, embeddings, np.array([middle]), stop_lower=False,
                                   stop_upper=False, iou_threshold=0.0, projection=projection)[0]
    return clock() - before, found > 0


def together(projection):
    segmentation = sum(start(i) for i in ids)
    before = clock()
    found = segment_mask_in_volume(segmentation, predictor, embeddings, np.array([middle]), stop_lower=False,
                                   stop_upper=False, iou_threshold=0.0, projection=projection)[0]
    return clock() - before, [found == i for i in ids]


def score(masks):
    rest = [z for z in range(len(labels)) if z != middle]
    pairs = [(m[z], labels[z] == i) for m, i in zip(masks, ids) for z in rest]
    return float(np.mean([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs]))


one(ids[0], "box")
rows = {}
for projection in projections:
    row = rows[projection] = {}
    results = [one(i, projection) for i in ids]
    row["singles"] = [seconds for seconds, _ in results]
    row["single IoU"] = score([found for _, found in results])
    row["one"] = min(one(ids[0], projection)[0] for _ in range(repeats))
    if sys.argv[6] == "together":
        runs = [together(projection) for _ in range(repeats)]
        row["together"] = min(seconds for seconds, _ in runs)
        row["together IoU"] = score(runs[0][1])
(out / "result.json").write_text(json.dumps(rows))
"""


def make_volume(n_objects: int, depth: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A volume of nuclei that drift by a pixel from slice to slice, its labels, and the ids of the largest objects."""
    from micro_sam.sample_data import synthetic_data

    image, labels = synthetic_data((512 + depth, 512 + depth), seed=0, diameter=60, density=0.35)
    windows = [(slice(z, z + 512), slice(z, z + 512)) for z in range(depth)]
    volume, truth = np.stack([image[w] for w in windows]), np.stack([labels[w] for w in windows])
    sizes = np.min([np.bincount(plane.ravel(), minlength=int(labels.max()) + 1) for plane in truth], axis=0)
    sizes[0] = 0
    return volume, truth, np.argsort(-sizes)[:n_objects].tolist()


def prepare(folder: Path, n_objects: int, depth: int) -> None:
    """Write the network, the embeddings and the truth."""
    import torch

    from micro_sam.models.build_sam import build_sam_vit_b
    from micro_sam.util import get_sam_model, precompute_image_embeddings

    torch.manual_seed(0)
    predictor = get_sam_model("vit_t_builtin", device="cpu")
    weights = build_sam_vit_b().state_dict()
    trained = predictor.model.state_dict()
    weights |= {k: v for k, v in trained.items() if not k.startswith("image_encoder.")}
    torch.save({k: v.float().contiguous() for k, v in weights.items()}, folder / "vit_b.pth")
    volume, labels, ids = make_volume(n_objects, depth)
    embeddings = precompute_image_embeddings(predictor, volume, ndim=3, verbose=False)
    sizes = {k: np.array(embeddings[k]) for k in ("input_size", "original_size")}
    np.savez(folder / "data.npz", labels=labels, ids=ids, features=np.asarray(embeddings["features"]), **sizes)


def run(python: str, folder: Path, name: str, args: argparse.Namespace, how: str) -> dict:
    """Run the driver by an interpreter, outside of this source tree."""
    out = folder / name
    out.mkdir()
    (folder / "driver.py").write_text(DRIVER)
    environment = os.environ | {"MICROSAM_CACHEDIR": str(folder / "cache")}
    command = [python, "-W", "ignore", "driver.py", folder, out, args.repeats, ",".join(args.projections), args.threads]
    subprocess.run([str(part) for part in [*command, how, args.clock]], check=True, cwd=folder, env=environment)
    return json.loads((out / "result.json").read_text())


def report(ours: dict, public: dict, steps: int) -> None:
    """Print a row per projection; times in milliseconds per slice."""
    print(f"{'':16} {'one object':^28} | {'all objects':^66} | {'mean IoU':^24}")
    print(
        f"{'projection':16} {'public':>9} {'ours':>9} {'ratio':>8} | {'public':>10} {'ours 1 by 1':>12} {'together':>9}"
        f" {'vs public':>10} {'vs ours 1 by 1':>15} {'':>5} | {'public':>7} {'1 by 1':>7} {'together':>8}"
    )
    for projection, mine in ours.items():
        other, ms = public[projection], 1000 / steps
        each, alone = sum(other["singles"]), sum(mine["singles"])
        print(
            f"{projection:16} {other['one'] * ms:9.1f} {mine['one'] * ms:9.1f} {other['one'] / mine['one']:8.1f} |"
            f" {each * ms:10.1f} {alone * ms:12.1f} {mine['together'] * ms:9.1f} {each / mine['together']:10.1f}"
            f" {alone / mine['together']:15.1f} {'':>5} | {other['single IoU']:7.3f} {mine['single IoU']:7.3f}"
            f" {mine['together IoU']:8.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference-python", required=True, help="interpreter of an environment with micro-sam from PyPI"
    )
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--slices", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for a machine that is busy otherwise",
    )
    parser.add_argument("--projections", nargs="+", default=list(PROJECTIONS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.objects, args.slices)
        ours = run(sys.executable, folder, "ours", args, "together")
        public = run(args.reference_python, folder, "public", args, "singly")
        report(ours, public, args.slices - 1)


if __name__ == "__main__":
    main()
