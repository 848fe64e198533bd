"""``micro_sam.export``: files in, files out, and one line for what is wrong."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import tifffile
from export_toys import CLASSES, SQUARE, movie, plane, volume

from micro_sam.cli import export as command
from micro_sam.exports import ExportSettings, ImportSettings, export_labels, import_labels
from micro_sam.io import read_tracks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with labels, an image with its pixel size, and a table of classes."""
    export_labels(tmp_path / "labels.tif", plane(), resolution=SQUARE)
    image = np.random.default_rng(0).integers(0, 4000, plane().shape, np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", image, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    pd.DataFrame({"label": list(CLASSES), "class": list(CLASSES.values())}).to_csv(tmp_path / "classes.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> int:
    return command.main(line.split())


def test_from_labels_to_qupath_and_back(folder, capsys):
    assert run("-i labels.tif -o a.geojson --classes classes.csv --qupath_object cell") == 0
    assert "labels.tif: 8 objects -> a.geojson" in capsys.readouterr().out
    kinds = {f["properties"]["objectType"] for f in json.loads((folder / "a.geojson").read_text())["features"]}
    assert kinds == {"cell"}
    assert run("-i a.geojson --image image.tif -o back.ome.tif") == 0
    back = import_labels(folder / "back.ome.tif")
    assert (back.labels == plane()).all() and back.resolution.size == {"y": 0.25, "x": 0.25}
    assert run("-i a.geojson --image image.tif -o back.csv") == 0
    table = pd.read_csv(folder / "back.csv")
    assert {k: v for k, v in zip(table["label"], table["class"]) if isinstance(v, str)} == CLASSES


def test_the_pixel_size_is_given_or_that_of_the_image_or_of_the_labels(folder):
    for flags, size in (("", 0.5), ("--image image.tif", 0.25), ("--image image.tif --pixel_size 3", 3)):
        assert run(f"-i labels.tif -o a.csv --overwrite --no-shape_descriptors {flags}") == 0
        table = pd.read_csv(folder / "a.csv")
        assert table["area_um2"].tolist() == pytest.approx((table["area_px"] * size**2).tolist())
        assert ("intensity_mean" in table) == ("--image" in flags) and "solidity" not in table
    assert run("-i labels.tif -o a.csv --overwrite --pixel_size 200 100 --unit nm") == 0
    assert pd.read_csv(folder / "a.csv")["area_nm2"].sum() == (plane() > 0).sum() * 20000


def test_several_files_go_to_a_folder(folder):
    (folder / "out").mkdir()
    export_labels(folder / "volume.tif", volume())
    assert run("-i labels.tif volume.tif -o out --format imagej") == 0
    assert (import_labels(folder / "out" / "labels.zip", plane().shape).labels == plane()).all()
    assert (import_labels(folder / "out" / "volume.zip", volume().shape).labels == volume()).all()


def test_classes_come_from_the_table_of_the_object_classifier(folder):
    pd.DataFrame({"id": [2, 3], "class_id": [1, 1], "class": ["round", "round"]}).to_csv(
        folder / "forest.csv", index=False
    )
    assert run("-i labels.tif -o a.json --classes forest.csv") == 0
    assert import_labels(folder / "a.json").classes == {2: "round", 3: "round"}


def test_tracks_change_their_format(folder):
    labels, lineages = movie()
    export_labels(folder / "tracked", labels, lineages=lineages, is_timeseries=True)
    assert run("-i tracked -o graph.geff") == 0
    found, families = read_tracks(folder / "graph.geff")
    assert (found == labels).all() and lineages[0] in families
    assert run("-i graph.geff -o again") == 0
    assert (import_labels(folder / "again").labels == labels).all()


def test_what_was_left_out_is_said(folder, capsys):
    export_labels(folder / "a.geojson", plane())
    assert run("-i a.geojson --image image.tif --scale 1.5 -o a.tif") == 0
    assert "outside of the image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-i missing.tif -o a.zip", "no file or folder 'missing.tif'"),
        ("-i labels.tif -o a.docx", "names no format"),
        ("-i labels.tif -o labels.tif --overwrite", "overwrite its own input"),
        ("-i labels.tif -o image.tif", "exists and is not replaced"),
        ("-i labels.tif -o none/a.zip", "does not exist"),
        ("-i labels.tif -o a.zip --format coco", "has .json; change one"),
        ("-i labels.tif classes.csv -o a.zip", "give an existing folder"),
        ("-i labels.tif -o a.zip --image image.tif labels.tif", "an image for each input, got 2 for 1"),
        ("-i labels.tif -o tracks", "needs a time series"),
        ("-i labels.tif -o a.zip --pixel_size 1 2 3 4", "got 4"),
        ("-i labels.tif -o a.zip --unit parsec", "expected a unit of length"),
        ("-i labels.tif -o a.zip --scale 0", "must be from 0.01 to 100"),
        ("-i labels.tif -o a.zip --classes labels.tif", "as a table"),
        ("-i labels.tif -o a.zip --classes image.tif --coco_masks boxes", "invalid choice"),
        ("-i image.tif -o a.zip --scale 0.5 --image labels.tif", "with the scale 1 they fit"),
    ],
)
def test_wrong_commands_are_one_line_and_exit_code_2(folder, line, message, capsys):
    before = sorted(folder.rglob("*"))
    try:
        code = run(line)
    except SystemExit as exit_:
        code = exit_.code
    err = capsys.readouterr().err
    assert code == 2 and message in err
    assert len(err.strip().splitlines()) == 1 and sorted(folder.rglob("*")) == before


def test_every_setting_has_a_flag():
    args = vars(command.build_parser().parse_args(["-i", "a", "-o", "b"]))
    for settings in (ExportSettings, ImportSettings):
        assert {item.name: args[item.name] for item in fields(settings)} == vars(settings())
