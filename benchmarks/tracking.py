"""Cell Tracking Challenge measures (DET, TRA, SEG) on synthetic time series, with linkers side by side.

    pip install py-ctcmetrics
    python benchmarks/tracking.py [--frames 20] [--size 256] [--seeds 1 2 3] [--model vit_t_builtin] [--montage FOLDER]

For the settings easy and hard, the mean over the seeds of two kinds of rows: frames linked from the true masks ("masks"), and
frames segmented by the model and then linked ("end to end"). The linkers are ours, and two of laptrack with its
own parameters: centroids that move at most 15 pixels, and overlap. Division is the F1 score of divisions that are found
in the right frame (BC(0) of the Cell Tracking Challenge). --montage writes pictures of some frames with the colours of tracks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile

from micro_sam.io import write_ctc
from micro_sam.multi_dimensional_segmentation.tracking_lap import link_objects
from micro_sam.multi_dimensional_segmentation.tracking_objects import ObjectSeries, iter_measure_series
from micro_sam.multi_dimensional_segmentation.tracking_tracks import iter_paint, lineages_of, tracks_from_links
from micro_sam.progress import drain
from micro_sam.sample_data import Timeseries, synthetic_timeseries

MEASURES = ["Valid", "DET", "TRA", "SEG", "BC"]
Link = tuple[tuple[int, int], tuple[int, int]]


def link_by_centroids(series: ObjectSeries, labels: np.ndarray) -> list[Link]:
    """laptrack with its default parameters and division."""
    from laptrack import LapTrack

    graph = LapTrack(splitting_cutoff=15**2).predict([frame.centres for frame in series.frames])
    return [(tuple(map(int, a)), tuple(map(int, b))) for a, b in graph.edges]


def link_by_overlap(series: ObjectSeries, labels: np.ndarray) -> list[Link]:
    """laptrack by the overlap of masks, with division."""
    from laptrack import OverLapTrack

    tracker = OverLapTrack(cutoff=0.9, gap_closing_cutoff=0.9, splitting_cutoff=0.9)
    tracks, splits, _ = tracker.predict_overlap_dataframe(labels.astype(np.int64))
    places: dict[int, list[tuple[int, int]]] = {}
    for (frame, label), row in tracks.sort_index().iterrows():
        place = (int(frame), int(np.searchsorted(series.frames[frame].ids, label)))
        places.setdefault(int(row["track_id"]), []).append(place)
    links = [pair for nodes in places.values() for pair in pairwise(nodes)]
    mothers = zip(splits.get("parent_track_id", ()), splits.get("child_track_id", ()), strict=True)
    return links + [(places[mother][-1], places[child][0]) for mother, child in mothers]


LINKERS: dict[str, Callable[[ObjectSeries, np.ndarray], list[Link]]] = {
    "micro_sam": lambda series, labels: link_objects(series),
    "laptrack centroids 15 px": link_by_centroids,
    "laptrack overlap": link_by_overlap,
}


def track(labels: np.ndarray, linker: str) -> tuple[np.ndarray, list[dict[int, list[int]]], float]:
    """Tracked labels, lineages and the seconds that linking took."""
    start = time.perf_counter()
    series = drain(iter_measure_series(labels))
    links = LINKERS[linker](series, labels)
    seconds = time.perf_counter() - start
    tracks = tracks_from_links(series.frames, links)
    return drain(iter_paint(labels, series.frames, tracks)), lineages_of(tracks), seconds


def scores(labels: np.ndarray, lineages: list[dict[int, list[int]]], truth: Timeseries) -> dict[str, float]:
    """The measures, from folders in the format of the challenge."""
    from ctc_metrics import evaluate_sequence

    with tempfile.TemporaryDirectory() as folder:
        result, reference = Path(folder) / "01_RES", Path(folder) / "01_GT"
        reference.mkdir()
        write_ctc(result, labels, lineages)
        write_ctc(reference / "TRA", truth.labels, truth.lineages, reference=True)
        (reference / "SEG").mkdir()
        for path in sorted((reference / "TRA").glob("*.tif")):
            tifffile.imwrite(reference / "SEG" / path.name.replace("man_track", "man_seg"), tifffile.imread(path))
        with contextlib.redirect_stdout(io.StringIO()):
            found = evaluate_sequence(str(result), str(reference), list(MEASURES), threads=1)
    names = {"Valid": "valid", "DET": "DET", "TRA": "TRA", "SEG": "SEG", "BC(0)": "division"}
    return {name: np.nan if found[key] is None else float(found[key]) for key, name in names.items()}


def segment(images: np.ndarray, model: str) -> np.ndarray:
    """Every frame segmented for itself."""
    from micro_sam.automatic_segmentation import get_predictor_and_segmenter, model_defaults
    from micro_sam.multi_dimensional_segmentation.tracking_frames import iter_segment_frames

    predictor, segmenter = get_predictor_and_segmenter(model)
    settings = model_defaults(predictor, segmenter)
    return drain(iter_segment_frames(images, predictor, segmenter, generate_kwargs=settings))[0]


def write_montage(path: Path, images: np.ndarray, rows: Sequence[np.ndarray], n_frames: int = 6) -> None:
    """Some frames, and under them labels in colours that are the same in all frames."""
    import imageio.v3 as imageio

    colours = np.random.default_rng(0).integers(70, 256, (max(int(row.max()) for row in rows) + 1, 3), dtype=np.uint8)
    colours[0] = 0
    picked = np.linspace(0, len(images) - 1, n_frames).round().astype(int)
    lines = [np.repeat(images[picked][..., None], 3, axis=-1), *(colours[row[picked]] for row in rows)]
    imageio.imwrite(path, np.concatenate([np.concatenate(line, axis=1) for line in lines]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="Height and width in pixels.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--model", default="vit_t_builtin", help="For end to end; 'none' leaves it out.")
    parser.add_argument("--montage", type=Path, help="Folder for pictures.")
    args = parser.parse_args()
    columns = ("valid", "DET", "TRA", "SEG", "division", "seconds")
    print(f"{'setting':8}{'from':12}{'linker':26}" + "".join(f"{name:>10}" for name in columns))
    for setting in ("easy", "hard"):
        rows: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed in args.seeds:
            truth = synthetic_timeseries((args.frames, args.size, args.size), seed=seed, setting=setting)
            sources = {"masks": truth.labels}
            if args.model != "none":
                sources["end to end"] = segment(truth.images, args.model)
            for source, labels in sources.items():
                for linker in LINKERS:
                    tracked, lineages, seconds = track(labels, linker)
                    row = scores(tracked, lineages, truth) | {"seconds": seconds}
                    rows.setdefault((source, linker), []).append(row)
                    if args.montage is not None and linker == "micro_sam":
                        name = f"{setting}_{source.replace(' ', '_')}_{seed}.png"
                        write_montage(args.montage / name, truth.images, [truth.labels, tracked])
        for (source, linker), found in rows.items():
            means = [np.mean([row[name] for row in found]) for name in columns]
            print(f"{setting:8}{source:12}{linker:26}" + "".join(f"{mean:10.3f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
