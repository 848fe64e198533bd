"""Commit, merge, split, delete and fill: what changes, and that nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.errors import PromptError
from micro_sam.sam_annotator.session import edits

ALL = (slice(0, 60), slice(0, 60))


@pytest.fixture
def labels() -> np.ndarray:
    made = np.zeros((60, 60), np.uint32)
    made[5:25, 5:25] = 3
    made[5:25, 25:50] = 8
    made[40:55, 10:50] = 5
    made[45:48, 20:25] = 0  # a hole
    return made


def applied(labels: np.ndarray, edit: edits.Edit) -> np.ndarray:
    window, block = edit
    result = labels.copy()
    result[window] = block
    return result


def square(y: int, x: int, size: int) -> np.ndarray:
    made = np.zeros((60, 60), np.uint32)
    made[y : y + size, x : x + size] = 1
    return made


@pytest.mark.parametrize(("mode", "expected"), [("objects", 325), ("pixels", 325), ("none", 400)])
def test_commit_preserves_what_it_is_told_to(labels, mode, expected):
    new = square(20, 0, 20)  # 75 of 400 pixels lie on object 3
    done = edits.commit(labels, new, ALL, mode, 0.75, first_id=9)
    result = applied(labels, (done.window, done.block))
    assert done.ids == {1: 9} and (result == 9).sum() == expected
    outside = new == 0
    np.testing.assert_array_equal(result[outside], labels[outside])
    if mode != "none":
        np.testing.assert_array_equal(result[labels != 0], labels[labels != 0])


def test_commit_leaves_out_objects_that_mostly_lie_on_others(labels):
    new = square(8, 8, 10) + 2 * square(30, 30, 5)
    done = edits.commit(labels, new, ALL, "objects", 0.75, first_id=9)
    assert done.refused == (1,) and done.ids == {2: 9}
    assert edits.commit(labels, new, ALL, "pixels").refused == (1,)  # nothing of it is free
    assert edits.commit(labels, new, ALL, "none").refused == ()


def test_an_object_is_written_back_around_its_neighbours(labels):
    without = applied(labels, edits.delete(labels, 3))
    mask = np.zeros((60, 60), bool)
    mask[0:30, 0:40] = True
    result = applied(without, edits.write_back(without, 3, mask, ALL))
    np.testing.assert_array_equal(result == 8, labels == 8)
    np.testing.assert_array_equal(result == 3, mask & (labels != 8))


def test_delete_removes_one_object(labels):
    result = applied(labels, edits.delete(labels, 8))
    np.testing.assert_array_equal(result, np.where(labels == 8, 0, labels))
    with pytest.raises(PromptError, match="no object 77"):
        edits.delete(labels, 77)


def test_a_stroke_merges_what_it_touches(labels):
    touched = edits.along(labels, np.array([[10.0, 10.0], [10.0, 30.0], [59.0, 30.0]]))
    assert touched == [3, 8, 5]
    result = applied(labels, edits.merge(labels, touched[:2]))
    np.testing.assert_array_equal(result, np.where(labels == 8, 3, labels))
    with pytest.raises(PromptError, match="at least two"):
        edits.merge(labels, [3, 3, 0])


@pytest.mark.parametrize("stroke", [[[0.0, 15.0], [30.0, 15.0]], [[12.0, 15.0], [18.0, 15.0]]])
def test_a_stroke_splits_also_if_it_is_short(labels, stroke):
    edit, new = edits.split(labels, 3, np.array(stroke), first_id=9)
    result = applied(labels, edit)
    assert new == [9] and set(np.unique(result)) == {0, 3, 5, 8, 9}
    np.testing.assert_array_equal((result == 3) | (result == 9), labels == 3)
    assert min((result == 3).sum(), (result == 9).sum()) > 150
    np.testing.assert_array_equal(result[labels != 3], labels[labels != 3])


def test_a_stroke_beside_the_object_splits_nothing(labels):
    with pytest.raises(PromptError, match="in two"):
        edits.split(labels, 3, np.array([[30.0, 0.0], [30.0, 59.0]]), 9)
    with pytest.raises(PromptError, match="only a point"):
        edits.split(labels, 3, np.array([[10.0, 10.0]]), 9)


def test_a_split_holds_for_all_slices():
    volume = np.zeros((4, 40, 40), np.uint32)
    volume[1:3, 5:35, 5:35] = 2
    edit, [new] = edits.split(volume, 2, np.array([[20.0, 0.0], [20.0, 39.0]]), 3)
    result = applied(volume, edit)
    for i in (1, 2):
        assert {result[i, 8, 20], result[i, 32, 20]} == {2, new}


@pytest.mark.parametrize("position", [(50, 30), (46, 22)])
def test_fill_takes_a_click_on_the_object_or_into_the_hole(labels, position):
    result = applied(labels, edits.fill(labels, position))
    assert (result[40:55, 10:50] == 5).all() and result.sum() == labels.sum() + 15 * 5


def test_fill_says_when_there_is_nothing_to_fill(labels):
    with pytest.raises(PromptError, match="no holes"):
        edits.fill(labels, (10, 10))
    with pytest.raises(PromptError, match="no hole here"):
        edits.fill(labels, (35, 2))
