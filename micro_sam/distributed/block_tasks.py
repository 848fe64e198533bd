"""What a worker does with one block of a segmentation: segment, match with its neighbours, write, shrink."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.distributed.blocks import BlockGrid, Window, intersection, relative
from micro_sam.distributed.model import ModelSource
from micro_sam.distributed.source import BlockSource
from micro_sam.distributed.stitching import BlockLinks, inner_sizes, match_labels
from micro_sam.embeddings import Normalization
from micro_sam.errors import OutputError
from micro_sam.io.label_pyramid import PyramidLevel, fill_level
from micro_sam.io.paths import replacing

LABELS = "labels.zarr"
NUMBERS = "numbers.npy"
_KINDS = (np.uint16, np.uint32, np.uint64)


@dataclass(frozen=True)
class SegmentationJob:
    """Everything a worker must know; small, since it travels with every block.

    Attributes:
        source: The data.
        model: The model.
        grid: The blocks.
        folder: The working folder, visible to all workers.
        mode: "amg", "ais", "apg" or None for what the model can do.
        normalization: How contrast is made, the same for all blocks.
        init: Parameters for making the segmenter.
        settings: Parameters of its ``generate``.
        least_iou: How well objects of two blocks must agree to be one.
    """

    source: BlockSource
    model: ModelSource
    grid: BlockGrid
    folder: Path
    mode: str | None
    normalization: Normalization
    init: tuple[tuple[str, Any], ...]
    settings: tuple[tuple[str, Any], ...]
    least_iou: float

    def block_file(self, index: int) -> Path:
        """Where the labels of a block, with its halo, lie."""
        return self.folder / "blocks" / f"{index}.npz"

    def links_file(self, index: int) -> Path:
        """Where it lies which objects a block shares with its neighbours."""
        return self.folder / "links" / f"{index}.npz"


def segment_block(job: SegmentationJob, index: int) -> dict[str, int]:
    """Segment a block with its halo and keep the labels; returns what the journal notes."""
    block = job.grid.block(index)
    raw = job.source.read(block.outer)
    labels = np.zeros(tuple(part.stop - part.start for part in block.outer), dtype=np.uint16)
    if raw.min() != raw.max():  # where there is nothing, a network would make something up
        labels = _segmented(job, raw)
    count = int(labels.max())
    labels = labels.astype(next(kind for kind in _KINDS if count <= np.iinfo(kind).max), copy=False)
    return {"objects": count, "bytes": _save(job.block_file(index), {"labels": labels})}


def _segmented(job: SegmentationJob, raw: np.ndarray) -> np.ndarray:
    from micro_sam.automatic_segmentation import automatic_instance_segmentation

    with job.model.segmenter_in_use(job.mode, job.init) as (predictor, segmenter):
        labels = automatic_instance_segmentation(
            predictor,
            segmenter,
            raw,
            ndim=job.source.ndim,
            verbose=False,
            normalization=job.normalization,
            **dict(job.settings),
        )
    return np.asarray(labels)


def match_block(job: SegmentationJob, index: int, count: int) -> dict[str, int]:
    """Find out which objects of a block go on in the blocks that follow it, and measure its objects.

    Args:
        job: The job.
        index: The block.
        count: The number of its labels.
    """
    block, labels = job.grid.block(index), load_block(job, index)
    arrays = {"sizes": inner_sizes(labels[block.inner_in_outer], count)}
    for other in job.grid.following(index):
        neighbor = job.grid.block(other)
        shared = intersection(job.grid.trusted(block), job.grid.trusted(neighbor))
        here, there = labels[relative(shared, block.outer)], load_block(job, other)[relative(shared, neighbor.outer)]
        arrays[f"pairs_{other}"] = match_labels(here, there, job.least_iou)
    return {"bytes": _save(job.links_file(index), arrays)}


def write_block(job: SegmentationJob, index: int, first: int, count: int) -> dict[str, int]:
    """Write the final labels of a block.

    Args:
        job: The job.
        index: The block.
        first: Where the numbers of its labels begin.
        count: How many there are.
    """
    import zarr

    block = job.grid.block(index)
    labels = load_block(job, index)[block.inner_in_outer]
    numbers = np.load(job.folder / NUMBERS, mmap_mode="r")
    table = np.concatenate([np.zeros(1, dtype=numbers.dtype), numbers[first : first + count]])
    array = zarr.open_group(str(job.folder / LABELS), mode="r+")["0"]
    array[block.inner] = table[labels]
    return {}


def shrink_window(
    job: SegmentationJob, levels: tuple[PyramidLevel, ...], number: int, window: Window
) -> dict[str, int]:
    """Write a window of a lower resolution."""
    import zarr

    fill_level(zarr.open_group(str(job.folder / LABELS), mode="r+"), levels, number, window)
    return {}


def load_block(job: SegmentationJob, index: int) -> np.ndarray:
    """The labels of a block with its halo."""
    return _load(job.block_file(index))["labels"]


def load_links(job: SegmentationJob, index: int) -> BlockLinks:
    """What is known of a block for stitching."""
    arrays = _load(job.links_file(index))
    pairs = {int(name.removeprefix("pairs_")): array for name, array in arrays.items() if name.startswith("pairs_")}
    return BlockLinks(arrays["sizes"], pairs)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """Write arrays under a name that they only get when they are complete; returns the size of the file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise OutputError(f"'{path}' is damaged ({error}); delete it and start the same command again.") from error
