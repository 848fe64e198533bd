"""Prompts, changes of labels, history: the values a session is made of."""

from __future__ import annotations

import numpy as np
import pytest

from micro_sam.errors import PromptError
from micro_sam.instance_segmentation.instances import make_instance
from micro_sam.sam_annotator.session.diff import Diff, bounding_window, united
from micro_sam.sam_annotator.session.history import History, Step
from micro_sam.sam_annotator.session.prompts import Point, Prompts, Shape
from micro_sam.sam_annotator.session.segmentation import Request, object_prompts, tidied

WHOLE = (slice(0, 40), slice(0, 50))
SQUARE = ((10.0, 10.0), (10.0, 30.0), (30.0, 30.0), (30.0, 10.0))


def box(y0: float, x0: float, y1: float, x1: float, i: int | None = None) -> Shape:
    return Shape("rectangle", ((y0, x0), (y0, x1), (y1, x1), (y1, x0)), i)


def test_prompts_survive_being_written_down():
    prompts = Prompts(
        (Point(1.5, 2.25), Point(3, 4, False, i=2, track_id=7, state="division")), (Shape("ellipse", SQUARE, 3),)
    )
    assert Prompts.from_json(prompts.to_json()) == prompts


def test_prompts_are_found_by_slice():
    prompts = Prompts((Point(1, 1, i=0), Point(2, 2, i=4)), (box(0, 0, 5, 5, i=4),))
    assert prompts.slices() == [0, 4]
    assert prompts.in_slice(4) == Prompts((Point(2, 2, i=4),), (box(0, 0, 5, 5, i=4),))
    assert prompts.without_slice(4) == Prompts((Point(1, 1, i=0),))


def test_only_negative_points_say_nothing():
    assert not Prompts((Point(1, 1, False),)).has_positive
    with pytest.raises(PromptError, match="where the object is"):
        object_prompts(Request(Prompts((Point(1, 1, False),))), (40, 50))


def test_a_shape_of_another_kind_is_refused():
    with pytest.raises(PromptError, match="line"):
        Shape("line", SQUARE)


def test_shapes_become_masks_and_boxes():
    np.testing.assert_array_equal(box(-5, 10, 20, 99).box_yxyx((40, 50)), [0, 10, 20, 50])
    assert box(50, 60, 70, 80).box_yxyx((40, 50)) is None
    ellipse, square = Shape("ellipse", SQUARE).mask((40, 50)), Shape("polygon", SQUARE).mask((40, 50))
    assert ellipse[20, 20] and not ellipse[11, 11] and square[11, 11]
    assert ellipse.sum() / square.sum() == pytest.approx(np.pi / 4, abs=0.1)


def test_points_go_to_the_smallest_box_around_them_or_the_nearest():
    small, large = box(10, 10, 20, 20), box(5, 5, 38, 38)
    points = (Point(15, 15), Point(30, 30, False), Point(2, 2, False))
    first, second = object_prompts(Request(Prompts(points, (small, large))), (40, 50))
    assert first.points == (points[0],) and second.points == points[1:]


def test_batched_points_share_no_negative_points():
    points = (Point(5, 5), Point(30, 30), Point(28, 32, False), Point(4, 8, False))
    first, second = object_prompts(Request(Prompts(points), batched=True), (40, 50))
    assert first.points == (points[0], points[3]) and second.points == (points[1], points[2])
    [together] = object_prompts(Request(Prompts(points)), (40, 50))
    assert together.points == points


def test_a_correction_is_one_object_whatever_is_drawn():
    start = make_instance(np.ones((4, 4), bool), (3, 3))
    [prompt] = object_prompts(Request(Prompts((Point(5, 5, False),)), start=start), (40, 50))
    assert prompt.mask is start and not prompt.ambiguous


def test_parts_away_from_the_prompts_are_left_out():
    mask = np.zeros((40, 50), bool)
    mask[5:10, 5:10] = mask[30:38, 30:48] = True
    [clicked] = object_prompts(Request(Prompts((Point(7, 7),))), mask.shape)
    [boxed] = object_prompts(Request(Prompts((), (box(28, 28, 40, 50),))), mask.shape)
    [missed] = object_prompts(Request(Prompts((Point(20, 20),))), mask.shape)
    whole = make_instance(mask)
    assert tidied(whole, clicked).full(mask.shape).sum() == 25
    assert tidied(whole, boxed).full(mask.shape).sum() == 8 * 18
    assert tidied(whole, missed) is whole


def some_labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (40, 50)).astype(np.uint32)


@pytest.mark.parametrize("after", [some_labels(1), np.where(some_labels(0) == 3, 0, some_labels(0)).astype(np.uint32)])
def test_a_change_goes_both_ways_and_through_bytes(after):
    before = some_labels(0)
    diff = Diff.from_record(*Diff.between("committed", WHOLE, before, after).to_record())
    array = before.copy()
    diff.apply(array)
    np.testing.assert_array_equal(array, after)
    diff.revert(array)
    np.testing.assert_array_equal(array, before)


def test_a_change_touches_only_what_changed():
    before, after = np.zeros((40, 50), np.uint32), np.zeros((40, 50), np.uint32)
    after[10:20, 12:30] = 9
    diff = Diff.between("committed", WHOLE, before, after)
    assert diff.window == (slice(10, 20), slice(12, 30)) and diff.n_bytes < 400
    elsewhere = some_labels(2)
    expected = elsewhere.copy()
    expected[10:20, 12:30] = 9
    diff.apply(elsewhere)
    np.testing.assert_array_equal(elsewhere, expected)
    assert Diff.between("committed", WHOLE, before, before) is None


def test_windows_are_found_and_united_in_three_axes():
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 1:3, 4] = mask[3, 5, 6] = True
    assert bounding_window(mask) == (slice(2, 4), slice(1, 6), slice(4, 7))
    assert bounding_window(np.zeros((3, 3))) is None
    assert united([None, (slice(1, 2),), (slice(5, 9),)]) == (slice(1, 9),)


def step(number: int, size: int = 0) -> Step:
    noise = np.random.default_rng(number).integers(0, 2**31, (max(size, 1), 100)).astype(np.uint32)
    window = tuple(slice(0, n) for n in noise.shape)
    return Step(number, "paint", "Painted", diffs=(Diff.between("committed", window, noise * 0, noise),))


def test_history_forgets_the_oldest_steps_when_memory_is_full():
    history = History(memory_limit=100_000)
    for number in range(20):
        history.push(step(number, size=50))
    assert 1 < len(history) < 8 and history.last.number == 19
    kept = len(history)
    while history.undo():
        pass
    assert history.next.number == 20 - kept


def test_a_new_step_ends_redoing():
    history = History()
    for number in range(3):
        history.push(step(number))
    assert history.undo().number == 2 and history.undo().number == 1
    assert history.redo().number == 1
    history.push(step(9))
    assert history.redo() is None and [history.undo().number for _ in range(3)] == [9, 1, 0]
