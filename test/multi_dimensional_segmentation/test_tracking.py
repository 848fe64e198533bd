"""Linking segmented frames to tracks: what moves, divides, comes, goes, is missed or segmented wrongly."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
from tracking_toys import ctc_scores, draw_discs, label_at, labels_along

from micro_sam.errors import ImageError, ParameterError
from micro_sam.io import read_ctc
from micro_sam.labels import compute_iou
from micro_sam.multi_dimensional_segmentation import TrackingSettings, iter_track, track_across_frames
from micro_sam.sample_data import synthetic_timeseries

N = 8
STILL = [[(30.0, 90.0, 9.0)] * N, [(90.0, 90.0, 11.0)] * N]


def _track(segmentation, **kwargs):
    return track_across_frames(np.zeros(segmentation.shape, np.uint8), segmentation, verbose=False, **kwargs)


def _movie(*objects) -> np.ndarray:
    """Draw objects, each with a disc or None per frame, beside two that stay where they are."""
    return draw_discs(list(zip(*objects, *STILL, strict=True)))


def _moving(missing=()) -> list:
    return [None if t in missing else (40.0 + 4 * t, 30.0, 9.0) for t in range(N)]


DIVIDING = (
    [(60.0, 40.0, 11.0) if t < 4 else (60.0 - 6 - 2 * (t - 4), 40.0, 8.0) for t in range(N)],
    [None if t < 4 else (60.0 + 6 + 2 * (t - 4), 40.0, 8.0) for t in range(N)],
)


def test_an_object_keeps_its_label_while_it_moves():
    labels, lineages = _track(_movie(_moving()))
    assert labels.dtype == np.uint32
    for discs in (_moving(), *STILL):
        assert len({*labels_along(labels, discs)}) == 1
    assert lineages == [{1: []}, {2: []}, {3: []}]


def test_nothing_but_labels_changes():
    segmentation = _movie(_moving())
    labels, _ = _track(segmentation)
    np.testing.assert_array_equal(labels > 0, segmentation > 0)


def test_a_division_ends_the_mother_and_begins_two_daughters():
    labels, lineages = _track(_movie(*DIVIDING))
    mother, daughter = labels_along(labels, DIVIDING[0])[3:5]
    sister = label_at(labels, 4, DIVIDING[1][4])
    assert len({mother, daughter, sister}) == 3
    assert {mother: sorted([daughter, sister]), daughter: [], sister: []} in lineages
    assert labels_along(labels, DIVIDING[0]) == [mother] * 4 + [daughter] * 4


def test_objects_that_do_not_divide_are_not_made_to():
    _, lineages = _track(_movie(*DIVIDING), mode="greedy_nodiv")
    assert all(daughters == [] for family in lineages for daughters in family.values())
    assert len(lineages) == 4


@pytest.mark.parametrize(
    ("missing", "gap_closing", "is_closed"),
    [((3,), None, True), ((3,), 0, False), ((3, 4), 1, False), ((3, 4), 2, True)],
)
def test_gaps_are_closed_up_to_the_length_asked_for(missing, gap_closing, is_closed):
    labels, lineages = _track(_movie(_moving(missing)), gap_closing=gap_closing)
    before, after = label_at(labels, 2, _moving()[2]), label_at(labels, 5, _moving()[5])
    assert (before == after) == is_closed
    assert len(lineages) == (3 if is_closed else 4)


def test_an_object_that_was_missed_is_drawn_between_its_places():
    labels, _ = _track(_movie(_moving(missing=(3,))))
    truth = _movie(_moving())
    drawn = labels[3] == label_at(labels, 2, _moving()[2])
    assert compute_iou(drawn, truth[3] == label_at(truth, 3, _moving()[3])) > 0.8


def test_gaps_are_not_drawn_over_other_objects():
    over = [(60.0, 30.0, 20.0) if t == 3 else None for t in range(N)]
    segmentation = _movie(_moving(missing=(3,)), over)
    labels, _ = _track(segmentation)
    is_covered = segmentation[3] == label_at(segmentation, 3, (60, 30))
    assert len(np.unique(labels[3][is_covered])) == 1


def test_an_object_cut_in_two_in_one_frame_has_not_divided():
    whole = [(60.0, 40.0, 12.0) if t != 4 else (54.0, 40.0, 7.0) for t in range(N)]
    piece = [(67.0, 40.0, 7.0) if t == 4 else None for t in range(N)]
    labels, lineages = _track(_movie(whole, piece))
    assert len(set(labels_along(labels, whole))) == 1
    assert all(daughters == [] for family in lineages for daughters in family.values())


def test_two_objects_segmented_as_one_in_one_frame_have_not_divided():
    left = [(60.0, 30.0, 9.0) if t != 4 else None for t in range(N)]
    right = [(60.0, 49.0, 9.0) if t != 4 else None for t in range(N)]
    segmentation = _movie(left, right)
    y, x = np.ogrid[:120, :120]
    segmentation[4][(abs(y - 60) < 9) & (abs(x - 39.5) < 18)] = 999
    labels, lineages = _track(segmentation)
    assert all(daughters == [] for family in lineages for daughters in family.values())
    assert label_at(labels, 5, left[5]) != label_at(labels, 5, right[5])


def test_an_object_that_enters_beside_another_is_not_its_daughter():
    inside = [(60.0, 14.0, 9.0)] * N
    entering = [None if t < 3 else (60.0, -8.0 + 2 * (t - 3), 10.0) for t in range(N)]
    _, lineages = _track(_movie(inside, entering))
    assert all(daughters == [] for family in lineages for daughters in family.values())
    assert len(lineages) == 4


def test_short_tracks_are_removed():
    short = [(60.0, 40.0, 9.0) if 2 <= t < 5 else None for t in range(N)]
    kept, _ = _track(_movie(short), min_time_extent=3)
    removed, lineages = _track(_movie(short), min_time_extent=4)
    assert label_at(kept, 3, (60, 40)) and not label_at(removed, 3, (60, 40))
    assert len(lineages) == 2


def test_a_daughter_that_vanishes_was_none_and_its_sister_goes_on_as_the_mother():
    short = [disc if t < 6 else None for t, disc in enumerate(DIVIDING[1])]
    segmentation = _movie(DIVIDING[0], short)
    _, with_daughter = _track(segmentation)
    labels, without = _track(segmentation, min_time_extent=3)
    assert any(daughters for family in with_daughter for daughters in family.values())
    assert not any(daughters for family in without for daughters in family.values())
    assert len(set(labels_along(labels, DIVIDING[0]))) == 1


def test_a_view_that_drifts_changes_nothing():
    frames = [[(20.0 + 24 * i + 9 * t, 20.0 + 24 * k, 7.0) for i in range(5) for k in range(4)] for t in range(N)]
    labels, lineages = _track(draw_discs(frames, (240, 120)))
    assert len(lineages) == 20
    assert all(len({*labels_along(labels, discs)}) == 1 for discs in zip(*frames, strict=True))


def test_tracking_does_not_depend_on_the_size_of_pixels():
    series = synthetic_timeseries((8, 96, 96), seed=2, diameter=12)
    small, lineages = _track(series.labels)
    large, lineages_of_large = _track(series.labels.repeat(3, axis=1).repeat(3, axis=2))
    inside = series.labels > 0  # gaps are drawn more finely
    np.testing.assert_array_equal(large[:, 1::3, 1::3][inside], small[inside])
    assert lineages_of_large == lineages


@pytest.mark.parametrize(("setting", "least"), [("easy", 0.99), ("hard", 0.98)])
def test_true_masks_give_true_tracks(tmp_path, setting, least):
    truth = synthetic_timeseries((12, 192, 192), seed=7, setting=setting)
    scores = ctc_scores(tmp_path, _track(truth.labels), (truth.labels, truth.lineages))
    assert scores["Valid"] == 1
    assert scores["TRA"] >= least


def test_volumes_over_time_are_tracked():
    plane = _movie(*DIVIDING)
    volumes = np.stack([np.zeros_like(plane), plane, plane, plane, np.zeros_like(plane)], axis=1)
    labels, lineages = _track(volumes)
    _, lineages_of_plane = _track(plane)
    assert labels.shape == volumes.shape
    assert lineages == lineages_of_plane


@pytest.mark.parametrize("empty", [(), (0,), (3,), (N - 1,), (2, 3, 4), tuple(range(N))])
def test_frames_may_be_empty(empty):
    segmentation = _movie(_moving())
    segmentation[list(empty)] = 0
    labels, lineages = _track(segmentation)
    filled = set(empty) if len(empty) == 1 and 0 < empty[0] < N - 1 else set()
    for frame in set(range(N)) - filled:
        np.testing.assert_array_equal(labels[frame] > 0, segmentation[frame] > 0)
    assert (len(lineages) == 0) == (len(empty) == N)


def test_one_frame_is_a_time_series():
    labels, lineages = _track(_movie(_moving())[:1])
    assert lineages == [{1: []}, {2: []}, {3: []}] and labels.max() == 3


def test_labels_may_be_large_and_lazy():
    segmentation = _movie(_moving()).astype(np.uint64) * 10**12
    expected = _track(segmentation)
    found = track_across_frames(
        dask.array.zeros(segmentation.shape), dask.array.from_array(segmentation, chunks=(1, 50, 50)), verbose=False
    )
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_colour_images_fit_their_labels():
    segmentation = _movie(_moving())
    labels, _ = track_across_frames(np.zeros((*segmentation.shape, 3)), segmentation, verbose=False)
    assert labels.max() == 3


def test_a_folder_is_written_on_request(tmp_path):
    labels, lineages = _track(_movie(*DIVIDING), output_folder=tmp_path / "tracks")
    stored, stored_lineages = read_ctc(tmp_path / "tracks")
    np.testing.assert_array_equal(stored, labels)
    assert stored_lineages == lineages


def test_progress_is_shown_and_nothing_is_written_when_it_is_cancelled(tmp_path):
    totals, done = [], []
    _track(_movie(_moving()), pbar_init=lambda total, text: totals.append((total, text)), pbar_update=done.append)
    assert [text for _, text in totals] == ["Measure objects", "Link frames", "Write tracks"]
    assert sum(done) == sum(total for total, _ in totals) == 2 * N + 1

    segmentation = _movie(_moving())
    work = iter_track(segmentation, segmentation, output_folder=tmp_path / "tracks")
    next(work)
    work.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "segmentation", "told"),
    [
        (np.zeros((3, 8, 8)), np.zeros((4, 8, 8), int), "same frames and pixels"),
        (np.zeros((3, 8, 9)), np.zeros((3, 8, 8), int), "same frames and pixels"),
        (np.zeros((3, 8, 8)), np.zeros((3, 8, 8)), "integer labels, got float64"),
        (np.zeros((8, 8)), np.zeros((8, 8), int), "TYX"),
        (np.zeros((0, 8, 8)), np.zeros((0, 8, 8), int), "not empty"),
        (np.zeros((2, 8, 8)), np.full((2, 8, 8), -1), "frame 0 has -1"),
    ],
)
def test_what_is_no_segmented_time_series_is_said_in_one_sentence(images, segmentation, told):
    with pytest.raises(ImageError, match=told) as raised:
        track_across_frames(images, segmentation, verbose=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "magic"}, {"linker": "magic"}, {"gap_closing": -1}, {"gap_closing": 1.5}, {"min_time_extent": 0}],
)
def test_parameters_out_of_range_are_refused(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ParameterError, match=f"{name}.*{value!r}"):
        TrackingSettings(**wrong)


def test_modes_that_belong_to_the_other_linker_are_refused():
    with pytest.raises(ParameterError, match="trackastra"):
        _track(_movie(_moving()), mode="ilp")
