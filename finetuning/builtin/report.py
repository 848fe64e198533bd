"""Score a model on the validation folders: automatic segmentation (mSA, SA50) and answers to prompts (mean IoU).

    python finetuning/builtin/report.py --data DATA --output report.json [--model NAME] [--rows ais apg amg prompts]

Rows are added to the report if it is there already, so that the slow ones can be run on fewer images. Volumes are scored slice by slice; ids that come apart in a slice are separate objects there.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from skimage.measure import label

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.evaluation.evaluation import segmentation_scores
from micro_sam.evaluation.interactive import interactive_ious
from micro_sam.util import get_sam_model, precompute_image_embeddings, set_precomputed

logger = logging.getLogger("report")

MAX_OBJECTS = 40
"""Of an image with more objects, a part is prompted."""


def validation_images(folder: Path, limit: int | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and labels of every image, or of up to ten evenly spread slices of a volume."""
    paths = sorted((folder / "val").glob("*_image.tif"))
    for path in paths[:: max(1, len(paths) // limit) if limit else 1][:limit]:
        image, labels = (tifffile.imread(path.with_name(path.name.replace("_image", k))) for k in ("_image", "_labels"))
        if labels.ndim == 2:
            yield path.stem, image, labels
            continue
        for z in np.unique(np.linspace(0, len(labels) - 1, min(10, limit or 10)).astype(int)):
            yield f"{path.stem}-{z}", image[z], label(labels[z], connectivity=1).astype(np.uint32)


def score_automatic(model: str, mode: str, images: list, **settings) -> dict[str, float]:
    """Mean scores of one mode, and seconds per image."""
    predictor, segmenter = get_predictor_and_segmenter(model, segmentation_mode=mode)
    start = time.perf_counter()
    predictions = [
        automatic_instance_segmentation(predictor, segmenter, image, ndim=2, verbose=False, **settings)
        for _, image, _ in images
    ]
    seconds = (time.perf_counter() - start) / len(images)
    scores = [segmentation_scores(p.astype(np.uint32), gt) for p, (_, _, gt) in zip(predictions, images)]
    return {k: float(np.mean([s[k] for s in scores])) for k in ("mSA", "SA50")} | {"seconds": seconds}


def score_prompts(model: str, images: list, n_corrections: int = 3) -> dict[str, float]:
    """Mean IoU over the prompted objects, for a box and for a point, first answer and after corrections."""
    predictor = get_sam_model(model)
    ious: dict[str, list[np.ndarray]] = {"box": [], "point": []}
    for _, image, labels in images:
        set_precomputed(predictor, precompute_image_embeddings(predictor, image, ndim=2, verbose=False))
        for start, rows in ious.items():
            rows.append(interactive_ious(predictor, labels, start, n_corrections, max_objects=MAX_OBJECTS))
    means = {start: np.concatenate(rows).mean(0) for start, rows in ious.items()}
    return {
        f"{start}{'' if k == 0 else f'+{k}'}": float(mean[k])
        for start, mean in means.items()
        for k in (0, n_corrections)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="vit_t_builtin")
    parser.add_argument("--folders", nargs="*", help="which data sets; default: all that have a val folder")
    parser.add_argument("--rows", nargs="*", default=["ais", "apg", "amg", "prompts"])
    parser.add_argument("--limit", type=int, help="images (and slices of a volume) per folder")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folders = args.folders or sorted(p.parent.name for p in args.data.glob("*/val"))
    report = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in folders:
        images = list(validation_images(args.data / name, args.limit))
        for row in args.rows:
            scores = score_prompts(args.model, images) if row == "prompts" else score_automatic(args.model, row, images)
            report.setdefault(name, {})[row] = {"images": len(images), **scores}
            logger.info("%s %s %s", name, row, json.dumps(report[name][row]))
            args.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
