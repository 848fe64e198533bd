"""Objects followed through annotated volumes, and volumes segmented automatically: scores of every method, one command.

    python benchmarks/volumes.py --data FOLDER [--model vit_t_builtin] [--pictures FOLDER] [--only NAME ...]

FOLDER holds pairs <id>_image.tif and <id>_labels.tif (ZYX), in any folders below; those below a folder `val` are taken, or
all with --pattern. Printed for every volume:

- following: one object, and ten together, from their middle slice; mean IoU by the distance from that slice, the share of
  slices in which they are found, and how well the score of a slice tells its IoU (rank correlation);
- automatic: mSA, SA50 and the number of objects by AIS with linked slices, AIS in 3d, APG and AMG with linked slices, and
  which of these the default is; for comparison the mean mSA of single slices.

With --pictures a montage of slices is written for each: image with the outlines of truth and result.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

METHODS = {"ais slices": ("ais", "slices"), "ais volume": ("ais", "volume"), "apg slices": ("apg", "slices")}
METHODS["amg slices"] = ("amg", "slices")
PROJECTIONS = ("mask", "box", "points", "points_and_mask", "single_point")


def volumes(data: Path, pattern: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and labels of every annotated volume."""
    import tifffile

    for path in sorted(data.glob(pattern)):
        labels_path = path.with_name(path.name.replace("_image.tif", "_labels.tif"))
        with tifffile.TiffFile(path) as file:
            is_volume = len(file.series[0].shape) == 3 and file.series[0].shape[-1] > 4
        if is_volume and labels_path.exists():
            name = "/".join(path.relative_to(data).parts).replace("_image.tif", "")
            yield name, tifffile.imread(path), tifffile.imread(labels_path).astype(np.uint32)


def pick_objects(labels: np.ndarray, n: int) -> tuple[int, list[int]]:
    """The middle slice, and the objects in it that reach through most slices, of these the largest."""
    middle = len(labels) // 2
    ids, areas = np.unique(labels[middle], return_counts=True)
    extents = {int(i): int((labels == i).any(axis=(1, 2)).sum()) for i, a in zip(ids, areas) if i and a >= 100}
    area = dict(zip(ids.tolist(), areas.tolist()))
    return middle, sorted(extents, key=lambda i: (-extents[i], -area[i]))[:n]


def iou_table(found: np.ndarray, labels: np.ndarray, ids: list[int]) -> np.ndarray:
    """(objects, slices); NaN where an object is neither in the truth nor in the result."""
    table = np.full((len(ids), len(labels)), np.nan)
    for row, i in enumerate(ids):
        a, b = found == i, labels == i
        union = (a | b).sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            table[row] = np.where(union > 0, (a & b).sum(axis=(1, 2)) / union, np.nan)
    return table


def follow(predictor, embeddings, labels: np.ndarray, projections: list[str]) -> np.ndarray:
    """Print a row for one object and for ten, per projection; returns the ten of the first projection."""
    from scipy.stats import spearmanr

    from micro_sam.multi_dimensional_segmentation import PropagationSettings, propagate

    middle, ids = pick_objects(labels, 10)
    annotations = {i: {middle: labels[middle] == i} for i in ids}
    first = None
    print(f"  following from slice {middle}: objects {ids}")
    for projection in projections:
        for n in (1, len(ids)):
            some = dict(list(annotations.items())[:n])
            start = time.perf_counter()
            result = propagate(some, predictor, embeddings, PropagationSettings(projection))
            seconds = time.perf_counter() - start
            table = iou_table(result.segmentation, labels, list(some))
            others = np.arange(len(labels)) != middle
            known = np.isfinite(table) & others
            scores = result.score_table()[1]
            both = known & np.isfinite(scores)
            rank = spearmanr(scores[both], table[both]).statistic if both.sum() > 2 else float("nan")
            by_distance = [np.nanmean(table[:, abs(np.arange(len(labels)) - middle) == d]) for d in (1, 2, 4, 8)
                           if (abs(np.arange(len(labels)) - middle) == d).any()]  # fmt: skip
            print(
                f"  {projection:16} {n:2d} objects: IoU {np.nanmean(table[:, others]):.3f}, at distance 1, 2, 4, 8: "
                f"{' '.join(f'{value:.2f}' for value in by_distance)}; in {np.mean(both[known]):.0%} of slices; "
                f"score and IoU {rank:.2f}; {1000 * seconds / max(1, len(labels) - 1):.0f} ms per slice"
            )
            if first is None and n == len(ids):
                first = result.segmentation
        if projection == projections[0]:
            print("    IoU by slice, mean of ten:", " ".join(f"{value:.2f}" for value in np.nanmean(table, axis=0)))
            print("    IoU by slice, one object: ", " ".join(f"{value:.2f}" for value in table[0]))
    return first


