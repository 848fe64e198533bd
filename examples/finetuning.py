"""Finetune the bundled model on synthetic images, on the CPU, and segment with the result.

    python examples/finetuning.py

The images show cells as clouds of grains, which the bundled model has never seen. Replace them by your own: arrays, or paths
of files, and train with more images for longer.
"""

from __future__ import annotations

from pathlib import Path

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.progress import drain
from micro_sam.sample_data import synthetic_data
from micro_sam.training import TrainingData, TrainingSettings, run_training


def main(folder: Path = Path("demo_output"), n_iterations: int = 20) -> str:
    """Train, say whether it helped, and segment with the result; returns the verdict."""
    folder.mkdir(exist_ok=True)
    output = folder / "finetuned.pt"
    pairs = [synthetic_data((256, 256), seed=seed, kind="granules", diameter=40) for seed in range(6)]
    data = TrainingData(images=[image for image, _ in pairs], labels=[labels for _, labels in pairs])
    settings = TrainingSettings(
        name="granules", model_type="vit_t_builtin", n_iterations=n_iterations, n_samples=10, patch_shape=(128, 128),
        frame=512,  # a quarter of the image in a quarter of the usual frame: objects have the size they have in use
        learning_rate=2e-4, n_objects_per_batch=5, n_sub_iteration=3, n_gradient_rounds=2,
    )  # fmt: skip
    result = drain(run_training(settings, data, save_root=folder, output_path=output), verbose=True)
    print(result.verdict)

    image, _ = synthetic_data((256, 256), seed=100, kind="granules", diameter=40)
    predictor, segmenter = get_predictor_and_segmenter("vit_b_lm", checkpoint=output)  # the file knows its encoder
    labels = automatic_instance_segmentation(predictor, segmenter, image)
    print(f"{labels.max()} objects found with {predictor.model_name}")
    return result.verdict


if __name__ == "__main__":
    main()
