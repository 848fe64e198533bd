"""Train `vit_t_builtin`: a TinyViT SAM with a light instance decoder, from scratch, in a given time.

    python finetuning/builtin/train.py --data DATA --work WORK --minutes 90

DATA holds one folder a data set with ``train/<id>_image.tif`` and ``<id>_labels.tif``. WORK receives the prepared data
and ``latest.pt``, written every few minutes; the same command goes on from there after an interruption, and with more
``--minutes`` trains longer. CUDA is used where there is one, in bfloat16 as on the CPU. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import data
import numpy as np
import torch
from losses import map_loss, prompt_loss, soft_iou_targets
from optimizer import Muon, split_parameters
from prompting import PAD, POSITIVE, CropPrompter, choose_objects, correction, first_prompts
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from micro_sam.models.decoder import LightDecoder
from micro_sam.models.tiny_vit import build_tiny_vit

logger = logging.getLogger("train")


@dataclass
class Settings:
    """What a run is made of; stored in its checkpoints."""

    minutes: float = 90.0
    crop: int = 448
    batch_size: int = 4
    objects_per_crop: int = 6
    lr_matrices: float = 3e-3
    lr_others: float = 1e-3
    warmup: int = 60
    decay_share: float = 0.45
    freeze_norm_share: float = 0.75
    ema: float = 0.997
    save_every: float = 240.0
    seed: int = 0
    rounds: tuple[float, ...] = field(default=(0.55, 0.2, 0.15, 0.1))


def assemble() -> tuple[Sam, LightDecoder]:
    """The untrained network."""
    sam = Sam(
        image_encoder=build_tiny_vit(),
        prompt_encoder=PromptEncoder(256, (64, 64), (1024, 1024), 16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return sam, LightDecoder()


class Trainer:
    """The state of a run: networks, their running average, optimizers, time spent."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.sam, self.decoder = (m.to(device) for m in assemble())
        self.sam.image_encoder.to(memory_format=torch.channels_last)
        self.decoder.to(memory_format=torch.channels_last)
        self.modules = {"sam": self.sam, "decoder": self.decoder}
        self.average = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in self.modules.items()}
        matrices, others = split_parameters(self.modules)
        self.optimizers = [
            Muon(matrices, settings.lr_matrices),
            torch.optim.AdamW(others, settings.lr_others, betas=(0.9, 0.98), weight_decay=0.02, fused=True),
        ]
        self.base_rates = [settings.lr_matrices, settings.lr_others]
        self.prompter = CropPrompter(self.sam)
        self.step_index, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """The share of the time that is spent."""
        return self.seconds / (60 * self.settings.minutes)

    def rate(self) -> float:
        """Warm-up, constant, then straight down to a hundredth."""
        warm = min(1.0, (self.step_index + 1) / self.settings.warmup)
        left = (1 - self.progress) / self.settings.decay_share
        return warm * float(np.clip(left, 0.01, 1.0))

    def step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One update; returns the losses."""
        rate = self.rate()
        for optimizer, base in zip(self.optimizers, self.base_rates):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
        self._set_mode()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            features = self.sam.image_encoder(batch["image"])
            maps = self.decoder.maps(features)
        instance = map_loss(maps.float(), batch["maps"], batch["valid"])
        prompted, scores = self._prompt_loss(features, batch)
        (instance + prompted).backward()
        norm = nn.utils.clip_grad_norm_([p for m in self.modules.values() for p in m.parameters()], 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step_index += 1
        return {"maps": instance.item(), "prompts": prompted.item(), "norm": norm.item(), **scores}

    def _set_mode(self) -> None:
        """Train; towards the end with the batch norms' statistics fixed, as they are in use."""
        for module in self.modules.values():
            module.train()
            if self.progress > self.settings.freeze_norm_share:
                for part in module.modules():
                    if isinstance(part, nn.BatchNorm2d):
                        part.eval()

    def _prompt_loss(self, features: torch.Tensor, batch: dict) -> tuple[torch.Tensor, dict[str, float]]:
        """Some rounds of corrections without gradient, then one with."""
        objects = choose_objects(batch["labels"], batch["offset"], self.settings.objects_per_crop)
        if len(objects.crop_index) == 0:
            return features.sum() * 0, {}
        coords, labels = first_prompts(objects)
        n_rounds = int(np.random.choice(len(self.settings.rounds), p=self.settings.rounds))
        positions = self.prompter.position_encoding(objects.offsets, features.shape[-1]).bfloat16()
        features = features.bfloat16()
        previous = None
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            for _ in range(n_rounds):
                with torch.no_grad():
                    logits, _ = self.prompter(
                        features.detach()[objects.crop_index], positions, coords, labels, previous
                    )
                previous = logits[:, 0].float().clamp(-32, 32)
                point, label = correction(objects, previous)
                coords, labels = torch.cat([coords, point], 1), torch.cat([labels, label], 1)
                previous = previous if np.random.random() < 0.7 else None
            logits, iou = self.prompter(features[objects.crop_index], positions, coords, labels, previous)
        logits, iou = logits.float(), iou.float()
        single_point = (labels == POSITIVE).sum(1).eq(1) & (labels == PAD).any(1) & (labels.shape[1] == 2)
        loss = prompt_loss(logits, iou, objects.masks, single_point)
        score = soft_iou_targets(logits.detach()[:, :1], objects.masks)[:, 0]
        scores = {}
        if n_rounds == 0:
            for name, chosen in (("iou_point", single_point), ("iou_box", ~single_point)):
                if chosen.any():
                    scores[name] = float(score[chosen].mean())
        else:
            scores["iou_corrected"] = float(score.mean())
        return loss, scores

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step_index) / (10 + self.step_index))
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                average = self.average[name][key]
                if value.is_floating_point():
                    average.lerp_(value, 1 - decay)
                else:
                    average.copy_(value)

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs, to a temporary name first."""
        state = {
            "settings": asdict(self.settings),
            "average": self.average,
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step_index": self.step_index,
            "seconds": self.seconds,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; the time budget is the new settings'."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.average = state["average"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step_index, self.seconds = state["step_index"], state["seconds"]

    def start_from(self, path: Path) -> None:
        """Begin with exported weights instead of random ones; the optimizers start anew."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, key in (("sam", "model_state"), ("decoder", "decoder_state")):
            self.modules[name].load_state_dict(
                {k: v.float() if v.is_floating_point() else v for k, v in state[key].items()}
            )
            self.average[name] = {k: v.clone() for k, v in self.modules[name].state_dict().items()}


