"""Training data of the bundled model: annotated images and synthetic ones, prepared once, sampled endlessly.

Every training sample is a crop of the frame the model sees in use, in which the longest side of an image has 1024
pixels: an object has the size it will have later, at a fraction of a full frame's cost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy import ndimage
from torch.nn import functional as F

from micro_sam.sample_data.synthetic import synthetic_data

logger = logging.getLogger(__name__)

SYNTHETIC = ("nuclei", "cells", "rods", "membranes", "rings", "discs")
"""Kinds of synthetic images that are trained on; "granules" stay unseen, so that finetuning can be shown on them."""

SPARSE = ("nuclei", "cells", "rods", "rings", "discs")
"""Kinds of which few objects, or none, lie on empty ground, so that the model invents nothing there."""

FRAME = 1024
PIXEL_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
PIXEL_STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

# folder -> (share of the samples, {axis of the volume: step between the slices that are used})
DOMAINS: dict[str, tuple[float, dict[int, int]]] = {
    "dsb2018": (0.46, {}),
    "c2c12_phase": (0.06, {}),
    "laptrack_nuclei": (0.03, {}),
    "plantseg_ovule_nuclei3d": (0.04, {0: 3}),
    "wsu_chloroplast_em_3d": (0.09, {0: 1}),
    "fib25_neurons": (0.13, {0: 4, 1: 10, 2: 10}),
    "synthetic": (0.12, {}),
    "ground": (0.07, {}),
}
MADE = ("synthetic", "ground")
"""Domains that are not read from a folder."""

STAINED_WEIGHT = 2.0
"""How often a colour image (stained tissue) is seen for each other of its domain: they are few and learnt last."""


@dataclass
class Source:
    """An annotated image: (H, W) or (H, W, 3) uint8, labels (H, W) int32, distances (2, H, W) float16."""

    domain: str
    image: np.ndarray
    labels: np.ndarray
    distances: np.ndarray


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Stretch anything that is not 8 bit to 8 bit."""
    if image.dtype == np.uint8:
        return image
    image = image.astype(np.float32)
    low, high = image.min(), image.max()
    return np.round((image - low) / max(high - low, 1e-6) * 255).astype(np.uint8)


