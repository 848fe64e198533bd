"""What the scripts in this folder share: each names its data and its model, and everything else is done here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data_sets import find
from torch.utils.data import ConcatDataset, DataLoader

from micro_sam.cli.options import device_name, model_name
from micro_sam.cli.runner import Parser, add_common_flags, run_command
from micro_sam.training import default_sam_dataset, export_trained_model, train_sam
from micro_sam.training.trainers import make_sam_trainer


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        name: What the model is called.
        data_sets: Names in `data_sets.DATA_SETS`; patches are drawn from each of them equally often.
        patch_shape: (height, width) in pixels.
        model: The model to begin with.
        epochs: How often to go through the patches of an epoch.
        patches: Patches of an epoch, of all data sets together.
        min_size: Smaller objects are not trained on, in pixels.
        n_objects: Prompted objects in each image.
        learning_rate: Step size of the optimizer.
    """

    name: str
    data_sets: tuple[str, ...]
    patch_shape: tuple[int, int] = (512, 512)
    model: str = "vit_b"
    epochs: int = 100
    patches: int = 2500
    min_size: int = 25
    n_objects: int = 25
    learning_rate: float = 1e-5


def main(recipe: Recipe, description: str | None, argv: Sequence[str] | None = None, **model_kwargs: Any) -> int:
    """Run a script; returns its exit code.

    Args:
        recipe: How the model is trained.
        description: What the script says about itself.
        argv: The flags; those of the command line by default.
        **model_kwargs: ``image_size``, see `get_trainable_sam_model`.
    """
    return run_command(build_parser(recipe, description), lambda args: execute(recipe, args, model_kwargs), argv)


def build_parser(recipe: Recipe, description: str | None) -> Parser:
    """The flags of a script."""
    parser = Parser(prog=f"finetuning/{recipe.name}.py", description=description)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="The folder in which the data sets lie, one folder each.",
    )
    add("--download", action="store_true", help="Fetch data sets that are not there.")
    add(
        "--check", action="store_true", help="Only read a batch, build the model and make one step; nothing is written."
    )
    add("-m", "--model_type", type=model_name, default=recipe.model, metavar="NAME", help="The model to begin with.")
    add("--name", default=recipe.name, help="What the model is called.")
    add("-s", "--save_root", type=Path, default=Path(), metavar="PATH", help="Folder for checkpoints and logs.")
    add("-o", "--output_path", type=Path, metavar="FILE", help="The model file to write.")
    add("-d", "--device", type=device_name, metavar="NAME", help="cpu, cuda, cuda:1 or mps.")
    add("--n_epochs", type=int, default=recipe.epochs, metavar="N", help="Epochs.")
    add("--n_iterations", type=int, metavar="N", help="Batches, in the place of epochs.")
    add("--patches", type=int, default=recipe.patches, metavar="N", help="Patches of an epoch.")
    add(
        "--patch_shape", type=int, nargs=2, default=recipe.patch_shape, metavar="N", help="Height and width of patches."
    )
    add("--batch_size", type=int, default=2, metavar="N", help="Patches in a batch.")
    add("--n_objects", type=int, default=recipe.n_objects, metavar="N", help="Prompted objects in each image.")
    add("--num_workers", type=int, default=4, metavar="N", help="Processes that load patches.")
    add("--overwrite", action="store_true", help="Begin anew; without it, a training that was interrupted goes on.")
    add_common_flags(parser)
    return parser


def execute(recipe: Recipe, args: argparse.Namespace, model_kwargs: dict[str, Any]) -> int:
    """Train, or only check."""
    loaders = [make_loader(recipe, args, split) for split in ("train", "val")]
    common = {
        "name": args.name, "model_type": args.model_type, "train_loader": loaders[0], "val_loader": loaders[1],
        "device": args.device, "lr": recipe.learning_rate, "n_objects_per_batch": args.n_objects,
        "save_root": args.save_root, **model_kwargs,
    }  # fmt: skip
    if args.check:
        print(check(common))
        return 0
    train_sam(**common, n_epochs=args.n_epochs, n_iterations=args.n_iterations, overwrite_training=args.overwrite)
    folder = args.save_root / "checkpoints" / args.name
    output = args.output_path or folder / f"{args.name}.pt"
    export_trained_model(folder / "best.pt", output, args.name)
    print(f"The model is {output}; score it with micro_sam.evaluate, open it with --checkpoint in every command.")
    return 0


def make_loader(recipe: Recipe, args: argparse.Namespace, split: str) -> DataLoader:
    """Patches of all data sets, equally many of each."""
    is_train = split == "train"
    of_each = max(1, (args.patches if is_train else min(args.patches, 100)) // len(recipe.data_sets))
    parts = []
    for name in recipe.data_sets:
        files = find(name, args.data, split, args.download)
        parts.append(
            default_sam_dataset(
                files.images, files.image_key, files.labels, files.label_key, tuple(args.patch_shape),
                with_segmentation_decoder=True, rois=files.rois, min_size=recipe.min_size, n_samples=of_each,
                is_train=is_train,
            )
        )  # fmt: skip
    workers = 0 if args.check else args.num_workers
    loader = DataLoader(ConcatDataset(parts), args.batch_size, shuffle=is_train, num_workers=workers)
    loader.shuffle = is_train  # torch-em's trainers look for it
    return loader


def check(common: dict[str, Any]) -> str:
    """Build everything, compute the losses of one batch and one step of the optimizer; what was found, as a sentence."""
    trainer = make_sam_trainer(**common)
    x, y = next(iter(common["train_loader"]))
    trainer.model.to(trainer.device)
    trainer.set_training_mode()
    losses = trainer.training_step(x.to(trainer.device), y.to(trainer.device), 1.0)
    torch.nn.utils.clip_grad_norm_(trainer.trained_parameters(), 1.0)
    trainer.optimizer.step()
    sizes = [len(loader.dataset) for loader in (common["train_loader"], common["val_loader"])]
    named = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
    return f"{sizes[0]} patches to train on, {sizes[1]} to validate; batch {tuple(x.shape)}, losses: {named}."
