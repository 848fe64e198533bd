"""Segmentation over workers: what it costs as the image grows, and a proof that a killed worker changes nothing.

A synthetic image is written tile by tile to an OME-Zarr, segmented from there to an OME-Zarr by worker processes, and
compared with the true objects, window by window: nothing is ever in memory as a whole.

    python benchmarks/distributed_cost.py cost                         # time and memory at four sizes
    python benchmarks/distributed_cost.py prove --size 16000 --workers 2   # one worker is killed on the way
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import zarr

from micro_sam.distributed import Cluster, ModelSource, connect, iter_distributed_segmentation
from micro_sam.distributed.segmentation import BLOCK_SHAPE, HALO
from micro_sam.io import open_image
from micro_sam.labels import object_windows
from micro_sam.sample_data import synthetic_data

logger = logging.getLogger("benchmark")

_PATCH = 1000  # pixels; unlike the blocks, so that blocks cut through objects
_PATCHES = 12  # different ones
_DIAMETER = 40


def write_image(path: Path, size: int) -> int:
    """Write an image with its true labels; returns the number of objects."""
    patches = [synthetic_data((_PATCH, _PATCH), seed, "nuclei", _DIAMETER) for seed in range(_PATCHES)]
    group = zarr.open_group(path, mode="w")
    arrays = {"0": np.uint8, "truth": np.uint32}
    for name, dtype in arrays.items():
        group.create_array(name, shape=(size, size), chunks=(500, 500), dtype=dtype)
    n_objects, rng = 0, np.random.default_rng(0)
    for y in range(0, size, _PATCH):
        for x in range(0, size, _PATCH):
            image, labels = patches[rng.integers(_PATCHES)]
            window = slice(y, min(y + _PATCH, size)), slice(x, min(x + _PATCH, size))
            labels = labels[: window[0].stop - y, : window[1].stop - x]
            group["0"][window] = image[: labels.shape[0], : labels.shape[1]]
            found, numbers = np.unique(labels, return_inverse=True)
            numbers = numbers.reshape(labels.shape) + (0 if found[0] == 0 else 1)
            group["truth"][window] = np.where(numbers > 0, numbers + n_objects, 0)
            n_objects += int(numbers.max())
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return n_objects


@dataclass
class Peaks:
    """What was seen so far: the largest resident memory in bytes, here and in a worker, and the processors' seconds."""

    here: int = 0
    worker: int = 0
    cpu: dict[int, float] = field(default_factory=dict)
    running: bool = field(default=True, repr=False)


