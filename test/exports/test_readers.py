"""Each format is opened by the reader that others use and compared object by object."""

from __future__ import annotations

import json

import geff
import geopandas
import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pandas as pd
import pytest
import roifile
import shapely
import tifffile
from export_toys import CLASSES, FLAT, LARGE_ID, LEFT, PIECES, RING, SQUARE, movie, plane, volume
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from micro_sam.exports import ExportSettings, export_labels
from micro_sam.io import Resolution

EMPTY = np.zeros((20, 30), np.uint16)
VOLUMES = {"plane": plane(), "volume": volume(), "empty": EMPTY}


def masks_of(labels: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """(plane, label) -> mask of the object there."""
    planes = labels[None] if labels.ndim == 2 else labels
    return {(k, i): p == i for k, p in enumerate(planes) for i in np.unique(p).tolist() if i}


@pytest.fixture(params=VOLUMES)
def labels(request) -> np.ndarray:
    return VOLUMES[request.param]


# QuPath


def test_geopandas_finds_the_same_objects_in_geojson(labels, tmp_path):
    path = export_labels(tmp_path / "a.geojson", labels, classes=CLASSES, resolution=SQUARE)
    document = json.loads(path.read_text())
    expected = masks_of(labels)
    if not expected:
        assert document == {"type": "FeatureCollection", "features": []}
        return
    frame = geopandas.read_file(path)
    assert len(frame) == len(expected) and frame.geometry.is_valid.all()
    y, x = np.mgrid[: labels.shape[-2], : labels.shape[-1]] + 0.5
    for row, feature in zip(frame.itertuples(), document["features"], strict=True):
        z = feature["geometry"].get("plane", {"z": 0})["z"]
        mask = expected.pop((z, int(row.name)))
        assert (shapely.contains_xy(row.geometry, x, y) == mask).all()
        assert row.geometry.area == mask.sum()
    assert not expected


def test_geojson_has_what_qupath_reads(tmp_path):
    path = export_labels(
        tmp_path / "a.geojson", plane(), classes=CLASSES, settings=ExportSettings(qupath_object="detection")
    )
    features = {feature["properties"]["name"]: feature for feature in json.loads(path.read_text())["features"]}
    ring, pieces = features[str(RING)], features[str(PIECES)]
    assert ring["geometry"]["type"] == "Polygon" and len(ring["geometry"]["coordinates"]) == 2
    assert pieces["geometry"]["type"] == "MultiPolygon" and len(pieces["geometry"]["coordinates"]) == 2
    assert ring["properties"]["objectType"] == "detection"
    assert ring["properties"]["classification"]["name"] == "tumor"
    assert "classification" not in pieces["properties"]
    colors = {
        tuple(f["properties"]["classification"]["color"])
        for f in features.values()
        if "classification" in f["properties"]
    }
    assert len(colors) == 2 and all(0 <= part <= 255 for color in colors for part in color)
    identities = [feature["id"] for feature in features.values()]
    assert len(set(identities)) == len(identities) and all(len(identity) == 36 for identity in identities)


def test_frames_of_a_time_series_are_time_points_in_geojson(tmp_path):
    path = export_labels(tmp_path / "a.geojson", movie()[0], is_timeseries=True)
    planes = {tuple(f["geometry"]["plane"].values()) for f in json.loads(path.read_text())["features"]}
    assert planes == {(-1, 0, 0), (-1, 0, 1), (-1, 0, 2)}


# ImageJ


def mask_of_roi(roi: roifile.ImagejRoi, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for ring in roi.coordinates(multi=True):
        mask ^= polygon2mask(shape, ring[:, ::-1] - 0.5)
    return mask


def test_roifile_finds_the_same_objects(labels, tmp_path):
    path = export_labels(tmp_path / "a.zip", labels, classes=CLASSES)
    expected = masks_of(labels)
    rois = roifile.roiread(path)
    assert len({roi.name for roi in rois}) == len(rois) == len(expected)
    for roi in rois:
        label = int(roi.name.split("_")[0])
        mask = expected.pop((max(roi.position - 1, 0), label))
        assert (mask_of_roi(roi, labels.shape[-2:]) == mask).all()
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        assert (roi.top, roi.left, roi.bottom, roi.right) == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert roi.properties.get("class") == CLASSES.get(label)
        assert roi.composite == (label not in (LEFT, LARGE_ID, 3, 9, 12))
    assert not expected


def test_rois_of_a_hyperstack_have_a_slice_or_a_frame(tmp_path):
    image = np.zeros((*volume().shape, 2), np.uint8)
    for is_timeseries, name in ((False, "z_position"), (True, "t_position")):
        path = export_labels(tmp_path / f"{name}.zip", volume(), image=image, is_timeseries=is_timeseries)
        assert {getattr(roi, name) for roi in roifile.roiread(path)} == {1, 2, 3}


# COCO


def test_pycocotools_finds_the_same_objects(labels, tmp_path):
    coco = COCO(export_labels(tmp_path / "a.json", labels, classes=CLASSES))
    expected = masks_of(labels)
    assert len(coco.getImgIds()) == (1 if labels.ndim == 2 else len(labels))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    for found in coco.loadAnns(coco.getAnnIds()):
        mask = expected.pop((found["image_id"] - 1, found["object_id"]))
        assert (coco.annToMask(found) == mask).all()
        assert found["area"] == mask.sum()
        y, x = np.nonzero(mask)
        assert found["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert names[found["category_id"]] == CLASSES.get(found["object_id"], "object")
    assert not expected


def test_coco_polygons_are_filled_as_pycocotools_does(tmp_path):
    labels = plane()
    coco = COCO(export_labels(tmp_path / "a.json", labels, settings=ExportSettings(coco_masks="polygon")))
    for found in coco.loadAnns(coco.getAnnIds()):
        mask, label = coco.annToMask(found) > 0, found["object_id"]
        expected = (labels == label) | (
            np.isin(labels, (0, LARGE_ID)) & mask if label == RING else False
        )  # holes are lost
        assert (mask & expected).sum() / (mask | expected).sum() > 0.99


# Label images


def test_tifffile_reads_imagej_labels_with_their_voxel_size(tmp_path):
    labels = (volume() % 70000).astype(np.uint16)
    path = export_labels(tmp_path / "a.tif", labels, resolution=FLAT)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej and tif.series[0].axes == "ZYX"
        assert tif.imagej_metadata["spacing"] == 2.0 and tif.imagej_metadata["unit"] in ("micron", "um", "µm")
        pixels = [tif.pages[0].tags[name].value for name in ("YResolution", "XResolution")]
        assert [n / per for n, per in pixels] == [2.0, 4.0]
        assert (tif.asarray() == labels).all()


@pytest.mark.parametrize("resolution", [FLAT, Resolution({})])
def test_tifffile_reads_ome_labels_with_their_voxel_size(resolution, tmp_path):
    path = export_labels(tmp_path / "a.ome.tif", volume(), resolution=resolution)
    with tifffile.TiffFile(path) as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        sizes = {axis: pixels.get(f"PhysicalSize{axis.upper()}") for axis in "zyx"}
        assert sizes == {axis: resolution.size.get(axis) for axis in "zyx"}
        assert resolution.unit is None or pixels["PhysicalSizeZUnit"] == "µm"
        assert (tif.asarray() == volume()).all() and tif.asarray().max() == LARGE_ID


def test_ome_zarr_reads_labels_with_their_voxel_size(tmp_path):
    path = export_labels(tmp_path / "a.ome.zarr", volume(), resolution=FLAT)
    [node] = ome_zarr.reader.Reader(ome_zarr.io.parse_url(path))()
    assert (np.asarray(node.data[0]) == volume()).all()
    assert node.metadata["coordinateTransformations"][0][0]["scale"] == [2.0, 0.5, 0.25]
    assert [(axis["name"], axis["unit"]) for axis in node.metadata["axes"]] == [(a, "micrometer") for a in "zyx"]


# Tracks


def test_a_challenge_folder_holds_the_tracks(tmp_path):
    labels, lineages = movie()
    folder = export_labels(tmp_path / "tracks", labels, lineages=lineages, is_timeseries=True)
    for frame, expected in enumerate(labels):
        assert (tifffile.imread(folder / f"mask{frame:03d}.tif") == expected).all()
    table = {row[0]: row[1:].tolist() for row in np.loadtxt(folder / "res_track.txt", dtype=int)}
    assert table[LEFT] == [0, 0, 0] and table[20] == table[21] == [1, 2, LEFT] and table[RING] == [0, 2, 0]


def test_geff_reads_the_tracks(tmp_path):
    labels, lineages = movie()
    export_labels(tmp_path / "tracks.geff", labels, lineages=lineages, is_timeseries=True, resolution=SQUARE)
    graph, _ = geff.read(tmp_path / "tracks.geff")
    assert {(data["t"], data["track_id"]) for _, data in graph.nodes(data=True)} == set(masks_of(labels))
    for _, data in graph.nodes(data=True):
        mask = labels[data["t"]] == data["track_id"]
        assert [data["y"], data["x"]] == pytest.approx([places.mean() for places in np.nonzero(mask)])
    [mother] = [n for n, data in graph.nodes(data=True) if data["track_id"] == LEFT]
    assert {graph.nodes[n]["track_id"] for n in graph.successors(mother)} == {20, 21}
    assert (tifffile.imread(tmp_path / "tracks.tif") == labels).all()


# Tables


@pytest.mark.parametrize(("suffix", "read"), [(".csv", pd.read_csv), (".parquet", pd.read_parquet)])
def test_pandas_reads_measurements_in_physical_units(suffix, read, tmp_path):
    labels = volume()
    image = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    table = read(export_labels(tmp_path / f"a{suffix}", labels, resolution=FLAT, image=image, classes=CLASSES))
    assert table["label"].tolist() == np.unique(labels)[1:].tolist()
    for row in table.to_dict("records"):
        mask = labels == row["label"]
        places = np.nonzero(mask)
        assert row["volume_px"] == mask.sum()
        assert row["volume_um3"] == pytest.approx(mask.sum() * 2.0 * 0.5 * 0.25)
        for axis, found, size in zip("zyx", places, (2.0, 0.5, 0.25), strict=True):
            assert row[f"centroid_{axis}_um"] == pytest.approx(found.mean() * size)
            assert (row[f"bbox_{axis}_min_px"], row[f"bbox_{axis}_max_px"]) == (found.min(), found.max() + 1)
        for channel in range(3):
            assert row[f"intensity_mean_c{channel}"] == pytest.approx(image[mask][:, channel].mean())
            assert row[f"intensity_sum_c{channel}"] == image[mask][:, channel].sum()
    classes = dict(zip(table["label"], table["class"]))
    assert {label: name for label, name in classes.items() if isinstance(name, str)} == CLASSES


def test_the_table_of_an_empty_image_has_its_columns(tmp_path):
    image = np.zeros((20, 30))
    empty = pd.read_csv(export_labels(tmp_path / "a.csv", EMPTY, image=image, resolution=SQUARE))
    full = pd.read_csv(export_labels(tmp_path / "b.csv", plane()[:20, :30], image=image, resolution=SQUARE))
    assert len(empty) == 0 and list(empty.columns) == list(full.columns)
