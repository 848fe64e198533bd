from __future__ import annotations

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr

from micro_sam.errors import InputError, MissingInputError
from micro_sam.io import load_image_data, open_image

IMAGE = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
VOLUME = np.random.default_rng(1).integers(0, 2**16, (4, 20, 30), dtype=np.uint16)


@pytest.fixture(params=[False, True], ids=["eager", "lazy"])
def lazy(request) -> bool:
    return request.param


def _equal(path, key, lazy, expected):
    image = load_image_data(path, key, lazy_loading=lazy)
    assert image.shape == expected.shape == open_image(path, key).shape
    assert image.dtype == expected.dtype == open_image(path, key).dtype
    np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.filterwarnings("ignore:.*are stored as RGB:DeprecationWarning")
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("data", [IMAGE, VOLUME, np.stack([IMAGE.astype(np.uint8)] * 3, -1)], ids=["2d", "3d", "rgb"])
def test_tif(tmp_path, compression, data, lazy):
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression)
    _equal(tmp_path / "a.tif", None, lazy, data)


def test_channels_of_imagej_and_ome_tif_go_last(tmp_path, lazy):
    channels_first = np.stack([IMAGE, IMAGE // 2])
    tifffile.imwrite(tmp_path / "ij.tif", channels_first, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "ome.ome.tif", channels_first, metadata={"axes": "CYX"})
    for name in ("ij.tif", "ome.ome.tif"):
        _equal(tmp_path / name, None, lazy, np.moveaxis(channels_first, 0, -1))


def test_z_stays_first_in_imagej_volumes(tmp_path, lazy):
    tifffile.imwrite(tmp_path / "z.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"})
    _equal(tmp_path / "z.tif", None, lazy, VOLUME)


def test_big_endian_tif(tmp_path, lazy):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, byteorder=">")
    np.testing.assert_array_equal(np.asarray(load_image_data(tmp_path / "a.tif", lazy_loading=lazy)), IMAGE)


def test_pyramid_gives_its_full_resolution(tmp_path, lazy):
    data = np.random.default_rng(2).integers(0, 255, (256, 256), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as tif:
        tif.write(data, subifds=1, tile=(64, 64), compression="zlib", metadata={"axes": "YX"})
        tif.write(data[::2, ::2], subfiletype=1, tile=(64, 64), compression="zlib")
    _equal(tmp_path / "p.ome.tif", None, lazy, data)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_pictures(tmp_path, suffix, shape, lazy):
    data = np.random.default_rng(3).integers(0, 255, shape, dtype=np.uint8)
    iio.imwrite(tmp_path / f"a{suffix}", data)
    _equal(tmp_path / f"a{suffix}", None, lazy, data)


def test_16_bit_png_and_jpg(tmp_path):
    iio.imwrite(tmp_path / "a.png", IMAGE)
    _equal(tmp_path / "a.png", None, False, IMAGE)
    smooth = np.full((16, 16, 3), 120, np.uint8)
    iio.imwrite(tmp_path / "a.jpg", smooth)
    assert np.abs(load_image_data(tmp_path / "a.jpg").astype(int) - 120).max() <= 2


def test_the_alpha_of_a_grey_png_is_no_channel(tmp_path):
    grey = IMAGE.astype(np.uint8)
    iio.imwrite(tmp_path / "a.png", np.stack([grey, np.full_like(grey, 255)], -1), mode="LA")
    _equal(tmp_path / "a.png", None, False, grey)


def test_16_bit_colours_keep_their_lower_half(tmp_path):
    import imagecodecs

    colours = np.stack([IMAGE, IMAGE // 3, IMAGE // 7], -1)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colours))
    _equal(tmp_path / "a.png", None, False, colours)


def test_hdf5(tmp_path, lazy):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw/exported"] = VOLUME
    _equal(tmp_path / "a.h5", "raw/exported", lazy, VOLUME)
    _equal(tmp_path / "a.h5", "/raw/exported", lazy, VOLUME)
    _equal(tmp_path / "a.h5", None, lazy, VOLUME)


def test_several_data_sets_need_a_key_and_are_listed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["deep/labels"] = VOLUME, VOLUME
    with pytest.raises(InputError, match=r"2 data sets.*'deep/labels', 'raw'|2 data sets.*'raw', 'deep/labels'"):
        load_image_data(tmp_path / "a.h5")
    with pytest.raises(MissingInputError, match="no data set 'image'.*'raw'"):
        load_image_data(tmp_path / "a.h5", "image")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path, zarr_format, lazy):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    root.create_array("inner/raw", data=VOLUME)
    _equal(tmp_path / "a.zarr", "inner/raw", lazy, VOLUME)
    _equal(tmp_path / "a.zarr", None, lazy, VOLUME)
    root.create_array("other", data=IMAGE)
    with pytest.raises(InputError, match="'inner/raw'"):
        load_image_data(tmp_path / "a.zarr")
    zarr.save_array(tmp_path / "array.zarr", IMAGE, zarr_format=zarr_format)
    _equal(tmp_path / "array.zarr", None, lazy, IMAGE)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_gives_its_full_resolution_channels_last(tmp_path, version, lazy):
    data = np.stack([VOLUME, VOLUME // 2])[None]  # tczyx
    root = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    root.create_array("0", data=data)
    root.create_array("1", data=data[..., ::2, ::2])
    axes = [{"name": n, "type": {"t": "time", "c": "channel"}.get(n, "space")} for n in "tczyx"]
    for axis in axes[2:]:
        axis["unit"] = "micrometer"
    scale = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.5, 0.2, 0.1]}]}
    half = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.5, 0.4, 0.2]}]}
    multiscales = [{"axes": axes, "datasets": [{"path": "0", **scale}, {"path": "1", **half}]}]
    if version == "0.4":
        root.attrs["multiscales"] = multiscales
    else:
        root.attrs["ome"] = {"version": version, "multiscales": multiscales}
    _equal(tmp_path / "a.ome.zarr", None, lazy, np.moveaxis(data[0], 0, -1))
    resolution = open_image(tmp_path / "a.ome.zarr").resolution
    assert (dict(resolution.size), resolution.unit) == ({"z": 0.5, "y": 0.2, "x": 0.1}, "micrometer")


