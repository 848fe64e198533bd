"""What napari shows of tracks, and how objects are measured."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.errors import ImageError
from micro_sam.multi_dimensional_segmentation import get_napari_track_data
from micro_sam.multi_dimensional_segmentation.tracking_objects import (
    FrameObjects,
    iter_measure_series,
    measure_objects,
    shape_coordinates,
)
from micro_sam.progress import drain
from micro_sam.sample_data import synthetic_timeseries


def test_tracks_are_rows_of_label_frame_and_centroid():
    labels = np.zeros((3, 20, 20), int)
    labels[:2, 2:8, 2:8] = 1
    labels[2, 2:4, 2:8], labels[2, 6:8, 2:8] = 2, 3
    labels[:, 12:15, 12:15] = 4
    data, graph = get_napari_track_data(labels, [{1: [2, 3], 2: [], 3: []}, {4: []}])
    expected = [(1, 0, 4.5, 4.5), (1, 1, 4.5, 4.5), (2, 2, 2.5, 4.5), (3, 2, 6.5, 4.5)]
    np.testing.assert_array_equal(data, [*expected, *((4, t, 13, 13) for t in range(3))])
    assert graph == {2: [1], 3: [1]}


def test_daughters_need_no_entry_of_their_own_in_the_lineages():
    labels = np.zeros((2, 9, 9), int)
    labels[0, 3:6, 3:6], labels[1, 1:4, 3:6], labels[1, 5:8, 3:6] = 1, 2, 3
    assert get_napari_track_data(labels, [{1: [2, 3]}])[1] == {2: [1], 3: [1]}


def test_napari_takes_tracks_of_planes_and_volumes():
    from napari.layers import Tracks

    series = synthetic_timeseries((8, 96, 96), seed=3)
    for labels in (series.labels, series.labels[:, None].repeat(3, axis=1)):
        data, graph = get_napari_track_data(labels, series.lineages)
        layer = Tracks(data, graph=graph)
        assert layer.data.shape[1] == labels.ndim + 1
        assert len(layer.graph) == len(graph) > 0


def test_nothing_to_show_is_an_empty_table():
    data, graph = get_napari_track_data(np.zeros((3, 8, 8), int), [])
    assert data.shape == (0, 4) and graph == {}
    with pytest.raises(ImageError, match="TYX"):
        get_napari_track_data(np.zeros((8, 8), int), [])


def test_objects_are_measured():
    labels = np.zeros((40, 60), int)
    labels[0:10, 5:25], labels[20:30, 30:40] = 7, 300
    objects = measure_objects(labels)
    np.testing.assert_array_equal(objects.ids, [7, 300])
    np.testing.assert_array_equal(objects.areas, [200, 100])
    np.testing.assert_allclose(objects.centres, [[4.5, 14.5], [24.5, 34.5]])
    np.testing.assert_allclose(objects.moments[0], [[100 / 12, 0], [0, 400 / 12]])  # of a rectangle of 10 x 20
    np.testing.assert_array_equal(objects.at_border, [True, False])


def test_the_distance_of_shapes_is_how_far_pixels_move():
    """Two discs of radius r and 2 r around one centre: every pixel moves by half its place, r / sqrt(2) on average."""
    y, x = np.ogrid[-60:61, -60:61]
    small, large = (measure_objects((np.hypot(y, x) < radius).astype(int)) for radius in (25, 50))

    def coordinates(objects: FrameObjects) -> np.ndarray:
        return shape_coordinates(objects.centres, objects.moments)[0]

    distance = np.linalg.norm(coordinates(large) - coordinates(small))
    assert distance == pytest.approx(25 / np.sqrt(2), rel=0.01)


def test_overlaps_are_counted_after_the_drift_is_taken_back():
    frame = np.zeros((100, 100), int)
    for number in range(9):
        frame[10 + 30 * (number // 3) :, 10 + 30 * (number % 3) :][:9, :9] = number + 1
    series = drain(iter_measure_series(np.stack([frame, np.roll(frame, (7, -4), axis=(0, 1))])))
    np.testing.assert_array_equal(series.drift, [[0, 0], [7, -4]])
    np.testing.assert_array_equal(series.overlaps[0], [(i, i, 81) for i in range(9)])
