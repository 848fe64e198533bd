"""Every image a microscope or a script produces becomes a sensible 8 bit RGB image, or is refused in one sentence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from micro_sam.embeddings import NormalizationRange, infer_ndim, to_image, validate_image
from micro_sam.embeddings.statistics import robust_range
from micro_sam.errors import ImageError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "dtype",
    [
        "uint16",
        "int16",
        "uint32",
        "int32",
        "uint64",
        "int64",
        "int8",
        "float16",
        "float32",
        "float64",
        ">f4",
        ">u2",
        "bool",
    ],
)
def test_any_number_type_fills_the_8_bit_range(dtype):
    image = RNG.integers(0, 2 if dtype == "bool" else 100, (20, 30)).astype(dtype)
    image[0, :2] = 0, 1 if dtype == "bool" else 99
    out = to_image(image)
    assert out.shape == (20, 30, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    assert out.min() == 0 and out.max() == 255
    expected = image.astype(float) / image.astype(float).max() * 255
    assert np.abs(out[..., 0] - expected).max() <= 1.0


def test_dim_8_bit_images_are_stretched_like_all_others():
    image = RNG.integers(40, 91, (20, 30, 3)).astype("uint8")
    np.testing.assert_allclose(to_image(image).astype(int), to_image(image.astype("uint16") * 100), atol=1)
    assert to_image(image).min() == 0 and to_image(image).max() == 255
    full = image.copy()
    full[0, 0], full[0, 1] = 0, 255
    np.testing.assert_array_equal(to_image(full), full)


def test_large_integers_and_extreme_floats_keep_their_contrast():
    ramp = np.linspace(0, 1000, 256).reshape(16, 16)
    for image in (
        ramp.astype("int64") + 2**40,
        (ramp * 1e305),
        ramp * 1e-42,
        ramp.astype("float32") * np.float32(1e35),
    ):
        out = to_image(image)
        assert out.min() == 0 and out.max() == 255
        assert 120 <= out[7, 15, 0] <= 128


@pytest.mark.parametrize("value", [0, 7.5, -3, np.nan, np.inf])
def test_constant_images_become_black(value):
    assert (to_image(np.full((5, 5), value, dtype="float32")) == (255 if value == np.inf else 0)).all()


def test_nan_and_infinity_do_not_spoil_the_contrast():
    image = np.linspace(0, 1, 100).reshape(10, 10)
    clean = to_image(image)
    image[5, 5], image[6, 6], image[7, 7] = np.nan, np.inf, -np.inf
    out = to_image(image)
    assert out[5, 5, 0] == 0 and out[6, 6, 0] == 255 and out[7, 7, 0] == 0
    same = np.isfinite(image)
    np.testing.assert_array_equal(out[same], clean[same])


def test_odd_memory_layouts_give_the_same_image():
    image = RNG.random((20, 30))
    expected = to_image(image)
    np.testing.assert_array_equal(to_image(np.asfortranarray(image)), expected)
    np.testing.assert_array_equal(to_image(np.repeat(image, 2, axis=1)[:, ::2]), expected)
    np.testing.assert_array_equal(to_image(image[::-1][::-1]), expected)
    np.testing.assert_array_equal(to_image(image.tolist()), expected)


def test_one_pixel_is_an_image():
    assert to_image(np.zeros((1, 1))).shape == (1, 1, 3)


def _full_range(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 image with 0 and 255 in every channel, so that contrast stretching leaves it as it is."""
    image = RNG.integers(0, 256, shape).astype("uint8")
    image[0, 0], image[0, 1] = 0, 255
    return image


def test_channels_beyond_three_are_dropped_with_a_warning():
    image = _full_range((8, 9, 5))
    with pytest.warns(UserWarning, match="5 channels"):
        np.testing.assert_array_equal(to_image(image), image[..., :3])
    with pytest.warns(UserWarning, match="alpha"):
        np.testing.assert_array_equal(to_image(image[..., :4]), image[..., :3])