def run(trainer: Trainer, sources: list[data.Source], work: Path, workers: int) -> None:
    """Train until the time is used up; a step counts at most three times the median, so pauses are not charged."""
    settings, latest = trainer.settings, work / "latest.pt"
    sampler = data.CropSampler(sources, settings.crop, seed=settings.seed + trainer.step_index)
    loader = torch.utils.data.DataLoader(
        sampler, settings.batch_size, num_workers=workers, worker_init_fn=_seed_worker, persistent_workers=True
    )
    durations: list[float] = []
    history: list[dict[str, float]] = []
    saved = time.monotonic()
    start = time.monotonic()
    for batch in loader:
        history.append(trainer.step({k: v.to(trainer.device, non_blocking=True) for k, v in batch.items()}))
        durations.append(time.monotonic() - start)
        start = time.monotonic()
        trainer.seconds += min(durations[-1], 3 * float(np.median(durations[-50:])))
        if trainer.step_index % 25 == 0:
            _report(trainer, history[-25:], float(np.median(durations[-25:])), work)
        if time.monotonic() - saved > settings.save_every or trainer.progress >= 1:
            trainer.save(latest)
            saved = time.monotonic()
        if trainer.progress >= 1:
            return


def _seed_worker(index: int) -> None:
    sampler = torch.utils.data.get_worker_info().dataset
    sampler.seed = sampler.seed * 1000 + index


def _report(trainer: Trainer, history: list[dict[str, float]], duration: float, work: Path) -> None:
    names = sorted({name for row in history for name in row})
    means = {n: float(np.mean([row[n] for row in history if n in row])) for n in names}
    row = {"step": trainer.step_index, "progress": round(trainer.progress, 4), "s": round(duration, 2)}
    row |= {k: round(v, 4) for k, v in means.items()}
    logger.info("%s", " ".join(f"{k} {v}" for k, v in row.items()))
    with open(work / "log.jsonl", "a") as log:
        log.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared data and checkpoints")
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="training time, all runs together")
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--crop", type=int, default=Settings.crop)
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates; lower to go on training")
    parser.add_argument("--decay-share", type=float, default=Settings.decay_share, help="when the rates begin to fall")
    parser.add_argument("--objects-per-crop", type=int, default=Settings.objects_per_crop)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--start-from", type=Path, help="exported weights to begin with, such as the shipped ones")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    cache = args.work / "cache.npz"
    if not cache.exists():
        data.prepare(args.data, cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(
        minutes=args.minutes,
        batch_size=args.batch_size,
        crop=args.crop,
        objects_per_crop=args.objects_per_crop,
        lr_matrices=args.rate * Settings.lr_matrices,
        lr_others=args.rate * Settings.lr_others,
        decay_share=args.decay_share,
    )
    trainer = Trainer(settings, device)
    latest = args.work / "latest.pt"
    if latest.exists():
        trainer.load(latest)
        logger.info("resumed at step %d, %.1f minutes", trainer.step_index, trainer.seconds / 60)
    elif args.start_from is not None:
        trainer.start_from(args.start_from)
    run(trainer, data.load(cache), args.work, args.workers)


if __name__ == "__main__":
    main()