def automatic(model: str, image: np.ndarray, labels: np.ndarray, store: Path, methods: list[str]) -> dict:
    """Print a row per method; returns the segmentations."""
    from micro_sam.automatic_segmentation import get_predictor_and_segmenter, model_defaults
    from micro_sam.evaluation.evaluation import segmentation_scores
    from micro_sam.multi_dimensional_segmentation import VolumeSettings, automatic_3d_segmentation
    from micro_sam.multi_dimensional_segmentation.automatic import choose_method

    found = {}
    for name in methods:
        mode, method = METHODS[name]
        predictor, segmenter = get_predictor_and_segmenter(model, segmentation_mode=mode)
        default = mode == "ais" and choose_method(VolumeSettings(), segmenter) == method
        start = time.perf_counter()
        found[name] = automatic_3d_segmentation(
            image,
            predictor,
            segmenter,
            store,
            verbose=False,
            volume_method=method,
            **model_defaults(predictor, segmenter),
        )
        seconds = time.perf_counter() - start
        scores = segmentation_scores(found[name], labels)
        planes = np.mean([segmentation_scores(a, b)["mSA"] for a, b in zip(found[name], labels)])
        print(
            f"  {name:12}{' (default)' if default else '':10} mSA {scores['mSA']:.3f} SA50 {scores['SA50']:.3f}, single slices "
            f"{planes:.3f}; {found[name].max()} objects, {len(np.unique(labels)) - 1} annotated; {seconds:.0f} s"
        )
        sys.stdout.flush()
    return found


def montage(path: Path, image: np.ndarray, labels: np.ndarray, found: np.ndarray, n: int = 4) -> None:
    """Write a picture: rows are slices, columns image, truth and result."""
    import imageio.v3 as iio

    from micro_sam.io import draw_overlay

    rows = []
    for z in np.linspace(0, len(image) - 1, n).round().astype(int):
        plane = image[z]
        tiles = [draw_overlay(plane, m[z]) for m in (np.zeros_like(labels), labels, found)]
        rows.append(np.concatenate(tiles, axis=1))
    stacked = np.concatenate(rows, axis=1 if image.shape[1] > 2 * image.shape[2] else 0)
    step = max(1, max(stacked.shape) // 2000)
    iio.imwrite(path, stacked[::step, ::step])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with annotated volumes")
    parser.add_argument("--pattern", default="**/val/*_image.tif")
    parser.add_argument("--model", default="vit_t_builtin")
    parser.add_argument("--embeddings", type=Path, help="keep the embeddings in this folder; they depend on the model")
    parser.add_argument("--pictures", type=Path, help="write montages to this folder")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--projections", nargs="*", choices=PROJECTIONS, default=list(PROJECTIONS))
    parser.add_argument("--slices", type=int, help="use at most so many slices of each volume")
    parser.add_argument("--only", nargs="+", default=[""], help="only volumes whose name contains one of these")
    args = parser.parse_args()
    from tempfile import TemporaryDirectory

    from micro_sam.util import get_sam_model, precompute_image_embeddings

    for folder in filter(None, (args.pictures, args.embeddings)):
        folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        for name, image, labels in volumes(args.data, args.pattern):
            if not any(part in name for part in args.only):
                continue
            image, labels = image[: args.slices], labels[: args.slices]
            print(f"{name}: {image.shape}, {len(np.unique(labels)) - 1} objects", flush=True)
            flat = name.replace("/", "_")
            store = (args.embeddings or Path(temporary)) / f"{flat}.zarr"
            predictor = get_sam_model(args.model)
            embeddings = precompute_image_embeddings(predictor, image, store, lazy_loading=True, ndim=3, verbose=False)
            pictures = {}
            if args.projections:
                pictures["following"] = follow(predictor, embeddings, labels, args.projections)
            pictures |= automatic(args.model, image, labels, store, args.methods)
            for what, found in pictures.items():
                if args.pictures:
                    montage(args.pictures / f"{flat}_{what.replace(' ', '_')}.png", image, labels, found)


if __name__ == "__main__":
    main()
