from __future__ import annotations

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from yaozarrs import v05

from micro_sam.errors import OutputError, ParameterError
from micro_sam.io import load_image_data, open_image, write_labels
from micro_sam.io.label_pyramid import downsample_labels
from micro_sam.io.resolution import Resolution

LABELS = np.zeros((40, 60), np.int64)
LABELS[5:20, 5:30], LABELS[22:38, 31:55] = 1, 2


@pytest.mark.parametrize("name", ["out.tif", "out.tiff", "out.zarr", "out.ome.zarr"])
@pytest.mark.parametrize("labels", [LABELS, np.stack([LABELS] * 3)], ids=["2d", "3d"])
def test_labels_come_back(tmp_path, name, labels):
    write_labels(tmp_path / name, labels)
    again = load_image_data(tmp_path / name)
    assert again.dtype == np.uint16
    np.testing.assert_array_equal(again, labels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_objects_need_32_bit(tmp_path):
    labels = np.arange(300 * 300).reshape(300, 300)
    write_labels(tmp_path / "out.tif", labels)
    assert load_image_data(tmp_path / "out.tif").dtype == np.uint32
    np.testing.assert_array_equal(load_image_data(tmp_path / "out.tif"), labels)


def _tags(path) -> dict:
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        return {name: tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit")}


def test_tif_is_compressed_and_keeps_resolution_tags(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", LABELS.astype(np.uint16), resolution=(31000, 15500), resolutionunit=3)
    image = open_image(tmp_path / "in.tif")
    write_labels(tmp_path / "out.tif", LABELS, image.resolution)
    assert _tags(tmp_path / "out.tif") == _tags(tmp_path / "in.tif")
    assert image.resolution.size["x"] == pytest.approx(1e4 / 31000)
    assert open_image(tmp_path / "out.tif").resolution == image.resolution
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.pages[0].compression.name == "ADOBE_DEFLATE"


def test_imagej_resolution_unit_and_spacing_are_kept(tmp_path):
    volume = np.stack([LABELS] * 3).astype(np.uint16)
    metadata = {"axes": "ZYX", "unit": "micron", "spacing": 0.7}
    tifffile.imwrite(tmp_path / "in.tif", volume, imagej=True, resolution=(4, 2), metadata=metadata)
    write_labels(tmp_path / "out.tif", volume, open_image(tmp_path / "in.tif").resolution)
    assert _tags(tmp_path / "out.tif") == _tags(tmp_path / "in.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert tif.imagej_metadata["unit"] == "micron"
        assert tif.imagej_metadata["spacing"] == 0.7
        assert tif.series[0].axes == "ZYX"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ome_physical_sizes_are_kept(tmp_path, dtype):
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "in.ome.tif", LABELS.astype(np.uint8), metadata={"axes": "YX", **sizes})
    labels = LABELS * (100_000 if dtype == np.uint32 else 1)
    write_labels(tmp_path / "out.tif", labels, open_image(tmp_path / "in.ome.tif").resolution)
    again = open_image(tmp_path / "out.tif")
    assert again.dtype == dtype
    assert dict(again.resolution.size) == {"y": 0.5, "x": 0.25}
    assert again.resolution.unit == "nanometer"


def test_zarr_carries_the_scale_of_every_level(tmp_path):
    labels = np.zeros((1100, 900), np.uint16)
    labels[100:200] = 7
    write_labels(tmp_path / "out.zarr", labels, Resolution({"y": 0.5, "x": 0.25}, "micrometer"))
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5" and "image-label" in ome
    [multiscale] = ome["multiscales"]
    scales = [d["coordinateTransformations"][0]["scale"] for d in multiscale["datasets"]]
    assert scales == [[0.5, 0.25], [1.0, 0.5], [2.0, 1.0]]
    assert group["2"].shape == (275, 225)
    again = open_image(tmp_path / "out.zarr").resolution
    assert (dict(again.size), again.unit) == ({"y": 0.5, "x": 0.25}, "micrometer")


def test_a_label_zarr_is_valid_and_lies_where_its_image_does(tmp_path):
    labels = np.zeros((3, 600, 1100), np.uint32)
    labels[:, 100:200] = 70_000
    write_labels(
        tmp_path / "out.zarr", labels, Resolution({"z": 2, "y": 0.5, "x": 0.25}, "micrometer", origin={"y": 9})
    )
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    image = v05.LabelImage.model_validate(group.attrs["ome"])
    [multiscale] = image.multiscales
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"micrometer"}
    assert multiscale.datasets[0].translation_transform.translation == [0, 9, 0]
    # Each pixel of level 1 covers two by two, so its centre lies half a pixel further.
    assert multiscale.datasets[1].translation_transform.translation == [0, 9.25, 0.125]
    assert dict(open_image(tmp_path / "out.zarr").resolution.origin) == {"z": 0, "y": 9, "x": 0}
    assert [group[d.path].shape for d in multiscale.datasets] == [(3, 600, 1100), (3, 300, 550), (3, 150, 275)]
    assert open_image(tmp_path / "out.zarr").axes == "ZYX"


def test_z_is_halved_when_its_pixels_are_no_larger(tmp_path):
    write_labels(tmp_path / "out.zarr", np.ones((8, 1100, 20), np.uint8), Resolution({"z": 2.0, "y": 1.0, "x": 1.0}))
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert [group[str(i)].shape for i in range(3)] == [(8, 1100, 20), (8, 550, 10), (4, 275, 5)]


def test_frames_are_named_time_and_are_not_merged(tmp_path):
    labels = np.ones((4, 600, 600), np.uint16)
    resolution = Resolution({"z": 0.1, "y": 0.2, "x": 0.2}, unit="micrometer")
    write_labels(tmp_path / "out.zarr", labels, resolution, is_timeseries=True)
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    multiscale = v05.LabelImage.model_validate(group.attrs["ome"]).multiscales[0]
    assert [(axis.name, axis.type) for axis in multiscale.axes] == [("t", "time"), ("y", "space"), ("x", "space")]
    assert group["1"].shape == (4, 300, 300)


def test_lower_levels_hold_the_most_frequent_label():
    labels = np.array([[1, 1, 0, 2, 5], [1, 3, 0, 2, 6], [0, 0, 0, 0, 7]], np.uint16)
    np.testing.assert_array_equal(downsample_labels(labels, (2, 2)), [[1, 2, 5], [0, 0, 7]])


def test_the_most_frequent_label_agrees_with_counting():
    labels = np.random.default_rng(0).integers(0, 3, (6, 8, 10))
    small = downsample_labels(labels, (2, 2, 2))
    for index in np.ndindex(small.shape):
        block = labels[tuple(slice(2 * i, 2 * i + 2) for i in index)]
        counts = np.bincount(block.ravel(), minlength=3)
        assert counts[small[index]] == counts.max()


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_lazy_labels_are_written_block_by_block(tmp_path, kind):
    labels = np.arange(700 * 900, dtype=np.int64).reshape(700, 900)
    lazy = zarr.array(labels, chunks=(100, 100)) if kind == "zarr" else dask.array.from_array(labels, chunks=100)
    write_labels(tmp_path / "out.zarr", lazy)
    again = load_image_data(tmp_path / "out.zarr")
    assert again.dtype == np.uint64
    np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_labels_beyond_32_bit_are_kept(tmp_path, name):
    labels = LABELS * 2**33
    write_labels(tmp_path / name, labels)
    np.testing.assert_array_equal(load_image_data(tmp_path / name), labels)


def test_negative_labels_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="0 or larger, got -1"):
        write_labels(tmp_path / "out.tif", LABELS - 1)


def test_resolution_travels_between_tif_and_zarr(tmp_path):
    write_labels(tmp_path / "a.zarr", LABELS, Resolution({"y": 0.5, "x": 0.25}, "micrometer"))
    write_labels(tmp_path / "b.tif", LABELS, open_image(tmp_path / "a.zarr").resolution)
    again = open_image(tmp_path / "b.tif").resolution
    assert again.unit == "micrometer"
    assert again.size["x"] == pytest.approx(0.25) and again.size["y"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_results_are_replaced_by_new_ones(tmp_path, name):
    write_labels(tmp_path / name, np.ones((500, 700), np.uint16))
    write_labels(tmp_path / name, LABELS)
    np.testing.assert_array_equal(load_image_data(tmp_path / name), LABELS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_zarr_of_someone_else_is_never_replaced(tmp_path):
    zarr.save_array(tmp_path / "raw.zarr", np.arange(10))
    with pytest.raises(OutputError, match="not replaced"):
        write_labels(tmp_path / "raw.zarr", LABELS)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "raw.zarr", mode="r")[...], np.arange(10))


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_a_failing_write_leaves_the_old_result_and_nothing_else(tmp_path, name, monkeypatch):
    write_labels(tmp_path / name, LABELS)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tifffile.imwrite", full)
    monkeypatch.setattr("zarr.Group.create_array", full)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(tmp_path / name, np.ones_like(LABELS))
    np.testing.assert_array_equal(load_image_data(tmp_path / name), LABELS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bad_outputs_are_refused(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    for path, message in [
        ("out.xyz", "suffix"),
        ("missing/out.tif", "does not exist"),
        ("folder.tif", "is a folder"),
    ]:
        with pytest.raises(OutputError, match=message):
            write_labels(tmp_path / path, LABELS)
