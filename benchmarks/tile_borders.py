"""Are objects on the borders of tiles and blocks whole? Number and mSA against the result without tiles.

The image is segmented in one pass, in tiles, and in blocks as over a cluster. Objects that a border crosses in the
untiled result are compared by themselves, and so are all others: if borders do harm, the first score is the lower one.
The last columns compare with the true objects, where they are known.

    python benchmarks/tile_borders.py                     # synthetic images
    python benchmarks/tile_borders.py cells.tif labels.tif
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from elf.evaluation import mean_segmentation_accuracy

from micro_sam.automatic_segmentation import automatic_instance_segmentation, get_predictor_and_segmenter
from micro_sam.distributed.block_tasks import (
    LABELS,
    NUMBERS,
    SegmentationJob,
    load_links,
    match_block,
    segment_block,
    write_block,
)
from micro_sam.distributed.blocks import BlockGrid
from micro_sam.distributed.model import ModelSource
from micro_sam.distributed.source import BlockSource
from micro_sam.distributed.stitching import number_objects
from micro_sam.io import Resolution, load_image_data
from micro_sam.io.label_pyramid import create_pyramid, plan_levels
from micro_sam.sample_data import synthetic_data


def segment_in_blocks(
    image: np.ndarray, model: ModelSource, grid: BlockGrid, mode: str | None, iou: float
) -> np.ndarray:
    """What the workers of a cluster do, one block after the other in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zarr.save_array(str(folder / "image.zarr"), image)
        source = BlockSource.of(folder / "image.zarr", ndim=2)
        contrast = source.normalization("robust")
        job = SegmentationJob(source, model, grid, folder, mode, contrast, (), (), iou)
        for path in (job.block_file(0), job.links_file(0)):
            path.parent.mkdir()
        counts = np.array([segment_block(job, i)["objects"] for i in range(len(grid))])
        for index, count in enumerate(counts):
            match_block(job, index, count)
        numbers, _ = number_objects((load_links(job, i) for i in range(len(grid))), counts)
        np.save(folder / NUMBERS, numbers)
        group = create_pyramid(
            folder / LABELS, plan_levels(grid.shape, Resolution({}))[:1], numbers.dtype, grid.block_shape
        )
        for index, first in enumerate(np.cumsum(counts) - counts):
            write_block(job, index, first, counts[index])
        return group["0"][...]


def border_lines(grid: BlockGrid) -> np.ndarray:
    """The two pixels on both sides of every border."""
    lines = np.zeros(grid.shape, dtype=bool)
    for axis in range(2):
        for start in range(grid.block_shape[axis], grid.shape[axis], grid.block_shape[axis]):
            lines[(slice(None),) * axis + (slice(start - 1, start + 1),)] = True
    return lines


def crossing(labels: np.ndarray, grid: BlockGrid) -> np.ndarray:
    """The labels that lie on both sides of a border."""
    found = [np.zeros(0, labels.dtype)]
    for axis in range(2):
        for start in range(grid.block_shape[axis], grid.shape[axis], grid.block_shape[axis]):
            before, after = (np.take(labels, i, axis=axis) for i in (start - 1, start))
            found.append(before[(before == after) & (before != 0)])
    return np.unique(np.concatenate(found))


def compare(result: np.ndarray, reference: np.ndarray, grid: BlockGrid) -> tuple[float, float, int, int]:
    """mSA of the objects on borders and of the others, and how many there are on borders in both."""
    chosen = crossing(reference, grid)
    on_border = np.where(np.isin(reference, chosen), reference, 0)
    # Of the result what lies mostly on those objects, or touches a border.
    areas = np.bincount(result.ravel())
    inside = np.bincount(result[on_border > 0], minlength=len(areas))
    touching = np.bincount(result[border_lines(grid)], minlength=len(areas)) > 0
    mine = np.flatnonzero((inside > areas / 2) | (touching & (inside > 0)))
    mine = mine[mine != 0]
    part = np.where(np.isin(result, mine), result, 0)
    at_border = mean_segmentation_accuracy(part, on_border) if len(chosen) else float("nan")
    others = mean_segmentation_accuracy(np.where(part > 0, 0, result), np.where(on_border > 0, 0, reference))
    return at_border, others, len(mine), len(chosen)


def images(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and true labels."""
    if args.image is not None:
        image, truth = load_image_data(args.image), load_image_data(args.labels)
        for start in range(0, image.shape[0], args.size):
            yield f"{args.image.stem} {start}", image[start : start + args.size], truth[start : start + args.size]
        return
    for kind, diameter in (("nuclei", 40), ("cells", 60), ("discs", 40)):
        try:
            yield f"{kind} {diameter} px", *synthetic_data((args.size, args.size), 3, kind, diameter)
        except ValueError as error:
            print(f"{kind}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("labels", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=384)
    parser.add_argument("--halo", type=int, nargs="+", default=[128])
    parser.add_argument("--iou", type=float, nargs="+", default=[0.3])
    parser.add_argument("--mode")
    parser.add_argument("-m", "--model", default="vit_t_builtin")
    args = parser.parse_args()
    model = ModelSource(args.model, device="cpu")
    predictor, plain = get_predictor_and_segmenter(args.model, device="cpu", segmentation_mode=args.mode)
    _, tiled = get_predictor_and_segmenter(args.model, segmentation_mode=args.mode, is_tiled=True, predictor=predictor)
    print(f"{'image':20} {'way':22} {'objects':>8} {'on borders':>12} {'mSA borders':>12} {'mSA others':>11}"
          f" {'truth: on borders':>18} {'others':>7}")  # fmt: skip
    for name, image, truth in images(args):
        reference = automatic_instance_segmentation(predictor, plain, image, ndim=2, verbose=False)
        for halo in args.halo:
            grid = BlockGrid(image.shape[:2], (args.tile, args.tile), (halo, halo))
            ways = {"one pass": reference}
            for normalization in ("minmax", "robust"):
                ways[f"tiles, {normalization}, halo {halo}"] = automatic_instance_segmentation(
                    predictor, tiled, image, ndim=2, verbose=False, tile_shape=grid.block_shape, halo=grid.halo,
                    normalization=normalization,
                )  # fmt: skip
            for iou in args.iou:
                ways[f"blocks {iou}, halo {halo}"] = segment_in_blocks(image, model, grid, args.mode, iou)
            for way, labels in ways.items():
                border, others, mine, expected = compare(labels, reference, grid)
                true_border, true_others, *_ = compare(labels, truth, grid)
                print(
                    f"{name:20} {way:22} {len(np.unique(labels)) - 1:8} {mine:5} of {expected:3} {border:12.3f} {others:11.3f}"
                    f" {true_border:18.3f} {true_others:7.3f}", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
