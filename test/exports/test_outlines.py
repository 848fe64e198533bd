"""Polygons of masks: exact both ways, and valid for other programs."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from micro_sam.exports.outlines import fill, outlines, signed_area


def random_masks(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(rng.integers(1, 9, 2)) < rng.random() for _ in range(n)]


def painted(polygons, shape) -> np.ndarray:
    canvas = np.zeros(shape, bool)
    for polygon in polygons:
        mask, (y, x) = fill(polygon, shape)
        canvas[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    return canvas


def test_outlines_and_back_keep_every_pixel():
    for mask in random_masks(400):
        expected = np.zeros((20, 20), bool)
        expected[3 : 3 + mask.shape[0], 5 : 5 + mask.shape[1]] = mask
        assert (painted(outlines(mask, (3, 5)), (20, 20)) == expected).all()


def test_polygons_are_valid_and_have_the_area_of_the_pixels():
    for mask in random_masks(400):
        polygons = shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in outlines(mask)])
        assert polygons.is_valid, shapely.is_valid_reason(polygons)
        assert polygons.area == mask.sum()


def test_pixels_that_touch_with_a_corner_are_two_polygons():
    assert len(outlines(np.eye(3, dtype=bool))) == 3
    assert len(outlines(np.eye(3, dtype=bool)[::-1])) == 3


def test_exteriors_and_holes_run_in_opposite_directions():
    mask = np.ones((5, 5), bool)
    mask[1, 1] = mask[2, 2] = False  # two holes that touch with a corner
    [[exterior, *holes]] = outlines(mask)
    assert signed_area(exterior) == 25
    assert sorted(map(signed_area, holes)) == [-1, -1]


def test_straight_lines_have_no_points_in_between():
    [[square]] = outlines(np.ones((30, 40), bool), (2, 1))
    assert sorted(map(tuple, square.tolist())) == [(1, 2), (1, 32), (41, 2), (41, 32)]


@pytest.mark.parametrize(
    ("ring", "count"),
    [
        ([[-5, -5], [3, -5], [3, 3], [-5, 3]], 9),
        ([[0.4, 0.4], [1.6, 0.4], [1.6, 1.6], [0.4, 1.6]], 4),
        ([[0.6, 0.6], [1.4, 0.6], [1.4, 1.4], [0.6, 1.4]], 0),
        ([[20, 20], [30, 20], [30, 30]], 0),
        ([[-100, -100], [300, -100], [300, 300], [-100, 300]], 100),
    ],
)
def test_pixels_whose_centre_lies_inside_are_filled(ring, count):
    mask, _ = fill([np.array(ring, float)], (10, 10))
    assert mask.sum() == count


def test_any_polygon_is_filled_as_shapely_says():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:30, :40] + 0.5
    for _ in range(50):
        polygon = shapely.MultiPoint(rng.uniform(-10, 50, (rng.integers(3, 12), 2))).convex_hull
        expected = shapely.contains_xy(polygon, x, y)
        assert (painted([[np.array(polygon.exterior.coords)]], (30, 40)) == expected).all()