@contextmanager
def watched_memory() -> Iterator[Peaks]:
    """Watch the memory of this process and its children ten times a second."""
    peaks, me = Peaks(), psutil.Process()

    def watch() -> None:
        while peaks.running:
            peaks.here = max(peaks.here, me.memory_info().rss)
            for child in me.children(recursive=True):
                try:
                    peaks.worker = max(peaks.worker, child.memory_info().rss)
                    peaks.cpu[child.pid] = sum(child.cpu_times()[:2])
                except psutil.Error:  # it has just ended
                    continue
            time.sleep(0.1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        peaks.running = False
        thread.join()


def segment(folder: Path, size: int, args: argparse.Namespace, kill_at: float | None = None) -> dict[str, float]:
    """Segment the image of a folder; returns what was measured."""
    blocks = math.ceil(size / args.block) ** 2
    model, seconds, kills = ModelSource(args.model, device=args.device), {}, 0
    options = {"key": "0", "block_shape": (args.block,) * 2, "halo": (args.halo,) * 2, "mode": args.mode}
    cluster = Cluster(n_workers=args.workers, threads_per_worker=args.threads, memory_limit=args.memory_limit)
    with watched_memory() as peaks, connect(cluster) as client:
        client.run(_load, model)  # loading the network once per worker is no cost of the image
        time.sleep(0.3)
        before = sum(peaks.cpu.values())
        start = last = time.perf_counter()
        work = iter_distributed_segmentation(folder / "image.zarr", folder / "labels.zarr", model, client, **options)
        while True:
            try:
                progress = next(work)
            except StopIteration as stop:
                result = stop.value
                break
            now = time.perf_counter()
            seconds[progress.text] = seconds.get(progress.text, 0) + now - last
            last = now
            if progress.text == "Segment blocks" and progress.done % args.every == 0:
                logger.info("%d of %d blocks, %.0f s, %.2f GiB in the largest worker",
                             progress.done, progress.total, now - start, peaks.worker / 2**30)  # fmt: skip
            is_time = (
                kill_at is not None and progress.text == "Segment blocks" and progress.done >= kill_at * progress.total
            )
            if is_time and not kills:
                pids = client.run(os.getpid)
                victim = next(iter(pids.values()))
                os.kill(victim, signal.SIGKILL)
                kills += 1
                logger.info(
                    "killed worker process %d of %s after %d blocks", victim, sorted(pids.values()), progress.done
                )
        total = time.perf_counter() - start
    pixels = size * size / 1e6
    return {
        "size": size,
        "Mpx": pixels,
        "blocks": blocks,
        "objects": result.n_objects,
        "seconds": total,
        "s/Mpx": total / pixels,
        "cpu s/Mpx": (sum(peaks.cpu.values()) - before) / pixels,
        "segment s/Mpx": seconds["Segment blocks"] / pixels,
        "stitch s/Mpx": (total - seconds["Segment blocks"]) / pixels,
        "worker GiB": peaks.worker / 2**30,
        "here GiB": peaks.here / 2**30,
        "labels MB/Mpx": _bytes_in(folder / "labels.zarr") / 1e6 / pixels,
        "kills": kills,
    }


def _load(model: ModelSource) -> None:
    with model.in_use():
        pass


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Compare the labels with the true objects: consistent ids, how many are found, and those that blocks cut."""
    group = zarr.open_group(folder / "image.zarr", mode="r")
    labels, truth = zarr.open_group(folder / "labels.zarr", mode="r")["0"], group["truth"]
    size, seen, counts = labels.shape[0], set(), {"inside": [0, 0], "cut by blocks": [0, 0]}
    for y in range(0, size, _PATCH):
        for x in range(0, size, _PATCH):
            window = slice(y, y + _PATCH), slice(x, x + _PATCH)
            expected, found = truth[window], labels[window]
            seen.update(np.unique(found).tolist())
            _count(expected, found, (y, x), args.block, counts)
    seen.discard(0)
    attributes = dict(zarr.open_group(folder / "labels.zarr", mode="r").attrs)
    assert seen == set(range(1, attributes["micro_sam_objects"] + 1)), "labels are not consecutive"
    assert open_image(folder / "labels.zarr").resolution == open_image(folder / "image.zarr").resolution
    return {
        **{f"found {name}": good / max(1, total) for name, (good, total) in counts.items()},
        **{f"objects {name}": total for name, (_, total) in counts.items()},
    }


def _count(
    expected: np.ndarray, found: np.ndarray, origin: tuple[int, int], block: int, counts: dict[str, list[int]]
) -> None:
    """Count the true objects of a window that one label covers, apart for those that a border between blocks cuts."""
    areas = np.bincount(found.ravel())
    for label, box in object_windows(expected).items():
        mask = expected[box] == label
        numbers = np.bincount(found[box][mask], minlength=2)
        numbers[0] = 0
        best = int(numbers.argmax())
        iou = numbers[best] / (np.count_nonzero(mask) + areas[best] - numbers[best]) if numbers.any() else 0.0
        is_cut = any((part.start + o) // block != (part.stop - 1 + o) // block for part, o in zip(box, origin))
        entry = counts["cut by blocks" if is_cut else "inside"]
        entry[1] += 1
        entry[0] += bool(iou >= 0.5)


def prepare(folder: Path, size: int) -> int:
    """A folder with a new image and no result."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return write_image(folder / "image.zarr", size)


def cost(args: argparse.Namespace) -> None:
    """A table of time and memory at several sizes."""
    names = (
        "size",
        "blocks",
        "objects",
        "seconds",
        "cpu s/Mpx",
        "segment s/Mpx",
        "stitch s/Mpx",
        "worker GiB",
        "here GiB",
        "labels MB/Mpx",
    )
    print(" ".join(f"{name:>14}" for name in names))
    for size in args.sizes:
        prepare(args.folder, size)
        row = segment(args.folder, size, args)
        print(
            " ".join(f"{row[name]:14.3f}" if isinstance(row[name], float) else f"{row[name]:14}" for name in names),
            flush=True,
        )
    shutil.rmtree(args.folder)


def prove(args: argparse.Namespace) -> None:
    """One large image, of whose workers one is killed; the result is checked."""
    start = time.perf_counter()
    n_objects = prepare(args.folder, args.size)
    print(
        f"{args.size} x {args.size} pixels with {n_objects} objects written in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    for row in (segment(args.folder, args.size, args, kill_at=args.kill_at), check(args.folder, args)):
        for name, value in row.items():
            print(f"{name:>24}: {value:.3f}" if isinstance(value, float) else f"{name:>24}: {value}", flush=True)
    if not args.keep:
        shutil.rmtree(args.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "prove"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 3072, 4096])
    parser.add_argument("--size", type=int, default=16_000)
    parser.add_argument("--kill_at", type=float, default=0.3, help="After this part of the blocks.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory_limit", default="auto")
    parser.add_argument("--block", type=int, default=BLOCK_SHAPE[2][0])
    parser.add_argument("--halo", type=int, default=HALO[2][0])
    parser.add_argument("--mode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-m", "--model", default="vit_t_builtin")
    parser.add_argument("--folder", type=Path, default=Path("distributed_benchmark"))
    parser.add_argument("--every", type=int, default=10, help="Say so after every so many blocks.")
    parser.add_argument("--keep", action="store_true", help="Keep image and labels.")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (cost if args.what == "cost" else prove)(args)


if __name__ == "__main__":
    main()
