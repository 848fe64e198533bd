"""Synthetic time series: what is seen, and that labels and lineages tell what happens in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from micro_sam.errors import ParameterError
from micro_sam.sample_data import synthetic_timeseries
from micro_sam.sample_data.timeseries import SETTINGS

SHAPE = (14, 160, 160)


@pytest.fixture(scope="module", params=SETTINGS)
def series(request):
    return synthetic_timeseries(SHAPE, seed=4, setting=request.param)


def _frames(labels: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for frame, plane in enumerate(labels):
        for label in np.unique(plane[plane > 0]):
            found.setdefault(int(label), []).append(frame)
    return found


def test_images_and_labels_have_the_shape_and_type_asked_for(series):
    assert series.images.shape == series.labels.shape == SHAPE
    assert series.images.dtype == np.uint8 and series.labels.dtype == np.uint32


def test_cells_are_brighter_than_the_ground(series):
    for image, labels in zip(series.images, series.labels, strict=True):
        assert image[labels > 0].mean() > 1.5 * image[labels == 0].mean()


def test_every_track_is_in_the_lineages_once_and_has_no_gaps(series):
    frames = _frames(series.labels)
    named = [label for family in series.lineages for label in family]
    assert sorted(named) == sorted(frames)
    assert all(seen == list(range(seen[0], seen[-1] + 1)) for seen in frames.values())


def test_daughters_begin_in_the_frame_after_their_mother_ends(series):
    frames = _frames(series.labels)
    divisions = [(m, d) for family in series.lineages for m, d in family.items() if d]
    assert len(divisions) >= 2
    for mother, daughters in divisions:
        assert len(daughters) == 2
        for daughter in daughters:
            assert frames[daughter][0] == frames[mother][-1] + 1
            reach = ndimage.binary_dilation(series.labels[frames[mother][-1]] == mother, iterations=8)
            assert reach[series.labels[frames[daughter][0]] == daughter].mean() > 0.5


def test_cells_move_a_little_from_frame_to_frame(series):
    frames = _frames(series.labels)
    steps = []
    for label, seen in frames.items():
        centres = [ndimage.center_of_mass(series.labels[frame] == label) for frame in seen]
        steps += [np.hypot(*np.subtract(b, a)) for a, b in pairwise(centres)]
    assert 0.1 < np.median(steps) < 16  # a diameter


def test_some_cells_enter_leave_and_touch(series):
    frames = _frames(series.labels)
    daughters = {d for family in series.lineages for children in family.values() for d in children}
    mothers = {m for family in series.lineages for m, children in family.items() if children}
    assert any(seen[0] > 0 and label not in daughters for label, seen in frames.items())
    assert any(seen[-1] < SHAPE[0] - 1 and label not in mothers for label, seen in frames.items())
    right, left = series.labels[:, :, 1:], series.labels[:, :, :-1]
    assert ((right > 0) & (left > 0) & (right != left)).any()


def test_the_hard_setting_is_denser_and_dimmer():
    easy, hard = (synthetic_timeseries(SHAPE, seed=4, setting=name) for name in ("easy", "hard"))
    assert hard.labels.max() > 1.5 * easy.labels.max()
    contrasts = [
        (s.images[s.labels > 0].mean() - s.images[s.labels == 0].mean()) / s.images[s.labels == 0].std()
        for s in (easy, hard)
    ]
    assert contrasts[1] < 0.7 * contrasts[0]


def test_the_same_seed_gives_the_same_data():
    first, again, other = (synthetic_timeseries((3, 64, 64), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.lineages == again.lineages
    assert (first.images != other.images).any()


@pytest.mark.parametrize(
    ("shape", "setting", "told"),
    [((9, 9), "easy", "TYX"), ((0, 9, 9), "easy", "at least one"), ((3, 64, 64), "odd", "easy, hard")],
)
def test_what_cannot_be_made_is_said(shape, setting, told):
    with pytest.raises(ParameterError, match=told):
        synthetic_timeseries(shape, setting=setting)
