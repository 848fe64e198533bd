"""A session on a volume: propagation as one step, what people do beside it, and what survives. The model knows the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from annotator_toys import iou
from segmentation_toys import toy_predictor
from volume_toys import discs, tube, volume_embeddings

from micro_sam.errors import PromptError
from micro_sam.multi_dimensional_segmentation import PropagationSettings
from micro_sam.sam_annotator.session import (
    COMMITTED,
    CURRENT,
    AnnotatedImage,
    AnnotationSession,
    Options,
    Point,
    Prompts,
    find_unfinished,
    replay,
)
from micro_sam.sam_annotator.session.prompts import Shape
from micro_sam.sam_annotator.session.propagation import ReachedSlice, iter_run
from micro_sam.sam_annotator.session.state import AUTO, BY_HAND, REACHED
from micro_sam.sam_annotator.session.volume import PROPAGATE, VolumeSession

SHAPE = (9, 128, 160)
TRUTH = discs(SHAPE, tube(range(1, 8), 40, 40, 14, (3, 1)), tube(range(9), 80, 110, 16, (-2, 0)))


@pytest.fixture(scope="module")
def embeddings():
    return volume_embeddings(TRUTH)


@pytest.fixture
def session(embeddings, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = VolumeSession()
    made.open(AnnotatedImage.from_array((TRUTH * 90).astype(np.uint8), ndim=3))
    made.predictor, made.embeddings = toy_predictor(), embeddings
    yield made
    made.close_journal()


def middle(label: int, z: int) -> tuple[float, float]:
    return tuple(float(np.mean(axis)) for axis in np.nonzero(TRUTH[z] == label))


def click(session, label: int, z: int, *more: Point) -> None:
    session.set_prompts(Prompts((*session.prompts.points, Point(*middle(label, z), i=z), *more)))
    session.segment(z)


def paint(session, key: str, window: tuple, label: int) -> None:
    """As the brush does: the labels are changed, then the session is told."""
    before = session.labels[key][window].copy()
    session.labels[key][window] = label
    session.painted(key, window, before)


def overlaps(session, label: int, key: str = CURRENT, own: int | None = None) -> list[float]:
    found = session.labels[key]
    return [iou(plane == own if own else plane, TRUTH[z] == label) for z, plane in enumerate(found)]


def test_an_object_goes_through_its_slices_in_one_step_that_replays(session):
    click(session, 1, 4)
    n_steps = len(session.history)
    assert session.propagate() == list(range(1, 8))
    assert min(overlaps(session, 1)[1:8]) > 0.8 and not session.labels[CURRENT][[0, 8]].any()
    assert len(session.history) == n_steps + 1 and session.history.last.kind == PROPAGATE
    assert session.history.last.details["annotated"] == [4]
    assert session.annotated_slices() == [4]
    found, noted = session.labels[CURRENT].copy(), session.labels[REACHED].copy()
    session.undo()
    assert session.filled_slices(CURRENT) == [4] and not session.labels[REACHED].any()
    session.redo()
    np.testing.assert_array_equal(session.labels[CURRENT], found)
    np.testing.assert_array_equal(replay(session.journal_folder).current, found)

    folder = session.journal_folder
    session.close_journal()
    again = VolumeSession()
    again.open(session.image)
    again.resume(folder)
    np.testing.assert_array_equal(again.labels[REACHED], noted)
    again.commit()
    assert not again.labels[REACHED].any() and not again.has(CURRENT)
    np.testing.assert_array_equal(again.labels[COMMITTED] > 0, found > 0)
    again.close_journal()
    np.testing.assert_array_equal(replay(folder).committed, again.labels[COMMITTED])


def test_negative_points_and_limits_end_it_and_gaps_are_filled(session):
    click(session, 1, 4)
    session.set_prompts(Prompts((*session.prompts.points, Point(5, 5, False, i=6))))
    session.z_limits = (2, None)
    assert session.propagate() == [2, 3, 4, 5]
    session.z_limits = (None, None)
    click(session, 1, 7)
    with pytest.raises(PromptError, match="Nothing says where"):
        session.segment(6)
    assert session.propagate() == [1, 2, 3, 4, 5, 7]  # the stop lies between two annotated slices
    session.set_prompts(Prompts(tuple(p for p in session.prompts.points if p.positive)))
    assert session.propagate() == list(range(1, 8))
    assert min(overlaps(session, 1)[1:8]) > 0.8 and session.annotated_slices() == [4, 7]


def test_what_an_earlier_run_found_elsewhere_is_out_of_date(session):
    click(session, 1, 4)
    session.propagate()
    session.set_prompts(Prompts((*session.prompts.points, Point(5, 5, False, i=6))))
    assert session.propagate() == [1, 2, 3, 4, 5]
    assert session.filled_slices(CURRENT) == [1, 2, 3, 4, 5] and not session.labels[REACHED][6:].any()
    session.undo()
    assert session.filled_slices(CURRENT) == list(range(1, 8))


def test_prompts_that_were_not_segmented_yet_are_segmented_first(session):
    session.set_prompts(Prompts((Point(*middle(1, 3), i=3), Point(*middle(1, 6), i=6))))
    assert not session.has(CURRENT)
    assert session.propagate() == list(range(1, 8))
    assert session.annotated_slices() == [3, 6] and len(session.history) == 2


def test_edits_painted_by_hand_survive_in_every_slice(session):
    paint(session, COMMITTED, (slice(8, 9), slice(100, 110), slice(0, 20)), 5)
    click(session, 1, 4)
    session.propagate()
    corner, hole = (slice(6, 7), slice(0, 6), slice(0, 6)), (slice(2, 3), slice(40, 46), slice(38, 44))
    paint(session, CURRENT, corner, 1)
    paint(session, CURRENT, hole, 0)
    assert session.annotated_slices() == [2, 4, 6]
    session.propagate()
    click(session, 1, 6)  # a prompt in a slice that was painted in
    click(session, 1, 2)
    session.propagate()
    assert session.labels[CURRENT][corner].all() and not session.labels[CURRENT][hole].any()
    assert overlaps(session, 1)[6] > 0.7 and overlaps(session, 1)[2] > 0.7
    session.commit()
    committed = session.labels[COMMITTED]
    assert (committed[corner] == 6).all() and not committed[hole].any()
    assert (committed[8, 100:110, :20] == 5).all()
    assert not session.has(BY_HAND)
    session.correct(COMMITTED, 6)
    session.set_prompts(Prompts((Point(*middle(1, 3), i=3),)))
    session.segment(3)
    session.commit()
    assert (committed[corner] == 6).all() and not committed[hole].any() and (committed[8, 100:110, :20] == 5).all()


def test_a_whole_object_is_painted_away_in_a_slice_and_stays_away(session):
    click(session, 1, 4)
    session.propagate()
    paint(session, CURRENT, (slice(6, 7), slice(0, 128), slice(0, 160)), 0)
    session.propagate()
    assert not session.labels[CURRENT][6].any()


def test_people_go_on_working_while_it_runs_and_undo_it_separately(session):
    click(session, 1, 4)
    work = iter_run(session.plan_propagation(), session.predictor, session.embeddings)
    taken, refused = [], []
    for item in work:
        if isinstance(item, ReachedSlice):
            (taken if session.reach(item) else refused).append(item.z)
            if len(taken) == 1:
                paint(session, CURRENT, (slice(7, 8), slice(0, 4), slice(0, 4)), 1)
                session.set_prompts(Prompts((*session.prompts.points, Point(*middle(1, 2), i=2))))
                session.segment(2)
    assert sorted(set(refused)) == [2, 7]
    assert session.labels[CURRENT][7].sum() == 16 and overlaps(session, 1)[2] > 0.8
    kinds = [step.kind for step in session.history._done]
    assert kinds == ["prompts", "segment", PROPAGATE, "paint", "prompts", "segment", PROPAGATE]
    while session.undo():
        pass
    assert not any(array.any() for array in session.labels.values())


def test_what_was_reached_stays_when_it_is_cancelled(session):
    click(session, 1, 4)
    work = iter_run(session.plan_propagation(), session.predictor, session.embeddings)
    reached = [item for item, _ in zip((i for i in work if isinstance(i, ReachedSlice)), range(2))]
    work.close()
    for found in reached:
        session.reach(found)
    assert session.filled_slices(CURRENT) == [4, 5, 6]
    session.undo()
    assert session.filled_slices(CURRENT) == [4]


def test_several_objects_keep_apart_from_each_other_and_from_committed_ones(session):
    click(session, 2, 4)
    session.propagate()
    session.commit()
    assert min(overlaps(session, 2, COMMITTED)) > 0.8
    before = session.labels[COMMITTED].copy()
    boxes = [Shape("rectangle", ((y - 17, x - 17), (y - 17, x + 17), (y + 17, x + 17), (y + 17, x - 17)), 4)
             for y, x in (middle(1, 4), middle(2, 4))]  # fmt: skip
    session.options = Options(preserve_mode="none")
    session.set_prompts(Prompts(shapes=tuple(boxes)))
    session.segment(4)
    assert set(np.unique(session.labels[CURRENT][4])) == {0, 1, 2}
    session.propagate()
    for label in (1, 2):
        assert min(overlaps(session, label, CURRENT, label)[1:8]) > 0.8
    session.clear()
    session.options = Options()
    click(session, 1, 4)
    session.propagate()
    session.commit()
    np.testing.assert_array_equal(session.labels[COMMITTED][before > 0], before[before > 0])
    assert min(overlaps(session, 1, COMMITTED, 2)[1:8]) > 0.8


def test_doubtful_slices_are_listed_until_somebody_looks_after_them(session):
    assert session.doubtful() == []
    click(session, 1, 4)
    session.propagate()
    assert session.doubtful() == [] and [z for z, _ in session.doubtful(1.1)] != []
    session.reach(ReachedSlice(6, (slice(60, 70), slice(40, 50)), np.ones((10, 10), np.uint32), 0.2))
    session.reach(ReachedSlice(2, (slice(40, 50), slice(40, 50)), np.ones((10, 10), np.uint32), 0.1))
    assert session.doubtful() == [(2, pytest.approx(0.1, abs=0.01)), (6, pytest.approx(0.2, abs=0.01))]
    click(session, 1, 2)
    paint(session, CURRENT, (slice(6, 7), slice(0, 4), slice(0, 4)), 1)
    assert session.doubtful() == []


def test_there_must_be_something_to_propagate(session):
    with pytest.raises(PromptError, match="segment the object in at least one slice"):
        session.propagate()
    session.set_prompts(Prompts((Point(2, 2, i=3),)))  # background: nothing is found
    with pytest.raises(PromptError, match="Nothing was found"):
        session.propagate()
    session.embeddings = None
    with pytest.raises(PromptError, match="no embeddings"):
        session.propagate()


@pytest.mark.parametrize("projection", ["box", "mask", "points", "points_and_mask", "single_point"])
def test_every_projection_follows_the_object(session, projection):
    session.propagation = PropagationSettings(projection, iou_threshold=0.4, box_extension=0.05)
    click(session, 2, 0)
    session.propagate()
    assert min(overlaps(session, 2)) > 0.75


def test_a_corrected_object_keeps_its_slices_and_number(session):
    session.put(COMMITTED, np.where(TRUTH == 1, 7, 0) * (np.arange(9) < 5)[:, None, None], "Loaded")
    session.correct(COMMITTED, 7)
    assert session.annotated_slices() == [1, 2, 3, 4]
    assert session.propagate() == list(range(1, 8))
    session.commit()
    assert min(overlaps(session, 1, COMMITTED, 7)[1:8]) > 0.8


def test_what_is_remembered_by_slice_is_what_is_there(session):
    plain = AnnotationSession()
    plain.labels = session.labels
    rng = np.random.default_rng(0)
    for number in range(25):
        z = int(rng.integers(9))
        window = (slice(z, z + 1), slice(0, int(rng.integers(1, 90))), slice(int(rng.integers(80)), 120))
        paint(session, (COMMITTED, CURRENT)[number % 2], window, int(rng.integers(0, 9)))
        if number % 6 == 5:
            session.undo()
        for key in (COMMITTED, CURRENT, AUTO, REACHED):
            assert session.has(key) == plain.has(key) and session.window(key) == plain.window(key)
        assert session.next_id(COMMITTED) == plain.next_id(COMMITTED)
    session.put(AUTO, np.ones(SHAPE[1:], np.uint32), "a", 2)
    assert session.with_own_ids(AUTO, np.array([[0, 1]], np.uint32), 5).tolist() == [[0, 2]]
    assert session.with_own_ids(AUTO, np.array([[0, 1]], np.uint32), 2).tolist() == [[0, 1]]
    session.start((4, 8, 8))
    assert not session.has(COMMITTED) and session.next_id(COMMITTED) == 1


KILLED = """
import sys, numpy as np
from micro_sam.sam_annotator.session import *
from micro_sam.sam_annotator.session.propagation import ReachedSlice
from micro_sam.sam_annotator.session.volume import VolumeSession
session = VolumeSession()
session.open(AnnotatedImage.from_array(np.load(sys.argv[1]), ndim=3))
for z in range(1000):
    block = np.full((20, 20), 1, np.uint32)
    session.reach(ReachedSlice(z, (slice(5, 25), slice(7, 27)), block, 0.6))
    print(z, flush=True)
"""


def test_a_propagation_that_is_killed_keeps_every_slice_it_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    volume = np.zeros((1000, 32, 32), np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "volume.npy")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 20:
        pass
    os.kill(process.pid, signal.SIGKILL)
    told = max([20, *(int(line) for line in process.stdout.read().split())])
    process.wait()
    work = find_unfinished(AnnotatedImage.from_array(volume, ndim=3), "annotator_3d")
    assert work.crashed
    session = VolumeSession()
    session.open(AnnotatedImage.from_array(volume, ndim=3))
    session.resume(work.folder)
    reached = session.filled_slices(CURRENT)
    assert reached in (list(range(told + 1)), list(range(told + 2)))
    assert session.labels[CURRENT].sum() == 400 * len(reached)
    session.undo()
    assert not session.has(CURRENT)  # one step
    session.close_journal()
