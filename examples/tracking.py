"""Segment and track a time series with the model that is part of micro_sam, and write all that others read.

    python examples/tracking.py [time series] [output folder]

Without a time series one is made, of which the true tracks are known.
"""

from __future__ import annotations

import sys
from pathlib import Path

from micro_sam.automatic_segmentation import automatic_tracking, get_predictor_and_segmenter
from micro_sam.io import load_image_data, read_geff, write_ctc, write_tracks
from micro_sam.multi_dimensional_segmentation import get_napari_track_data
from micro_sam.sample_data import synthetic_timeseries


def main(folder: Path = Path("demo_output"), path: str | None = None) -> None:
    """Track, write, read back, and say what was found."""
    images = synthetic_timeseries((6, 192, 192), seed=5, diameter=30).images if path is None else load_image_data(path)
    folder.mkdir(exist_ok=True)

    predictor, segmenter = get_predictor_and_segmenter("vit_t_builtin")
    labels, lineages = automatic_tracking(predictor, segmenter, images)
    write_tracks(folder / "tracked.tif", labels, lineages)  # and tracked.geff
    write_ctc(folder / "tracked_ctc", labels, lineages)

    divisions = [(mother, daughters) for family in lineages for mother, daughters in family.items() if daughters]
    print(f"{labels.max()} tracks in {len(lineages)} families, {len(divisions)} divisions:")
    for mother, daughters in divisions:
        print(f"  {mother} -> {', '.join(map(str, daughters))}")

    data, graph = get_napari_track_data(labels, lineages)  # viewer.add_tracks(data, graph=graph)
    again = read_geff(folder / "tracked.geff")
    print(f"{len(data)} objects in all frames, {len(again.points)} read back. Results are in {folder}.")
    print(f"{len(graph)} daughters know their mothers.")


if __name__ == "__main__":
    main(
        Path(sys.argv[2] if len(sys.argv) > 2 else "demo_output"),
        sys.argv[1] if len(sys.argv) > 1 else None,
    )