def test_alpha_does_not_decide_the_contrast():
    image = np.full((4, 4, 4), 60000, dtype="uint16")
    image[..., :3] = np.arange(16).reshape(4, 4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert to_image(image).max() == 255


def test_one_and_two_channels_are_completed():
    image = _full_range((8, 9, 2))
    out = to_image(image)
    np.testing.assert_array_equal(out[..., :2], image)
    assert (out[..., 2] == 0).all()
    np.testing.assert_array_equal(to_image(image[..., :1])[..., 1], image[..., 0])


@pytest.mark.parametrize(
    "array, told",
    [
        (np.zeros((0, 5)), "at least one pixel"),
        (np.zeros((5, 5, 0)), "at least one pixel"),
        (np.float32(3), "at least one pixel"),
        (np.zeros(5), "at least one pixel"),
        (np.zeros((5, 5), dtype=complex), "dtype complex128"),
        (np.full((5, 5), "a"), "dtype <U1"),
        (np.zeros((3, 100, 100)), "moveaxis"),
        (np.zeros((2, 3, 100, 100)), "axes YX or YXC for ndim=2"),
        (np.zeros((1, 5000)), "longer than wide"),
        ([[1, 2], [3]], "Expected an array"),
        (None, "dtype object"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(array, told):
    with pytest.raises(ImageError, match=told) as caught:
        to_image(array)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "shape, ndim, expected",
    [
        ((100, 100), None, 2),
        ((100, 100, 3), None, 2),
        ((100, 100, 4), None, 2),
        ((3, 100, 100), None, 3),
        ((30, 100, 100), None, 3),
        ((30, 100, 3), 3, 3),
        ((100, 100, 5), 2, 2),
        ((100, 100, 5), 3, 3),
        ((30, 100, 100, 3), None, 3),
        ((8, 8, 8), None, 3),
        ((3, 4, 4), None, 2),
    ],
)
def test_dimensions_are_inferred(shape, ndim, expected):
    assert infer_ndim(shape, ndim) == expected


@pytest.mark.parametrize(
    "shape, ndim, told",
    [
        ((100, 100, 5), None, "could be an image with 5 channels or a volume; say which with ndim"),
        ((5, 30, 100, 100), None, "one volume or time point"),
        ((5, 2, 30, 100, 100), None, "pass one image of it"),
        ((100, 100), 3, "for ndim=3"),
        ((100, 100), 4, "Expected ndim"),
    ],
)
def test_ambiguous_shapes_are_explained(shape, ndim, told):
    with pytest.raises(ImageError, match=told):
        infer_ndim(shape, ndim)


def test_validation_reads_nothing():
    class Untouchable:
        shape, dtype = (4, 10, 10), np.dtype("uint8")

        def __getitem__(self, key):
            raise AssertionError("was read")

    source = validate_image(Untouchable())
    assert (source.ndim, source.shape, source.n_slices, source.n_channels) == (3, (10, 10), 4, None)


def test_robust_range_ignores_hot_pixels_nan_and_infinity():
    image = RNG.normal(100, 10, (200, 200)).astype("float32")
    image[0, 0], image[0, 1], image[0, 2], image[0, 3] = 1e9, np.nan, np.inf, -np.inf
    found = robust_range(lambda: [image], image.dtype)
    assert 60 < found.low < 75 and 125 < found.high < 140
    assert to_image(image, found)[10:].std() > 30
    assert to_image(image)[10:].std() == 0


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "int8", "int32", "uint32", "float16", "float32", "float64", ">f4", ">i2"]
)
@pytest.mark.parametrize("percentiles", [(0.1, 99.9), (5, 50)])
def test_streamed_percentiles_are_exact(dtype, percentiles):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    values = RNG.integers(max(info.min, -(2**20)), min(info.max, 2**20), 5000) if info else RNG.normal(0, 1000, 5000)
    values = values.astype(dtype).reshape(50, 100)
    found = robust_range(lambda: np.split(values, 10), values.dtype, percentiles)
    expected = np.percentile(values.astype("float32"), percentiles, method="inverted_cdf")
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-6)


def test_a_mostly_empty_image_keeps_its_objects():
    image = np.zeros((1000, 1000), dtype="uint16")
    image[:10, :10] = 500
    assert robust_range(lambda: [image], image.dtype) == NormalizationRange(0, 500)
    assert robust_range(lambda: [np.full((3, 3), np.nan)], np.dtype("float64")) == NormalizationRange(0, 0)


def test_small_contrast_on_a_large_offset_survives():
    image = (30000 + RNG.normal(0, 5, (300, 300))).astype("float32")
    found = robust_range(lambda: [image], image.dtype)
    assert 29980 < found.low < 29990 and 30010 < found.high < 30020
