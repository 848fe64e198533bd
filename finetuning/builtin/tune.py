"""Find post-processing defaults: the AIS parameters with the best mean mSA on validation images.

    python finetuning/builtin/tune.py --data DATA --folders dsb2018 [--limit 20]

The decoder runs once per image; only the watershed is repeated.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from report import validation_images

from micro_sam.automatic_segmentation import get_predictor_and_segmenter
from micro_sam.evaluation.evaluation import segmentation_scores

GRID = {
    "center_distance_threshold": (0.5, 0.6, 0.7),
    "boundary_distance_threshold": (0.5, 0.6, 0.7),
    "foreground_threshold": (0.5, 0.6, 0.7, 0.75),
    "distance_smoothing": (0.6, 1.0, 1.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folders", nargs="+", default=["dsb2018"])
    parser.add_argument("--model", default="vit_t_builtin")
    parser.add_argument("--limit", type=int, default=20, help="images per folder")
    args = parser.parse_args()
    _, segmenter = get_predictor_and_segmenter(args.model, segmentation_mode="ais")
    settings = [dict(zip(GRID, values)) for values in itertools.product(*GRID.values())]
    scores = {folder: np.zeros(len(settings)) for folder in args.folders}
    for folder in args.folders:
        images = list(validation_images(args.data / folder, args.limit))
        for _, image, labels in images:
            segmenter.initialize(image)
            for index, chosen in enumerate(settings):
                prediction = segmenter.generate(min_size=25, **chosen)
                scores[folder][index] += segmentation_scores(prediction, labels)["mSA"] / len(images)
    mean = np.mean(list(scores.values()), axis=0)
    for index in np.argsort(-mean)[:8]:
        each = " ".join(f"{folder} {rows[index]:.3f}" for folder, rows in scores.items())
        print(f"{mean[index]:.3f}  {each}  {settings[index]}")


if __name__ == "__main__":
    main()
