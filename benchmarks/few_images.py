"""How much a model learns from 1, 2, 5 or 10 images, by full, decoder-only and LoRA finetuning: table and plot.

    python benchmarks/few_images.py --image VOLUME.tif --labels LABELS.tif --output FOLDER [--minutes 5]
        [--steps 24] [--frame 512] [--counts 1 2 5 10] [--methods full decoder lora] [--model vit_t_builtin]

The images are slices of an annotated volume (ZYX) the model has never seen, or the images of a folder pair. The last third is
kept for the test and looked at by nothing else; training images are spread over the first half, so that a slice of the
test is no neighbour of one that was trained on. Every run has the same time, or the same number of steps. The best
checkpoint and the post-processing parameters are chosen on the training images alone. In a smaller frame the network sees
a part of an image, magnified as the whole image is in use: steps are faster in proportion to the area. Runs that are
finished are not done again; a run that was killed goes on where it was. The untouched model is scored on the same test.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.evaluation.evaluation import segmentation_scores
from micro_sam.evaluation.interactive import interactive_ious
from micro_sam.io import replacing
from micro_sam.models.build_sam import IMAGE_SIZE
from micro_sam.training import TrainingData, TrainingSettings, run_training
from micro_sam.training.progress import TrainingProgress
from micro_sam.util import load_image_data, precompute_image_embeddings, set_precomputed

METHODS = {
    "full": {"learning_rate": 2e-4},
    "decoder": {"learning_rate": 2e-4, "freeze": ("image_encoder",)},
    "lora": {"learning_rate": 5e-4, "peft": "lora", "peft_rank": 8},
}
SCORES = {"AIS mSA": "mSA of automatic segmentation", "box": "IoU from one box", "point": "IoU from one point"}

_MANY = 100_000


def split(image: np.ndarray, labels: np.ndarray, n_test: int) -> tuple[list, list]:
    """Pairs to choose training images from (the first half), and ``n_test`` pairs spread over the last third."""
    pairs = [(x, relabelled(y)) for x, y in zip(image, labels)]
    first, last = pairs[: len(pairs) // 2], pairs[-(-2 * len(pairs) // 3) :]
    return first, spread(last, n_test)


def relabelled(labels: np.ndarray) -> np.ndarray:
    """Pieces of one object in a slice are objects of their own."""
    from skimage.measure import label

    return label(labels, connectivity=1).astype(np.int32)


def spread(items: list, n: int) -> list:
    """``n`` items at equal distances, the first one in the middle of its share."""
    n = min(n, len(items))
    return [items[int((k + 0.5) * len(items) / n)] for k in range(n)]


def score(model: str, checkpoint: Path | None, test: list) -> dict[str, float]:
    """Mean mSA of automatic segmentation with the model's own parameters, mean IoU from one box and one point."""
    predictor, segmenter = get_predictor_and_segmenter(model, checkpoint=checkpoint, segmentation_mode="ais")
    msa, ious = [], {"box": [], "point": []}
    for image, labels in test:
        found = automatic_instance_segmentation(predictor, segmenter, image, ndim=2, verbose=False)
        msa.append(segmentation_scores(found.astype(np.int32), labels)["mSA"])
        set_precomputed(predictor, precompute_image_embeddings(predictor, image, ndim=2, verbose=False))
        for start, rows in ious.items():
            rows.append(interactive_ious(predictor, labels, start, 0)[:, 0])
    means = {start: float(np.concatenate(rows).mean()) for start, rows in ious.items()}
    return {"AIS mSA": float(np.mean(msa)), **means}


def train(
    name: str, method: str, model: str, pairs: list, minutes: int, most_steps: int, frame: int, folder: Path
) -> tuple[Path, int, float]:
    """Train for a time; returns the exported model, the steps made and the minutes they took."""
    data = TrainingData(images=[x for x, _ in pairs], labels=[y for _, y in pairs])
    patch = tuple(round(side * frame / IMAGE_SIZE) for side in pairs[0][0].shape[:2])
    settings = TrainingSettings(
        name=name, model_type=model, patch_shape=patch, n_samples=25, early_stopping=None,
        n_objects_per_batch=6, n_sub_iteration=3, n_gradient_rounds=2, n_scored=len(pairs), min_size=10,
        n_iterations=most_steps, max_minutes=minutes, frame=frame, **METHODS[method],
    )  # fmt: skip
    output = folder / f"{name}.pt"
    start, end, steps = None, 0.0, 0
    for progress in run_training(settings, data, data, save_root=folder, output_path=output):
        if isinstance(progress, TrainingProgress):
            start, end, steps = start or time.monotonic(), time.monotonic(), progress.done
    return output, steps, (end - (start or end)) / 60


def compare(args: argparse.Namespace) -> dict[str, dict]:
    """Every method with every number of images; written after each run."""
    path = args.output / "scores.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    image, labels = load_image_data(args.image), load_image_data(args.labels)
    pool, test = split(np.asarray(image), np.asarray(labels), args.n_test)
    if "before" not in results:
        results["before"] = score(args.model, None, test)
    for count in args.counts:
        for method in args.methods:
            name = f"{method}_{count}"
            if name in results:
                continue
            output, steps, minutes = train(
                name, method, args.model, spread(pool, count), args.minutes, args.steps, args.frame, args.output
            )
            results[name] = {**score(args.model, output, test), "steps": steps, "minutes": round(minutes, 1)}
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(results, indent=1))
            print(f"{name:12s} {row(results[name])}  {steps} steps in {minutes:.1f} minutes", flush=True)
    return results


def row(scores: dict[str, float]) -> str:
    """One line of numbers."""
    return "  ".join(f"{name} {scores[name]:.3f}" for name in SCORES)


def plot(results: dict[str, dict], path: Path) -> None:
    """A panel for each score: value over the number of images, a line for each method, the model before dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SCORES), figsize=(4 * len(SCORES), 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, SCORES.items()):
        for method in METHODS:
            points = sorted((int(k.split("_")[1]), v[name]) for k, v in results.items() if k.startswith(f"{method}_"))
            if points:
                axis.plot(*zip(*points), marker="o", label=method)
        axis.axhline(results["before"][name], color="gray", linestyle="--", label="before")
        top = max(v[name] for v in results.values())
        axis.set(xlabel="Images trained on", title=title, xscale="log", ylim=(0, 1.1 * top))
        ticks = sorted({int(k.split("_")[1]) for k in results if k != "before"})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, scores.json and plot.png")
    parser.add_argument("--model", default="vit_t_builtin")
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 2, 5, 10])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--minutes", type=int, default=5, help="training time of each run")
    parser.add_argument("--steps", type=int, default=_MANY, help="most training steps of each run")
    parser.add_argument("--frame", type=int, default=IMAGE_SIZE, help="side of the encoder's frame in training")
    parser.add_argument("--n_test", type=int, default=10, help="held-out slices that are scored")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    results = compare(args)
    print(f"{'before':12s} {row(results['before'])}")
    for name in sorted(set(results) - {"before"}):
        print(f"{name:12s} {row(results[name])}")
    plot(results, args.output / "plot.png")


if __name__ == "__main__":
    main()