def _slices(image: np.ndarray, labels: np.ndarray, steps: dict[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if not steps:
        yield image, labels
    for axis, step in steps.items():
        for index in range(0, labels.shape[axis], step):
            yield np.take(image, index, axis), np.take(labels, index, axis)


def _prepare(args: tuple[str, np.ndarray, np.ndarray]) -> Source | None:
    from torch_em.transform.label import PerObjectDistanceTransform

    domain, image, labels = args
    if labels.max() == 0:
        nowhere = np.ones((2, *labels.shape), np.float16)
        return Source(domain, image, labels.astype(np.int32), nowhere) if domain == "ground" else None
    target = PerObjectDistanceTransform(
        distances=True, boundary_distances=True, directed_distances=False, foreground=False, instances=True, min_size=5
    )(labels.astype(np.uint32))
    return Source(domain, image, target[0].astype(np.int32), target[1:].astype(np.float16))


def _read_domain(folder: Path, domain: str, steps: dict[int, int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for path in sorted((folder / domain / "train").glob("*_image.tif")):
        image, labels = (tifffile.imread(path.with_name(path.name.replace("_image", k))) for k in ("_image", "_labels"))
        yield from ((domain, i, m) for i, m in _slices(to_uint8(image), labels, steps))


def _make_synthetic(n_images: int, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for index in range(n_images):
        side = int(rng.choice([256, 384, 512]))
        image, labels = synthetic_data(
            (side, side),
            seed=seed + index,
            kind=SYNTHETIC[index % len(SYNTHETIC)],
            diameter=float(np.exp(rng.uniform(np.log(side / 28), np.log(side / 5)))),
            density=float(rng.uniform(0.15, 0.8)),
            noise=float(rng.uniform(0.0, 0.15)),
        )
        yield "synthetic", image, labels


def _make_ground(n_images: int, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Few small or large objects on uneven ground; every fourth image shows none, stretched to the full range."""
    rng = np.random.default_rng(seed)
    for index in range(n_images):
        side = int(rng.choice([256, 384, 512]))
        image, labels = synthetic_data(
            (side, side),
            seed=seed + index,
            kind=SPARSE[index % len(SPARSE)],
            diameter=float(np.exp(rng.uniform(np.log(side / 24), np.log(side / 2)))),
            density=float(rng.uniform(0.005, 0.08)),
            noise=float(rng.choice([0.0, rng.uniform(0.0, 0.03), rng.uniform(0.0, 0.12)])),
        )
        image = image + _uneven(image.shape, rng)
        if index % 4 == 0:
            shown = ~ndimage.binary_dilation(labels > 0, iterations=8)
            image = _largest_empty_part(image, shown)
            labels = np.zeros(image.shape, np.uint32)
        low, high = float(image.min()), float(image.max())
        yield "ground", np.round((image - low) / max(high - low, 1.0) * 255).astype(np.uint8), labels


def _uneven(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What illumination, dust and fringes add to a ground, float32; often nothing."""
    added = np.zeros(shape, np.float32)
    for scale, share, strength in ((0.3, 0.5, 40), (0.05, 0.35, 20), (0.015, 0.25, 12)):
        if rng.random() < share:
            field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale * max(shape))
            added += rng.uniform(0, strength) * field / max(float(np.abs(field).max()), 1e-6)
    if rng.random() < 0.15:
        y, x = np.indices(shape, np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.02, 0.2) * max(shape)
        added += rng.uniform(0, 15) * np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    return added


def _largest_empty_part(image: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The largest of some windows of the image (YX) that lie in the empty mask."""
    for side in range(image.shape[0], 16, -16):
        starts = range(0, image.shape[0] - side + 1, 16)
        for y, x in ((y, x) for y in starts for x in starts):
            if empty[y : y + side, x : x + side].all():
                return image[y : y + side, x : x + side]
    return np.full_like(image, image.mean())


def prepare(data_root: Path, cache: Path, n_synthetic: int = 360, n_ground: int = 240) -> None:
    """Read all train folders, make the synthetic images, compute the distances and write one file (without pickle)."""
    items = [i for d, (_, steps) in DOMAINS.items() if d not in MADE for i in _read_domain(data_root, d, steps)]
    items += _make_synthetic(n_synthetic, seed=7)
    items += _make_ground(n_ground, seed=11)
    with ProcessPoolExecutor() as pool:
        sources = [s for s in pool.map(_prepare, items, chunksize=8) if s is not None]
    arrays = {"domains": np.array([s.domain for s in sources])}
    for index, source in enumerate(sources):
        arrays |= {f"{index}/{name}": getattr(source, name) for name in ("image", "labels", "distances")}
    part = cache.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    part.rename(cache)
    logger.info("wrote %d images to %s", len(sources), cache)


def load(cache: Path) -> list[Source]:
    """Read what `prepare` wrote."""
    with np.load(cache, allow_pickle=False) as data:
        return [
            Source(str(domain), *(data[f"{i}/{name}"] for name in ("image", "labels", "distances")))
            for i, domain in enumerate(data["domains"])
        ]


def _augment_intensity(image: torch.Tensor, low: float, high: float, rng: np.random.Generator) -> torch.Tensor:
    """(3, h, w) in [0, 255] -> [0, 255] with another contrast, noise and colour."""
    if rng.random() < 0.75:
        image = (image - low) / max(high - low, 1.0)
    else:
        image = image / 255
    gray = bool((image[0] == image[1]).all())
    if rng.random() < 0.08:
        image = 1 - image
    image = image.clamp(0, 1) ** float(np.exp(rng.normal(0, 0.25)))
    image = image * rng.uniform(0.55, 1.1) + rng.uniform(-0.05, 0.12)
    if gray and rng.random() < 0.1:
        image = image * torch.tensor(rng.uniform(0.3, 1, (3, 1, 1)), dtype=torch.float32)
    elif not gray and rng.random() < 0.3:
        swap = rng.random() < 0.5
        image = image[torch.from_numpy(rng.permutation(3))] if swap else image.mean(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < 0.2:
        image = F.avg_pool2d(image[None], 3, 1, 1)[0]
    if rng.random() < 0.4:
        noise = torch.randn(image.shape if not gray else (1, *image.shape[1:]))
        image = image + rng.uniform(0, 0.07) * noise
    return image.clamp(0, 1) * 255


class CropSampler(torch.utils.data.IterableDataset):
    """Endless random crops.

    Each item is a dict: ``image`` (3, S, S) normalised as SAM does, zero padded; ``labels`` (S, S) int32;
    ``maps`` (3, S / 2, S / 2) foreground, centre and boundary distance; ``valid`` (1, S / 2, S / 2), 0 in the padding;
    ``offset`` (2,) position (y, x) of the crop in the 1024 frame, a multiple of 16.

    Args:
        sources: The annotated images.
        crop: Side S of the crops, a multiple of 16, at most 1024.
        seed: Seed; the state is not saved, a resumed run passes another one.
    """

    def __init__(self, sources: list[Source], crop: int, seed: int) -> None:
        super().__init__()
        self.sources, self.crop, self.seed = sources, crop, seed
        domains = np.array([s.domain for s in sources])
        present = [d for d in DOMAINS if (domains == d).any()]
        shares = np.array([DOMAINS[d][0] for d in present])
        self.members = [np.flatnonzero(domains == d) for d in present]
        weights = np.array([STAINED_WEIGHT if s.image.ndim == 3 else 1.0 for s in sources])
        self.weights = [weights[m] / weights[m].sum() for m in self.members]
        self.shares = shares / shares.sum()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self.seed)
        torch.manual_seed(self.seed)
        while True:
            domain = rng.choice(len(self.members), p=self.shares)
            source = self.sources[rng.choice(self.members[domain], p=self.weights[domain])]
            item = self.sample(source, rng)
            if source.domain == "ground" or int(item["labels"].max()) > 0 or rng.random() < 0.1:
                yield item

    def sample(self, source: Source, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """One random crop of one image."""
        height, width = source.labels.shape
        scale = FRAME / max(height, width)
        if self.crop < FRAME:  # a full frame is seen as it is in use
            scale *= float(np.exp(np.clip(rng.normal(-0.2, 0.35), -0.9, 0.7)))
        side = max(16, round(self.crop / scale))
        target = self._object_position(source.labels, rng)
        y, x = (self._start(n, side, p, rng) for n, p in zip((height, width), target))
        box = (slice(y, min(height, y + side)), slice(x, min(width, x + side)))
        image = np.atleast_3d(source.image[box])
        image = np.broadcast_to(image[..., :3] if image.shape[-1] >= 3 else image[..., :1], (*image.shape[:2], 3))
        crops = [np.moveaxis(image, -1, 0), source.labels[box][None], source.distances[(slice(None), *box)]]
        crops = self._flip([torch.from_numpy(np.ascontiguousarray(c)).float() for c in crops], rng)
        low, high = float(source.image.min()), float(source.image.max())
        return self._assemble(*crops, self.crop / side, low, high, rng)

    @staticmethod
    def _object_position(labels: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | tuple[None, None]:
        """A pixel of some object that the crop shall contain, or none: flat ground has to be seen, too."""
        if rng.random() < 0.15:
            return None, None
        points = rng.integers(0, labels.shape, (100, 2))
        hits = points[labels[points[:, 0], points[:, 1]] > 0]
        return (int(hits[0, 0]), int(hits[0, 1])) if len(hits) else (None, None)

    @staticmethod
    def _start(length: int, side: int, target: int | None, rng: np.random.Generator) -> int:
        """Where the crop starts; now and then it reaches over the end, which becomes padding."""
        if length <= side:
            return 0
        last = length - side + (side // 3 if rng.random() < 0.15 else 0)
        if target is None:
            return int(rng.integers(0, last + 1))
        return int(np.clip(target - rng.integers(side // 8, side - side // 8), 0, last))

    @staticmethod
    def _flip(crops: list[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
        axes = [axis for axis in (-2, -1) if rng.random() < 0.5]
        crops = [c.flip(axes) for c in crops] if axes else crops
        return [c.transpose(-2, -1) for c in crops] if rng.random() < 0.5 else crops

    def _assemble(self, image, labels, distances, scale, low, high, rng) -> dict[str, torch.Tensor]:
        size = [min(self.crop, max(1, round(n * scale))) for n in image.shape[-2:]]
        half = [(n + 1) // 2 for n in size]
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        image = (_augment_intensity(image, low, high, rng) - PIXEL_MEAN) / PIXEL_STD
        labels = F.interpolate(labels[None], size, mode="nearest-exact")[0, 0].to(torch.int32)
        foreground = F.adaptive_avg_pool2d((labels > 0).float()[None], half)
        distances = F.interpolate(distances[None], half, mode="bilinear", antialias=True)[0]
        maps = torch.cat([foreground, distances.clamp(0, 1)])
        room = (FRAME - self.crop) // 16
        offset = 16 * torch.from_numpy(rng.integers(0, room + 1, 2))
        return {
            "image": _pad(image, self.crop),
            "labels": _pad(labels, self.crop),
            "maps": _pad(maps, self.crop // 2),
            "valid": _pad(torch.ones(1, *half), self.crop // 2),
            "offset": offset,
        }


def _pad(x: torch.Tensor, side: int) -> torch.Tensor:
    return F.pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2]))
