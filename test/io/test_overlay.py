from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest

from micro_sam.errors import OutputError, ParameterError
from micro_sam.io import draw_overlay, write_overlay

LABELS = np.zeros((600, 600), np.uint16)
LABELS[100:200, 100:200], LABELS[100:200, 200:300] = 1, 2


def _coloured(picture: np.ndarray) -> np.ndarray:
    return picture.max(-1).astype(int) - picture.min(-1) > 50


def test_only_outlines_are_drawn_each_object_in_its_colour():
    picture = draw_overlay(np.full((600, 600), 7, np.uint16), LABELS)
    coloured = _coloured(picture)
    assert picture.shape == (600, 600, 3) and picture.dtype == np.uint8
    assert not coloured[LABELS == 0].any()
    assert coloured[100, 150] and coloured[150, 199] and coloured[150, 200]
    assert not coloured[120:180, 120:180].any()
    assert (picture[150, 199] != picture[150, 200]).any()


def test_contrast_ignores_a_hot_pixel_and_nan():
    image = np.tile(np.linspace(0, 1, 600), (600, 1))
    image[0, 0], image[0, 1] = 1e6, np.nan
    picture = draw_overlay(image, np.zeros_like(LABELS))
    assert picture[300, 550, 0] > 200


def test_small_images_are_enlarged():
    assert draw_overlay(np.zeros((100, 80)), LABELS[:100, :80]).shape == (500, 400, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels(channels):
    assert draw_overlay(np.zeros((600, 600, channels), np.uint8), LABELS).shape == (600, 600, 3)


def test_the_middle_slice_of_a_volume_is_drawn():
    labels = np.stack([0 * LABELS, LABELS, 0 * LABELS])
    assert _coloured(draw_overlay(np.zeros(labels.shape), labels)).any()


def test_written_as_png(tmp_path):
    write_overlay(tmp_path / "o.png", np.zeros((600, 600)), LABELS)
    assert iio.imread(tmp_path / "o.png").shape == (600, 600, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["o.png"]


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(OutputError, match=".png"):
        write_overlay(tmp_path / "o.jpg", np.zeros((600, 600)), LABELS)
    with pytest.raises(OutputError, match="does not exist"):
        write_overlay(tmp_path / "missing" / "o.png", np.zeros((600, 600)), LABELS)
    with pytest.raises(ParameterError, match="same pixels"):
        draw_overlay(np.zeros((10, 10)), LABELS)
