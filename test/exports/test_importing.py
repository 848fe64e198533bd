"""What other programs made becomes labels; what does not fit is said in one sentence."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import roifile
import tifffile
from export_toys import CLASSES, SQUARE, movie, plane, volume
from pycocotools import mask as coco_mask

from micro_sam.errors import InputError, MicroSamError, MissingInputError, OutputError, ParameterError
from micro_sam.exports import FORMATS, ImportSettings, export_labels, import_labels

SHAPES = [name for name, found in FORMATS.items() if found.readable and not found.is_tracks]
OUTLINED = [".geojson", ".zip", ".json"]


def square(x: float, y: float, size: float, **properties) -> dict:
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write_features(path, *features) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))


# There and back


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", [plane, volume, lambda: np.zeros((9, 7), np.uint16)], ids=["plane", "volume", "empty"])
def test_what_was_exported_comes_back_pixel_by_pixel(name, make, tmp_path):
    labels = make()
    path = export_labels(tmp_path / f"a{FORMATS[name].suffixes[0]}", labels, classes=CLASSES, resolution=SQUARE)
    found = import_labels(path, labels.shape)
    assert found.labels.shape == labels.shape and (found.labels == labels).all() and not found.notes
    if name in ("imagej", "geojson", "coco"):
        assert found.classes == {label: c for label, c in CLASSES.items() if label in labels}
    elif labels.ndim == 2 and name != "tif":
        assert found.resolution.size == SQUARE.size and found.resolution.unit == SQUARE.unit


@pytest.mark.parametrize("name", ["tracks", "tracks.geff"])
def test_tracks_come_back_with_their_lineages(name, tmp_path):
    labels, lineages = movie()
    path = export_labels(tmp_path / name, labels, lineages=lineages, is_timeseries=True)
    found = import_labels(path, labels.shape)
    assert (found.labels == labels).all() and found.is_timeseries
    assert [family for family in found.lineages if len(family) > 1] == lineages


# Rules for shapes of others


def test_where_objects_overlap_the_smaller_one_is_kept(tmp_path):
    write_features(tmp_path / "a.geojson", square(12, 12, 4), square(10, 10, 20), square(25, 25, 10))
    found = import_labels(tmp_path / "a.geojson", (40, 40))
    assert [int((found.labels == label).sum()) for label in (1, 2, 3)] == [16, 400 - 16 - 25, 100]
    assert found.notes == ("Objects overlap in 41 pixels; there the smaller one is kept.",)


def test_objects_outside_of_the_image_are_cut_or_left_out(tmp_path):
    write_features(tmp_path / "a.geojson", square(-5, -5, 10), square(100, 100, 10), square(10.6, 10.6, 0.5))
    found = import_labels(tmp_path / "a.geojson", (40, 40))
    assert (found.labels > 0).sum() == 25 and found.labels[:5, :5].all()
    assert found.notes == ("2 objects are outside of the image (40 x 40) or without a pixel, and left out.",)


def test_a_scale_brings_objects_of_a_smaller_copy_to_the_image(tmp_path):
    labels = plane()
    for suffix in (*OUTLINED, ".tif"):
        path = export_labels(tmp_path / f"a{suffix}", labels)
        found = import_labels(path, (128, 160), settings=ImportSettings(scale=2))
        assert (found.labels == np.kron(labels, np.ones((2, 2), int))).all(), suffix
        back = import_labels(
            export_labels(tmp_path / f"b{suffix}", found.labels), (64, 80), settings=ImportSettings(scale=0.5)
        )
        assert (back.labels == labels).all(), suffix


def test_labels_of_another_size_name_the_scale_that_fits(tmp_path):
    for suffix in (".tif", ".json"):
        path = export_labels(tmp_path / f"a{suffix}", plane())
        with pytest.raises(InputError, match="with the scale 2 they fit"):
            import_labels(path, (128, 160))
        with pytest.raises(InputError, match="choose the labels of this image"):
            import_labels(path, (64, 160))


def test_objects_without_numbers_are_numbered_in_their_order(tmp_path):
    write_features(
        tmp_path / "a.geojson", square(1, 1, 3, name="7"), square(10, 10, 3, name="Tumor"), square(20, 20, 3)
    )
    found = import_labels(tmp_path / "a.geojson", (40, 40))
    assert [found.labels[2, 2], found.labels[11, 11], found.labels[21, 21]] == [1, 2, 3]
    assert "numbered from 1" in found.notes[0]


def test_an_object_goes_on_in_other_planes_under_its_number(tmp_path):
    first, second = square(1, 1, 3, name="7"), square(2, 2, 3, name="7")
    second["geometry"]["plane"] = {"c": -1, "z": 2, "t": 0}
    write_features(tmp_path / "a.geojson", first, second)
    found = import_labels(tmp_path / "a.geojson", (3, 9, 9))
    assert [set(np.unique(p)) for p in found.labels] == [{0, 7}, {0}, {0, 7}]
    flat = import_labels(tmp_path / "a.geojson", (9, 9))
    assert (flat.labels > 0).sum() == 9 and "because the image has 1" in flat.notes[0]


# QuPath, ImageJ, StarDist, Cellpose


def test_classes_of_qupath_are_read(tmp_path):
    lines = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "properties": {}}
    write_features(
        tmp_path / "a.geojson",
        square(1, 1, 3, objectType="cell", classification={"name": "Tumor", "color": [200, 0, 0]}),
        square(10, 10, 3, classification={"names": ["Tumor", "Positive"]}),
        lines,
    )
    found = import_labels(tmp_path / "a.geojson", (40, 40))
    assert found.classes == {1: "Tumor", 2: "Tumor: Positive"}
    assert found.notes == ("Objects of the type LineString have no area and are left out.",)


def test_rois_drawn_in_imagej_are_read(tmp_path):
    rectangle = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, top=2, left=3, bottom=6, right=9, name="0004-0006")
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, top=20, left=20, bottom=30, right=30, name="0025-0025")
    points = roifile.ImagejRoi.frompoints([[1, 1], [2, 2]], name="points")
    points.roitype = roifile.ROI_TYPE.POINT
    roifile.roiwrite(tmp_path / "RoiSet.zip", [rectangle, oval, points])
    found = import_labels(tmp_path / "RoiSet.zip", (40, 40))
    assert (found.labels == 1).sum() == 24 and found.labels[2:6, 3:9].all()
    assert 72 <= (found.labels == 2).sum() <= 84 and found.labels[25, 25] == 2
    assert found.notes == ("ROIs of the type point have no area and are left out.",)


def test_polygons_of_stardist_with_a_position_are_read(tmp_path):
    rois = []
    for k in range(3):
        points = np.array([[4.6 + k, 4.6], [10.6 + k, 4.6], [10.6 + k, 10.6], [4.6 + k, 10.6]])
        rois.append(roifile.ImagejRoi.frompoints(points, name=f"{k:03d}-0001", position=k))
    roifile.roiwrite(tmp_path / "a.zip", rois)
    found = import_labels(tmp_path / "a.zip", (3, 20, 20))
    for k in range(3):
        assert (found.labels[k] == k + 1).sum() == 36 and (found.labels[k, 5:11, 5 + k : 11 + k] == k + 1).all()
    rois[0].position = 0
    roifile.roiwrite(tmp_path / "b.zip", rois)
    with pytest.raises(InputError, match="no position in the stack"):
        import_labels(tmp_path / "b.zip", (3, 20, 20))


def test_masks_of_cellpose_are_read(tmp_path):
    import imageio.v3 as iio

    labels = (plane() % 70000).astype(np.uint16)
    iio.imwrite(tmp_path / "cells_cp_masks.png", labels)
    tifffile.imwrite(tmp_path / "cells_cp_masks.tif", labels.astype(np.float32))
    for path in tmp_path.iterdir():
        assert (import_labels(path, labels.shape).labels == labels).all()


def test_a_pickled_result_of_cellpose_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    np.save(tmp_path / "cells_seg.npy", np.array({"masks": Trap()}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"Save masks as PNG/tif.*_cp_masks"):
        import_labels(tmp_path / "cells_seg.npy", (9, 9))
    (tmp_path / "other.npy").write_bytes(pickle.dumps(Trap()))  # without the header of a .npy file
    with pytest.raises(MicroSamError):
        import_labels(tmp_path / "other.npy", (9, 9))
    assert not (tmp_path / "opened").exists()


# COCO


def test_compressed_masks_and_images_by_name_are_read(tmp_path):
    labels = plane()
    annotations = []
    for k, label in enumerate((1, 2)):
        found = coco_mask.encode(np.asfortranarray(labels == label).astype(np.uint8))
        segmentation = {"size": found["size"], "counts": found["counts"].decode()}
        annotations.append({"id": k, "image_id": 10 + k, "category_id": 1, "segmentation": segmentation})
    annotations.append({"id": 9, "image_id": 10, "category_id": 1, "bbox": [1, 1, 2, 2]})
    images = [{"id": 10 + k, "file_name": f"{k}.png", "height": 64, "width": 80} for k in range(2)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = import_labels(tmp_path / "a.json", (64, 80), key="1.png")
    assert ((found.labels > 0) == (labels == 2)).all() and found.classes == {1: "cell"}
    both = import_labels(tmp_path / "a.json")
    assert both.labels.shape == (2, 64, 80) and "without a mask" in both.notes[0]
    with pytest.raises(InputError, match="holds 2 images.*name one with a key: 0.png, 1.png"):
        import_labels(tmp_path / "a.json", (64, 80))
    with pytest.raises(MissingInputError, match="has no image 'x'"):
        import_labels(tmp_path / "a.json", key="x")


# TrackMate

_TRACKMATE = """<TrackMate version="7.11.1"><Model spatialunits="micron" timeunits="frame">
<AllSpots nspots="4">
<SpotsInFrame frame="0"><Spot ID="1" FRAME="0" POSITION_X="4.75" POSITION_Y="4.75" VISIBILITY="1" ROI_N_POINTS="4">
-2 -2 2 -2 2 2 -2 2</Spot></SpotsInFrame>
<SpotsInFrame frame="1"><Spot ID="2" FRAME="1" POSITION_X="3.75" POSITION_Y="4.75" VISIBILITY="1" ROI_N_POINTS="4">
-1 -2 1 -2 1 2 -1 2</Spot><Spot ID="3" FRAME="1" POSITION_X="6.75" POSITION_Y="4.75" VISIBILITY="1" ROI_N_POINTS="4">
-1 -2 1 -2 1 2 -1 2</Spot><Spot ID="4" FRAME="1" POSITION_X="1" POSITION_Y="1" VISIBILITY="0">-1 -1 1 -1 1 1</Spot>
</SpotsInFrame></AllSpots>
<AllTracks><Track TRACK_ID="0"><Edge SPOT_SOURCE_ID="1" SPOT_TARGET_ID="2"/><Edge SPOT_SOURCE_ID="1" SPOT_TARGET_ID="3"/>
</Track></AllTracks><FilteredTracks><TrackID TRACK_ID="0"/></FilteredTracks></Model>
<Settings><ImageData width="20" height="20" nslices="1" nframes="2" pixelwidth="0.5" pixelheight="0.5"/></Settings></TrackMate>"""


def test_a_division_in_trackmate_is_read_with_its_outlines(tmp_path):
    (tmp_path / "a.xml").write_text(_TRACKMATE)
    found = import_labels(tmp_path / "a.xml", (2, 20, 20))
    [family] = found.lineages
    [mother] = [track for track, daughters in family.items() if daughters]
    # 4 um wide around 4.75 um, pixels of 0.5 um counted from the centre of the first one
    assert (found.labels[0] == mother).sum() == 64 and (found.labels[0, 6:14, 6:14] == mother).all()
    assert {found.labels[1, 10, 8], found.labels[1, 10, 14]} == set(family[mother])
    assert (found.labels[1] > 0).sum() == 64
    assert found.resolution.size == {"y": 0.5, "x": 0.5} and found.resolution.unit == "micrometer"


def test_spots_without_outlines_say_what_to_do(tmp_path):
    text = (
        _TRACKMATE.replace("-2 -2 2 -2 2 2 -2 2", "").replace("-1 -2 1 -2 1 2 -1 2", "").replace("-1 -1 1 -1 1 1", "")
    )
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match="points without contours"):
        import_labels(tmp_path / "a.xml", (2, 20, 20))


# What cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", "{", "cannot be read as JSON"),
        ("a.geojson", '{"type": "FeatureCollection"}', "holds no GeoJSON features"),
        ("a.geojson", '[{"type": "Polygon", "coordinates": [[["a", 1]]]}]', "not numbers"),
        ("a.json", '{"images": []}', "no COCO document"),
        ("a.json", '{"images": [{}], "annotations": []}', "not as expected"),
        ("a.zip", "nothing", "holds no ImageJ ROIs"),
        ("a.xml", "<a>", "cannot be read as XML"),
        ("a.xml", "<a/>", "no file of TrackMate"),
        ("a.txt", "hello", "no labels beside"),
        ("a.docx", "hello", "not in a format"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_sentence(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        import_labels(tmp_path / name, (9, 9))
    assert len(str(caught.value).splitlines()) == 1 and name in str(caught.value)


def test_outlines_need_the_size_of_the_image(tmp_path):
    for suffix in (".geojson", ".zip"):
        with pytest.raises(InputError, match="give the image"):
            import_labels(export_labels(tmp_path / f"a{suffix}", plane()))


# Writing


def test_nothing_is_overwritten_unasked(tmp_path):
    for suffix in (".geojson", ".tif", ".ome.zarr", ".csv", ".zip"):
        path = export_labels(tmp_path / f"a{suffix}", plane())
        with pytest.raises(OutputError, match="exists and is not replaced"):
            export_labels(path, plane() * 0)
        export_labels(path, plane() * 0, overwrite=True)
    assert (import_labels(tmp_path / "a.geojson", (64, 80)).labels == 0).all()


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    path = export_labels(tmp_path / "a.geojson", plane())
    before = path.read_bytes()
    monkeypatch.setattr("json.dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OutputError, match="disk full"):
        export_labels(path, plane(), overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(OutputError, match="names no format"):
        export_labels(tmp_path / "a.docx", plane())
    with pytest.raises(ParameterError, match="needs a time series"):
        export_labels(tmp_path / "tracks", volume())
    with pytest.raises(ParameterError, match="image has the shape"):
        export_labels(tmp_path / "a.csv", plane(), image=np.zeros((5, 5)))
    with pytest.raises(ParameterError, match="Labels are integers"):
        export_labels(tmp_path / "a.csv", plane().astype(float))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "suffix"), [("pyarrow", ".parquet")])
def test_a_missing_package_is_named(module, suffix, tmp_path, monkeypatch):
    from micro_sam.errors import MissingDependencyError
    from micro_sam.exports import tables

    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"{module}.*pip install 'micro_sam\[export\]'"):
        export_labels(tmp_path / f"a{suffix}", plane())


def test_labels_beyond_32_bit_are_written_where_they_fit(tmp_path):
    labels = np.array([[0, 2**33]], np.uint64)
    with pytest.raises(ParameterError, match="write .zarr instead"):
        export_labels(tmp_path / "a.tif", labels)
    assert (import_labels(export_labels(tmp_path / "a.zarr", labels)).labels == labels).all()
    write_features(tmp_path / "a.geojson", square(1, 1, 3, name=str(2**40)))
    assert import_labels(tmp_path / "a.geojson", (9, 9)).labels.max() == 1
