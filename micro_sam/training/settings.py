"""The settings of a training: the command's flags, the form in the window and the documentation come from here.

This module imports neither torch nor numpy, so that a command can list its flags without loading the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isnan
from numbers import Real
from typing import Any

from ..errors import ParameterError
from ..models.spec import get_spec, training_configurations

PEFT_METHODS = ("none", "lora", "fact", "ssf", "adaptformer", "attention", "bias", "layer_norm", "last_blocks")
DECODERS = ("instances", "none", "only")
FREEZABLE = ("image_encoder", "prompt_encoder", "mask_decoder")
SCHEDULES = ("plateau", "cosine")

_SURGERY = {
    "lora": "LoRASurgery",
    "fact": "FacTSurgery",
    "ssf": "SSFSurgery",
    "adaptformer": "AdaptFormer",
    "attention": "AttentionSurgery",
    "bias": "BiasSurgery",
    "layer_norm": "LayerNormSurgery",
    "last_blocks": "ClassicalSurgery",
}


def _setting(
    default: Any,
    label: str,
    help: str,
    bounds: tuple[float | None, float | None] | None = None,
    choices: tuple[Any, ...] | None = None,
    group: str = "training",
    optional: bool = False,
):
    """A field; ``bounds`` are inclusive, None leaves a side open; ``optional`` allows None."""
    metadata = {
        "label": label, "range": bounds, "help": help, "choices": choices, "group": group, "optional": optional,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is finetuned.

    What is None is taken from the configuration that suits the hardware, or from `train_sam`'s defaults.
    """

    name: str = _setting("my_model", "Name", "What the model is called; also its checkpoint folder.")
    model_type: str | None = _setting(
        None, "Model", "The registered model to start from; by default the one of the configuration.", optional=True
    )
    configuration: str | None = _setting(
        None, "Hardware", "Settings that suit this hardware; found out if left open.", optional=True
    )
    segmentation_decoder: str = _setting(
        "instances", "Automatic segmentation", "Train the instance decoder too, not, or only it.", choices=DECODERS
    )
    n_epochs: int = _setting(100, "Epochs", "How often to go through the data.", (1, 100_000))
    n_iterations: int | None = _setting(
        None, "Iterations", "How many batches to train, in the place of epochs.", (1, None), optional=True
    )
    max_minutes: int | None = _setting(
        None, "Minutes", "Stop after this many minutes and keep the best; no limit if left open.", (1, None),
        optional=True,
    )  # fmt: skip
    early_stopping: int | None = _setting(
        10, "Patience", "Stop after this many epochs without a better validation.", (1, None), optional=True
    )
    learning_rate: float = _setting(1e-5, "Learning rate", "Step size of the optimizer.", (1e-9, 1.0))
    schedule: str | None = _setting(
        None, "Schedule", "plateau: lower the rate when validation stands still. cosine: raise it at first and bring it to "
        "nothing at the end; this where minutes or iterations are given, if left open.", choices=SCHEDULES, optional=True,
    )  # fmt: skip
    batch_size: int = _setting(1, "Batch size", "Patches in a batch.", (1, 256))
    gradient_accumulation: int = _setting(
        1, "Accumulated batches", "Batches whose gradients are added up before a step.", (1, 1024), group="memory"
    )
    activation_checkpointing: bool | None = _setting(
        None, "Save memory", "Compute the encoder twice instead of keeping what it computed; where memory is little if "
        "left open.", choices=(True, False), group="memory", optional=True,
    )  # fmt: skip
    n_objects_per_batch: int | None = _setting(
        None, "Objects", "Prompted objects in each image.", (1, 1000), group="memory", optional=True
    )
    n_sub_iteration: int | None = _setting(
        None, "Prompt rounds", "Rounds of prompts for each batch.", (1, 32), group="memory", optional=True
    )
    n_gradient_rounds: int | None = _setting(
        None, "Rounds with gradients", "Rounds that are learned from, the first and others by chance; all if left open.",
        (1, 32), group="memory", optional=True,
    )  # fmt: skip
    objects_per_pass: int | None = _setting(
        None, "Objects at once", "Objects decoded at the same time; all if left open.", (1, 1000), group="memory",
        optional=True,
    )  # fmt: skip
    frame: int | None = _setting(
        None, "Frame", "Side of the square that patches are enlarged to; in 512 a step takes a quarter of the time, with patches "
        "of half the image's side objects keep their size. For vit_t; 1024 if left open.", (64, 4096), group="memory",
        optional=True,
    )  # fmt: skip
    mixed_precision: bool = _setting(True, "Mixed precision", "Compute in 16 bit where that is faster.", group="memory")
    patch_shape: tuple[int, int] = _setting(
        (512, 512), "Patch shape", "Height and width of the patches.", (16, 8192), group="data"
    )
    n_samples: int | None = _setting(
        None, "Patches an epoch", "How many patches an epoch has; found from the data if left open.", (1, None),
        group="data", optional=True,
    )  # fmt: skip
    min_size: int = _setting(
        25, "Smallest object", "Objects with fewer pixels are not trained on.", (0, None), group="data"
    )
    unknown_label: int | None = _setting(
        None, "Unlabelled", "The label of area that was not annotated; negative labels always mean that.",
        (None, None), group="data", optional=True,
    )  # fmt: skip
    known_margin: int | None = _setting(
        None, "Known margin", "Of partly annotated images, only this many pixels around annotated objects are background "
        "for sure; all of the background if left open.", (1, 1000), group="data", optional=True,
    )  # fmt: skip
    preprocess: str | None = _setting(
        None, "Contrast", "How patches are normalised; by default as in use, from the whole image.",
        choices=(None, "normalize_minmax", "normalize_percentile"), group="data", optional=True,
    )  # fmt: skip
    val_fraction: float = _setting(
        0.2, "Held out", "Share of the images kept for validation if none are given.", (0.0, 0.9), group="data"
    )
    num_workers: int = _setting(0, "Loading processes", "Processes that load patches.", (0, 128), group="data")
    freeze: tuple[str, ...] = _setting((), "Freeze", "Parts that are not trained.", choices=FREEZABLE)
    peft: str = _setting(
        "none", "Few parameters", "Train few parameters of the encoder.", choices=PEFT_METHODS, group="peft"
    )
    peft_rank: int = _setting(4, "Rank", "Rank of the updates of LoRA and FacT.", (1, 512), group="peft")
    peft_blocks: tuple[int, ...] | None = _setting(
        None, "Blocks", "Which of the encoder's blocks; negative from the last; all if left open.", (-64, 64),
        group="peft", optional=True,
    )  # fmt: skip
    quantize: bool = _setting(False, "4 bit base", "QLoRA: keep frozen weights in 4 bit.", group="peft")
    save_every_kth_epoch: int | None = _setting(
        None, "Keep every k-th", "Keep a checkpoint after every k-th epoch.", (1, None), optional=True
    )
    seed: int = _setting(0, "Seed", "What random numbers start from.", (0, None))
    n_scored: int = _setting(8, "Scored images", "Held-out patches scored before and after training.", (0, 1000))

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), item.metadata)
        if self.model_type is not None:
            get_spec(self.model_type)
        if self.configuration is not None and self.configuration not in training_configurations():
            known = ", ".join(training_configurations())
            raise ParameterError(f"configuration is one of {known}, got {self.configuration!r}.")
        if self.quantize and self.peft != "lora":
            raise ParameterError(f"quantize is for peft 'lora', got {self.peft!r}.")

    def peft_kwargs(self) -> dict[str, Any] | None:
        """The arguments of `PEFT_Sam`; None without."""
        if self.peft == "none":
            return None
        arguments: dict[str, Any] = {"peft_module": _SURGERY[self.peft]}
        if self.peft in ("lora", "fact"):
            arguments["rank"] = self.peft_rank
        blocks = self.peft_blocks if self.peft_blocks is not None else ((-1,) if self.peft == "last_blocks" else None)
        if blocks is not None:
            arguments["attention_layers_to_update"] = list(blocks)
        return {**arguments, "quantize": True} if self.quantize else arguments

    def is_annealed(self) -> bool:
        """Whether the learning rate goes to nothing at an end that is known."""
        is_short = self.max_minutes is not None or self.n_iterations is not None
        return self.schedule == "cosine" or (self.schedule is None and is_short)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if value is None and metadata["optional"]:
        return
    for single in value if isinstance(value, tuple | list) else (value,):
        if metadata["choices"] is not None and single not in metadata["choices"]:
            known = ", ".join(str(choice) for choice in metadata["choices"])
            raise ParameterError(f"{name} is one of {known}, got {single!r}.")
        if metadata["range"] is None:
            continue
        low, high = metadata["range"]
        if not isinstance(single, Real) or isinstance(single, bool) or isnan(single):
            raise ParameterError(f"{name} is a number, got {single!r}.")
        if (low is not None and single < low) or (high is not None and single > high):
            span = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ParameterError(f"{name} must be {span}, got {single!r}.")
