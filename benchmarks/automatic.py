"""Automatic segmentation end to end: this package beside the public micro-sam package, same weights, one run.

    python benchmarks/automatic.py --reference-python OTHER_ENV/bin/python [--images a.tif b.tif]

OTHER_ENV is a virtual environment with `pip install micro-sam`. The same driver runs with both interpreters, through the
functions both packages have. The network is a vit_b whose encoder has random weights (its speed does not depend on them)
and whose prompt encoder and mask decoder are those of `vit_t_builtin`; for segmentation both get the embeddings and decoder
maps of `vit_t_builtin`, so that there are real objects to compare, while the vit_b encoder and the full UNETR decoder run
for the time. Printed: seconds (encoder plus segmentation), the ratio, and the mSA of our objects against theirs.
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

DRIVER = '''
import json, sys, time
from pathlib import Path
import numpy as np, torch

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
from micro_sam.instance_segmentation import (
    AutomaticMaskGenerator, AutomaticPromptGenerator, InstanceSegmentationWithDecoder, get_decoder)
from micro_sam.util import get_sam_model, precompute_image_embeddings

predictor = get_sam_model(model_type="vit_b", checkpoint_path=str(folder / "vit_b.pth"), device="cpu")
unetr = get_decoder(predictor.model.image_encoder, torch.load(folder / "decoder.pth", weights_only=True), device="cpu")


class Decoder(torch.nn.Module):
    """Runs the full decoder for its time and returns maps of real objects."""

    def forward(self, *args, **kwargs):
        unetr(*args, **kwargs)
        return self.maps


seconds = {}
for path in sorted(folder.glob("image_*.npz")):
    data = np.load(path)
    embeddings = {"features": data["features"], "input_size": tuple(data["input_size"].tolist()),
                  "original_size": tuple(data["original_size"].tolist())}
    decoder = Decoder()
    decoder.maps = torch.from_numpy(data["maps"])
    start = time.perf_counter()
    precompute_image_embeddings(predictor, data["image"], ndim=2, verbose=False)
    row = {"encoder": time.perf_counter() - start}
    modes = {"amg": (AutomaticMaskGenerator(predictor), {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.6}),
             "ais": (InstanceSegmentationWithDecoder(predictor, decoder), {}),
             "apg": (AutomaticPromptGenerator(predictor, decoder), {})}
    for mode, (segmenter, settings) in modes.items():
        start = time.perf_counter()
        segmenter.initialize(data["image"], image_embeddings=embeddings)
        labels = segmenter.generate(**settings)
        row[mode] = row["encoder"] + time.perf_counter() - start
        if not isinstance(labels, np.ndarray):
            from micro_sam.util import mask_data_to_segmentation
            labels = mask_data_to_segmentation(labels, shape=data["image"].shape[:2])
        np.save(out / f"{path.stem}_{mode}.npy", np.asarray(labels).astype(np.uint32))
    seconds[path.stem] = row
(out / "seconds.json").write_text(json.dumps(seconds))
'''


def prepare(folder: Path, images: list[np.ndarray]) -> None:
    """Write the network, and for each image its embedding and decoder maps."""
    import torch

    from micro_sam.instance_segmentation import InstanceSegmentationWithDecoder, get_predictor_and_decoder
    from micro_sam.models.build_sam import build_sam_vit_b
    from micro_sam.models.decoder import UNETRDecoder
    from micro_sam.util import precompute_image_embeddings

    torch.manual_seed(0)
    predictor, decoder = get_predictor_and_decoder("vit_t_builtin", device="cpu")
    weights = build_sam_vit_b().state_dict()
    trained = predictor.model.state_dict()
    weights |= {k: v for k, v in trained.items() if not k.startswith("image_encoder.")}
    torch.save({k: v.float().contiguous() for k, v in weights.items()}, folder / "vit_b.pth")
    torch.save(UNETRDecoder().state_dict(), folder / "decoder.pth")
    segmenter = InstanceSegmentationWithDecoder(predictor, decoder)
    for index, image in enumerate(images):
        embeddings = precompute_image_embeddings(predictor, image, ndim=2, verbose=False)
        segmenter.initialize(image, image_embeddings=embeddings)
        state = segmenter.get_state()
        maps = np.stack([state[k] for k in ("foreground", "center_distances", "boundary_distances")])[None]
        sizes = {k: np.array(embeddings[k]) for k in ("input_size", "original_size")}
        features = np.asarray(embeddings["features"])
        np.savez(folder / f"image_{index}.npz", image=image, maps=maps, features=features, **sizes)


def run(python: str, folder: Path, name: str) -> Path:
    """Run the driver by an interpreter, outside of this source tree."""
    out = folder / name
    out.mkdir()
    (folder / "driver.py").write_text(DRIVER)
    environment = os.environ | {"MICROSAM_CACHEDIR": str(folder / "cache")}
    subprocess.run(
        [python, "-W", "ignore", "driver.py", str(folder), str(out)], check=True, cwd=folder, env=environment
    )
    return out


def report(ours: Path, theirs: Path) -> None:
    """Print a row per mode: means over the images."""
    from micro_sam.evaluation.evaluation import segmentation_scores

    seconds = [json.loads((out / "seconds.json").read_text()) for out in (ours, theirs)]
    print(f"{'mode':8} {'ours s':>8} {'public s':>9} {'ratio':>6} {'objects':>9} {'public':>7} {'matched mSA':>12}")
    for mode in ("encoder", "amg", "ais", "apg"):
        mine, other = (np.mean([row[mode] for row in rows.values()]) for rows in seconds)
        line = f"{mode:8} {mine:8.2f} {other:9.2f} {other / mine:6.1f}"
        if mode != "encoder":
            pairs = [[np.load(out / f"{name}_{mode}.npy") for out in (ours, theirs)] for name in seconds[0]]
            counts = [np.mean([len(np.unique(pair[i])) - 1 for pair in pairs]) for i in (0, 1)]
            matched = np.mean([segmentation_scores(a, b)["mSA"] for a, b in pairs])
            line += f" {counts[0]:9.1f} {counts[1]:7.1f} {matched:12.3f}"
        print(line)


def load_images(paths: list[Path]) -> list[np.ndarray]:
    """The given images, or two synthetic ones."""
    from micro_sam.io import load_image_data
    from micro_sam.sample_data import synthetic_data

    if paths:
        return [np.asarray(load_image_data(str(path))) for path in paths]
    return [synthetic_data((1024, 1024), seed=s, diameter=70, density=0.3)[0] for s in range(2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference-python", required=True, help="interpreter of an environment with micro-sam from PyPI"
    )
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="2d images; default: two synthetic ones")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, load_images(args.images))
        report(run(sys.executable, folder, "ours"), run(args.reference_python, folder, "public"))


if __name__ == "__main__":
    main()
