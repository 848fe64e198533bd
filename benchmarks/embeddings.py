"""Memory and resumption of the embedding computation, measured in processes of their own.

Two tables: the peak memory of tiled images of growing size, read from a memory map, beside what the model alone takes;
and a run that is killed (SIGKILL) and taken up again, beside one that was not.

    python benchmarks/embeddings.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

MIB = 2**20


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compute(said: Connection, model: str, image: str, store: str, options: dict) -> None:
    """Run in another process: compute the embeddings of a memory-mapped image and report.

    Sends the peak memory after loading the model and encoding one image, then the number of items encoded after every
    item, and at the end (peak memory, seconds).
    """
    from micro_sam.embeddings import iter_precompute
    from micro_sam.models.predictor import get_sam_model

    predictor = get_sam_model(model, device="cpu")
    predictor.set_image(np.zeros((1024, 1024, 3), dtype=np.uint8))
    said.send(peak_mib())
    start = time.perf_counter()
    handle = predictor.model.image_encoder.register_forward_hook(lambda *_: said.send(("encoded",)))
    for _ in iter_precompute(predictor, np.load(image, mmap_mode="r"), store, **options):
        pass
    handle.remove()
    said.send(("done", peak_mib(), time.perf_counter() - start))


class Run:
    """One such process; `baseline` is the memory of the model alone."""

    def __init__(self, model: str, image: Path, store: Path, **options) -> None:
        context = multiprocessing.get_context("spawn")
        self._heard, said = context.Pipe(duplex=False)
        self._process = context.Process(target=compute, args=(said, model, str(image), str(store), options))
        self._process.start()
        said.close()
        self.baseline: float = self._heard.recv()
        self.encoded = 0

    def until(self, n: int) -> None:
        """Wait until n images went through the encoder, then kill the process."""
        while self.encoded < n:
            self._heard.recv()
            self.encoded += 1
        self._process.kill()
        self._process.join()

    def finish(self) -> tuple[float, float]:
        """Wait for the end: peak memory in MiB and seconds."""
        while True:
            message = self._heard.recv()
            if message[0] == "done":
                self._process.join()
                return message[1], message[2]
            self.encoded += 1


def write_image(path: Path, shape: tuple[int, ...]) -> Path:
    """A 16 bit test image on disk, written plane by plane or row by row."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    generator = np.random.default_rng(0)
    for index in range(shape[0]):
        array[index] = generator.integers(0, 4000, shape[1:])
    array.flush()
    return path


def folder_mib(path: Path) -> float:
    """The size of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / MIB


def measure_memory(model: str, folder: Path, sides: list[int]) -> None:
    """Print the peak memory over the side length of a tiled image."""
    print(f"Tiled images (uint16, tiles 512 x 512, halo 64), {model}")
    print(
        f"{'image':>14} {'tiles':>6} {'input MiB':>10} {'store MiB':>10} {'model MiB':>10} {'peak MiB':>9} {'seconds':>8}"
    )
    for side in sides:
        image = write_image(folder / f"{side}.npy", (side, side))
        run = Run(model, image, folder / f"{side}.zarr", tile_shape=(512, 512), halo=(64, 64))
        peak, seconds = run.finish()
        sizes = f"{image.stat().st_size / MIB:>10.0f} {folder_mib(folder / f'{side}.zarr'):>10.0f}"
        print(f"{f'{side} x {side}':>14} {run.encoded:>6} {sizes} {run.baseline:>10.0f} {peak:>9.0f} {seconds:>8.1f}")


def measure_resumption(model: str, folder: Path, n_slices: int, kill_after: int) -> None:
    """Print what a killed and resumed run computes beside an uninterrupted one, and whether they agree."""
    from micro_sam.embeddings import EmbeddingStore

    image = write_image(folder / "stack.npy", (n_slices, 512, 512))
    whole = Run(model, image, folder / "whole.zarr")
    _, seconds = whole.finish()
    killed = Run(model, image, folder / "killed.zarr")
    killed.until(kill_after)
    left = EmbeddingStore.open(folder / "killed.zarr")
    missing = len(left.missing())
    resumed = Run(model, image, folder / "killed.zarr")
    _, rest = resumed.finish()
    stores = [EmbeddingStore.open(folder / name) for name in ("whole.zarr", "killed.zarr")]
    difference = max(np.abs(stores[0].read(item) - stores[1].read(item)).max() for item in left.metadata.items())
    print(f"\nKill and resume ({n_slices} slices of 512 x 512), {model}")
    print(f"  uninterrupted: {whole.encoded} slices encoded in {seconds:.1f} s")
    print(
        f"  SIGKILL when {killed.encoded} slices were encoded: {n_slices - missing} complete on disk, {missing} missing"
    )
    print(f"  second run: {resumed.encoded} slices encoded in {rest:.1f} s, store complete: {stores[1].is_complete}")
    print(f"  largest difference to the uninterrupted run: {difference:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model_type", default="vit_t_builtin", help="the model (default: %(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096], help="image sizes")
    parser.add_argument("--slices", type=int, default=10, help="slices of the run that is killed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_memory(arguments.model_type, Path(folder), arguments.sides)
        measure_resumption(arguments.model_type, Path(folder), arguments.slices, arguments.slices // 2)


if __name__ == "__main__":
    main()