def _ome_zarr(path, version="0.5", **extra) -> list[np.ndarray]:
    """A channels-first volume with two levels, z kept; returns its levels with channels last."""
    data = np.stack([VOLUME, VOLUME // 2])
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    levels = [data, data[..., ::2, ::2]]
    datasets = []
    for number, level in enumerate(levels):
        root.create_array(str(number), data=level)
        by = 2**number
        transformations = [
            {"type": "scale", "scale": [1, 0.5, 0.2 * by, 0.1 * by]},
            {"type": "translation", "translation": [0, 3, 4, 5]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "zyx")]
    multiscales = [{"axes": axes, "datasets": datasets, **extra}]
    root.attrs.update(
        {"multiscales": multiscales} if version == "0.4" else {"ome": {"version": version, "multiscales": multiscales}}
    )
    return [np.moveaxis(level, 0, -1) for level in levels]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_lower_level_of_an_ome_zarr_keeps_its_axes_and_scale(tmp_path, version, lazy):
    levels = _ome_zarr(tmp_path / "a.zarr", version)
    for number, level in enumerate(levels):
        _equal(tmp_path / "a.zarr", str(number), lazy, level)
        _equal(tmp_path / "a.zarr" / str(number), None, lazy, level)
        for image in (open_image(tmp_path / "a.zarr", str(number)), open_image(tmp_path / "a.zarr" / str(number))):
            assert image.axes == "CZYX"
            size = {"z": 0.5, "y": 0.2 * 2**number, "x": 0.1 * 2**number}
            assert dict(image.resolution.size) == pytest.approx(size)
            assert dict(image.resolution.origin) == {"z": 3, "y": 4, "x": 5}
    with pytest.raises(MissingInputError, match="no data set '2'.*'0', '1'"):
        open_image(tmp_path / "a.zarr", "2")


def test_scale_of_the_whole_ome_zarr_image_counts_too(tmp_path):
    _ome_zarr(tmp_path / "a.zarr", coordinateTransformations=[{"type": "scale", "scale": [1, 10, 10, 10]}])
    resolution = open_image(tmp_path / "a.zarr").resolution
    assert dict(resolution.size) == pytest.approx({"z": 5, "y": 2, "x": 1})
    assert dict(resolution.origin) == pytest.approx({"z": 30, "y": 40, "x": 50})


def test_an_image_inside_a_larger_zarr_is_named_by_its_group(tmp_path, lazy):
    zarr.open_group(tmp_path / "plate.zarr", mode="w")
    level, lower = _ome_zarr(tmp_path / "plate.zarr" / "well" / "field")
    _equal(tmp_path / "plate.zarr", "well/field", lazy, level)
    _equal(tmp_path / "plate.zarr", "well/field/1", lazy, lower)


def test_the_first_series_of_a_collection_is_read_and_the_others_are_mentioned(tmp_path, caplog):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    level, _ = _ome_zarr(tmp_path / "a.zarr" / "0", "0.4")
    root.attrs["bioformats2raw.layout"] = 3
    _equal(tmp_path / "a.zarr", None, False, level)
    assert not caplog.records
    _ome_zarr(tmp_path / "a.zarr" / "1", "0.4")
    _equal(tmp_path / "a.zarr", None, False, level)
    assert "several images" in caplog.text


def test_invalid_ome_zarr_metadata_is_read_without_its_scale_and_with_a_warning(tmp_path, caplog):
    level, _ = _ome_zarr(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr")
    ome = group.attrs["ome"]
    del ome["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    group.attrs["ome"] = ome
    _equal(tmp_path / "a.zarr", None, False, level)
    assert open_image(tmp_path / "a.zarr").resolution is None
    assert "no valid OME-Zarr metadata" in caplog.text


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_lower_level_of_an_ome_tiff_is_a_key(tmp_path, compression, lazy):
    data = np.random.default_rng(2).integers(0, 255, (256, 128), dtype=np.uint8)
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as tif:
        tif.write(data, subifds=1, tile=(64, 64), compression=compression, metadata={"axes": "YX", **sizes})
        tif.write(data[::2, ::2], subfiletype=1, tile=(64, 64), compression=compression)
        tif.write(data.T, tile=(64, 64), compression=compression, metadata={"axes": "YX"})
    _equal(tmp_path / "p.ome.tif", "0", lazy, data)
    _equal(tmp_path / "p.ome.tif", "1", lazy, data[::2, ::2])
    _equal(tmp_path / "p.ome.tif", "1/0", lazy, data.T)
    assert dict(open_image(tmp_path / "p.ome.tif", "1").resolution.size) == {"y": 0.5, "x": 1.0}
    with pytest.raises(MissingInputError, match=r"no level 2; there are: 0 \(256 x 128\), 1 \(128 x 64\)"):
        open_image(tmp_path / "p.ome.tif", "2")
    with pytest.raises(MissingInputError, match="holds 2 images"):
        open_image(tmp_path / "p.ome.tif", "2/0")


def test_lazy_arrays_read_nothing_until_they_are_indexed(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = root.create_array("0", shape=(64, 64), chunks=(16, 16), dtype="uint8")
    array[:16, :16] = 7
    array[16:32, 16:32] = 5
    (tmp_path / "a.zarr" / "0" / "c" / "1" / "1").write_bytes(b"damaged")
    image = load_image_data(tmp_path / "a.zarr", lazy_loading=True)
    assert (np.asarray(image[:16, :16]) == 7).all()  # the damaged chunk is not touched
    with pytest.raises(InputError):
        load_image_data(tmp_path / "a.zarr")


def test_plain_tif_is_memory_mapped(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VOLUME, photometric="minisblack")
    assert isinstance(load_image_data(tmp_path / "a.tif", lazy_loading=True), np.memmap)


def test_npy(tmp_path, lazy):
    np.save(tmp_path / "a.npy", VOLUME)
    _equal(tmp_path / "a.npy", None, lazy, VOLUME)


def test_pickled_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="a.npy"):
        load_image_data(tmp_path / "a.npy")


def test_folder_is_a_stack_in_natural_order(tmp_path, lazy):
    for i in range(12):
        tifffile.imwrite(tmp_path / f"img_{i}.tif", IMAGE + i)
    _equal(tmp_path, "*.tif", lazy, np.stack([IMAGE + i for i in range(12)]))


def test_a_stack_of_different_shapes_names_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    tifffile.imwrite(tmp_path / "b.tif", IMAGE[:10])
    with pytest.raises(InputError, match="same shape.*b.tif"):
        load_image_data(tmp_path, "*.tif")


def test_missing_things(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.tif"):
        load_image_data(tmp_path / "nothing.tif")
    with pytest.raises(InputError, match="is a folder"):
        load_image_data(tmp_path)
    with pytest.raises(MissingInputError, match=r"matches '\*.png'"):
        load_image_data(tmp_path, "*.png")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.h5", "a.npy", "a.jpg"])
@pytest.mark.parametrize("content", [b"", b"this is not an image, it is a sentence" * 10])
def test_unreadable_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as error:
        load_image_data(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_empty_zarr_folder_is_named(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(InputError, match="a.zarr"):
        load_image_data(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore:.*are stored as RGB:DeprecationWarning")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("data", [IMAGE, VOLUME], ids=["2d", "3d"])
def test_a_truncated_tif_is_refused_instead_of_read_as_zeros(tmp_path, data, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, compression=compression)
    complete = path.read_bytes()
    for part in (0.4, 0.7, 0.95):
        path.write_bytes(complete[: int(part * len(complete))])
        with pytest.raises(InputError, match="a.tif"):
            load_image_data(path)


def test_a_truncated_png_is_refused(tmp_path):
    iio.imwrite(tmp_path / "a.png", IMAGE)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="a.png"):
        load_image_data(tmp_path / "a.png")


def test_unknown_formats_and_needless_keys(tmp_path):
    (tmp_path / "a.xyz").write_text("1")
    with pytest.raises(InputError, match=".tif"):
        load_image_data(tmp_path / "a.xyz")
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    with pytest.raises(InputError, match="leave the key out"):
        load_image_data(tmp_path / "a.tif", "raw")
