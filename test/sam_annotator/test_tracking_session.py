"""Tracks in a session, without a window: prompts, division, following, edits, lineage, journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from annotator_toys import iou
from movie_toys import ALONE, DAUGHTERS, MOTHER, centre

from micro_sam.errors import InputError, ParameterError, PromptError
from micro_sam.io import read_tracks, write_ctc, write_geff, write_labels, write_tracks
from micro_sam.sam_annotator.session import COMMITTED, CURRENT, AnnotatedImage, Point, Prompts, Shape, replay
from micro_sam.sam_annotator.session.following import follow, plan_following
from micro_sam.sam_annotator.session.journal import read_journal
from micro_sam.sam_annotator.session.lineage import Draft, Lineage
from micro_sam.sam_annotator.session.prompts import DIVISION
from micro_sam.sam_annotator.session.recovery import find_unfinished
from micro_sam.sam_annotator.session.state import AUTO
from micro_sam.sam_annotator.session.track_edits import cut, join, remove_from_frame, set_mother
from micro_sam.sam_annotator.session.tracking import TrackingSession


@pytest.fixture
def tracking(movie, predictor, movie_embeddings, tmp_path, monkeypatch) -> TrackingSession:
    """A session on the movie, with a journal of its own."""
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = TrackingSession()
    made.open(AnnotatedImage.from_array(movie[0], 3))
    made.predictor, made.embeddings = predictor, movie_embeddings
    yield made
    made.close_journal()


@pytest.fixture
def loaded(tracking, movie) -> TrackingSession:
    """The same with the true tracks committed."""
    tracking.put_tracks(COMMITTED, movie[1], Lineage.from_families(movie[2]), "Loaded tracks")
    return tracking


def point(track: int, frame: int, track_id: int | None = None, **said) -> Point:
    return Point(*centre(track, frame), i=frame, track_id=track_id, **said)


def box(track: int, frame: int, track_id: int, labels: np.ndarray) -> Shape:
    rows, columns = (np.flatnonzero((labels[frame] == track).any(axis=axis)) for axis in (1, 0))
    corners = [(rows[0], columns[0]), (rows[0], columns[-1]), (rows[-1], columns[-1]), (rows[-1], columns[0])]
    return Shape("rectangle", tuple((float(y), float(x)) for y, x in corners), frame, track_id)


def overlap(session: TrackingSession, key: str, track: int, truth: np.ndarray, label: int) -> list[float]:
    pairs = zip(session.labels[key], truth)
    return [iou(mine == track, true == label) for mine, true in pairs if (true == label).any()]


def test_a_division_prompt_ends_the_mother_and_starts_daughters_that_are_followed(tracking, movie):
    truth = movie[1]
    tracking.set_prompts(Prompts((point(MOTHER, 0),)))
    assert tracking.prompts.points[0].track_id == 1
    divided = (point(MOTHER, 0, 1), point(MOTHER, 1, 1, state=DIVISION))
    tracking.set_prompts(Prompts(divided))
    assert tracking.draft == Draft((1, 2, 3), Lineage.of({2: 1, 3: 1}))
    tracking.set_prompts(Prompts((*divided, point(DAUGHTERS[0], 2, 2)), (box(DAUGHTERS[1], 2, 3, truth),)))
    result = follow(tracking)
    assert result.z_ranges == {1: (0, 1), 2: (2, 3), 3: (2, 3)}
    for track, label in zip((1, 2, 3), (MOTHER, *DAUGHTERS)):
        assert min(overlap(tracking, CURRENT, track, truth, label)) > 0.8
    assert not (tracking.labels[CURRENT][2:] == 1).any() and not (tracking.labels[CURRENT][:2] > 1).any()

    tracking.commit()
    assert tracking.history.last.text == "Committed 3 tracks" and not tracking.prompts
    assert tracking.lineages() == [{1: [2, 3], 2: [], 3: []}] and tracking.draft.tracks == (4,)
    assert set(tracking.origins) == {1, 2, 3}
    committed = tracking.labels[COMMITTED].copy()
    folder, n_steps = tracking.journal_folder, len(tracking.history)
    assert n_steps == 5  # three times prompts, tracking as one step, the commit
    while tracking.undo():
        pass
    assert not tracking.labels[COMMITTED].any() and not tracking.lineage.links and tracking.draft == Draft()
    while tracking.redo():
        pass
    np.testing.assert_array_equal(tracking.labels[COMMITTED], committed)
    assert tracking.lineages() == [{1: [2, 3], 2: [], 3: []}]
    again = replay(folder)
    np.testing.assert_array_equal(again.committed, committed)
    assert again.lineages == [{1: [2, 3], 2: [], 3: []}]


def test_taking_a_division_back_removes_daughters_without_prompts(tracking):
    mother = point(MOTHER, 0, 1)
    tracking.set_prompts(Prompts((mother, point(MOTHER, 1, 1, state=DIVISION))))
    tracking.set_prompts(Prompts((mother,)))
    assert tracking.draft.tracks == (1,) and not tracking.draft.lineage.links
    tracking.undo()
    assert tracking.draft.tracks == (1, 2, 3)


def test_masks_painted_by_hand_and_negative_points_guide_the_tracking(tracking):
    gone = Point(*centre(ALONE, 3), positive=False, i=3, track_id=1)
    tracking.set_prompts(Prompts((point(ALONE, 0, 1), gone)))
    tracking.segment(0)
    window = (slice(1, 2), slice(10, 20), slice(10, 20))
    before = tracking.labels[CURRENT][window].copy()
    tracking.labels[CURRENT][window] = 1
    tracking.painted(CURRENT, window, before)
    assert tracking.draft.fixed == ((1, 1),)
    painted = tracking.labels[CURRENT][1].copy()
    follow(tracking)
    np.testing.assert_array_equal(tracking.labels[CURRENT][1], painted)
    assert not tracking.labels[CURRENT][3].any()


def test_a_track_is_corrected_from_a_frame_on_and_keeps_its_id_and_relatives(loaded, movie):
    truth, mother = movie[1], loaded.lineage.mother(DAUGHTERS[0])
    first = DAUGHTERS[0]
    loaded.delete(COMMITTED, MOTHER)
    assert loaded.lineage.links == () and loaded.history.last.details["unlinked"] == [[t, mother] for t in DAUGHTERS]
    loaded.undo()
    damaged = truth[3] == first
    remove_from_frame(loaded, first, 3)
    others = np.where(truth == first, 0, loaded.labels[COMMITTED])
    loaded.correct(COMMITTED, first)
    assert loaded.draft.tracks == (first,) and loaded.lineage.mother(first) == MOTHER
    assert next(family for family in loaded.lineages() if MOTHER in family)[MOTHER] == list(DAUGHTERS)
    loaded.set_prompts(Prompts((point(first, 3, first),)))
    follow(loaded)
    np.testing.assert_array_equal(loaded.labels[CURRENT][2] == first, truth[2] == first)  # before the prompt as it was
    loaded.commit()
    assert iou(loaded.labels[COMMITTED][3] == first, damaged) > 0.8
    np.testing.assert_array_equal(np.where(loaded.labels[COMMITTED] == first, 0, loaded.labels[COMMITTED]), others)
    assert loaded.lineage.mother(first) == MOTHER and loaded.correcting is None


def test_a_committed_track_gets_a_division(loaded, movie):
    labels = movie[1]
    whole = np.where(np.isin(labels, DAUGHTERS), MOTHER, labels)
    loaded.put_tracks(COMMITTED, whole, Lineage(), "Loaded tracks")
    loaded.correct(COMMITTED, MOTHER)
    loaded.set_prompts(Prompts((point(MOTHER, 1, MOTHER, state=DIVISION),)))
    new = loaded.draft.tracks[1:]
    assert min(new) > whole.max()
    points = tuple(point(d, 2, track) for d, track in zip(DAUGHTERS, new))
    loaded.set_prompts(Prompts((*loaded.prompts.points, *points)))
    follow(loaded)
    loaded.commit()
    assert loaded.lineage == Lineage.of(dict.fromkeys(new, MOTHER))
    assert not (loaded.labels[COMMITTED][2:] == MOTHER).any()
    for track, label in zip(new, DAUGHTERS):
        assert min(overlap(loaded, COMMITTED, track, labels, label)) > 0.8


def test_cutting_and_joining_move_daughters_and_are_inverse(loaded, movie):
    before = loaded.labels[COMMITTED].copy()
    new = cut(loaded, MOTHER, 1)
    assert loaded.lineage == Lineage.of(dict.fromkeys(DAUGHTERS, new)) and new == before.max() + 1
    assert (loaded.labels[COMMITTED][1] == new).sum() == (before[1] == MOTHER).sum()
    with pytest.raises(PromptError, match="begins in this frame"):
        cut(loaded, new, 1)
    join(loaded, new, MOTHER)  # in whichever order they are clicked
    np.testing.assert_array_equal(loaded.labels[COMMITTED], before)
    assert loaded.lineage == Lineage.of(dict.fromkeys(DAUGHTERS, MOTHER))
    with pytest.raises(PromptError, match="both there in frame 2"):
        join(loaded, *DAUGHTERS)
    join(loaded, MOTHER, DAUGHTERS[0])  # no division after all: the other daughter is on its own
    assert loaded.lineage.links == () and loaded.committed_frames.frames_of(MOTHER) == [0, 1, 2, 3]
    loaded.undo()
    assert loaded.lineage == Lineage.of(dict.fromkeys(DAUGHTERS, MOTHER))


def test_mothers_are_set_and_refused_where_time_runs_backwards(loaded):
    first, second = DAUGHTERS
    set_mother(loaded, first, None)
    assert loaded.lineage.links == ((second, MOTHER),)
    set_mother(loaded, first, MOTHER)
    with pytest.raises(PromptError, match="already"):
        set_mother(loaded, first, MOTHER)
    with pytest.raises(PromptError, match="begins after its mother ends"):
        set_mother(loaded, MOTHER, first)
    with pytest.raises(PromptError, match="own mother"):
        set_mother(loaded, first, first)


def test_edits_of_labels_bring_the_lineage_into_order(loaded, movie):
    window = (slice(2, 3), slice(0, 6), slice(0, 6))
    before = loaded.labels[COMMITTED][window].copy()
    loaded.labels[COMMITTED][window] = MOTHER  # painted into a frame in which her daughters are there
    loaded.painted(COMMITTED, window, before)
    assert loaded.lineage.links == ()
    loaded.undo()
    assert len(loaded.lineage.links) == 2
    loaded.merge(COMMITTED, DAUGHTERS)
    assert loaded.lineage.links == ((DAUGHTERS[0], MOTHER),)
    loaded.undo()
    y, x = centre(MOTHER, 0)
    loaded.split_along(COMMITTED, np.array([(y - 40, x), (y + 40, x)]), 0)
    labels = loaded.labels[COMMITTED]
    new = loaded.history.last.details["new"]
    assert all((labels[0] == track).any() and not (labels[1:] == track).any() for track in new)
    assert loaded.lineage.mother(DAUGHTERS[0]) == MOTHER


def test_prompts_that_cannot_be_followed_are_explained(tracking):
    with pytest.raises(PromptError, match="Nothing is annotated yet"):
        plan_following(tracking)
    tracking.set_prompts(Prompts((point(MOTHER, 0, 1, state=DIVISION), point(MOTHER, 1, 1))))
    with pytest.raises(PromptError, match="ends before frame 1"):
        plan_following(tracking)
    with pytest.raises(ParameterError, match="time series has"):
        tracking.put_tracks(COMMITTED, np.zeros((2, 4, 4), np.uint16), Lineage(), "Loaded tracks")


def test_an_automatic_result_is_committed_with_its_lineages_under_free_ids(loaded, movie):
    loaded.put_tracks(AUTO, movie[1], Lineage.from_families(movie[2]), "Tracked automatically", kind="automatic")
    loaded.empty(COMMITTED, "Removed everything")
    assert loaded.lineage.links == ()
    loaded.commit(AUTO)
    [divided] = [family for family in loaded.lineages() if len(family) > 1]
    [(mother, daughters)] = [(t, some) for t, some in divided.items() if some]
    np.testing.assert_array_equal(loaded.labels[COMMITTED] == mother, movie[1] == MOTHER)
    assert len(daughters) == 2 and not loaded.auto_lineage.links


def test_tracks_are_read_in_all_forms_they_are_written_in(loaded, movie, tmp_path):
    labels, families = movie[1].astype(np.uint16), movie[2]
    links = Lineage.from_families(families)
    write_ctc(tmp_path / "ctc", labels, families)
    write_tracks(tmp_path / "tracked.tif", labels, families)
    write_labels(tmp_path / "table.tif", labels, is_timeseries=True)
    (tmp_path / "ctc" / "res_track.txt").rename(tmp_path / "table.txt")
    (tmp_path / "ctc" / "res_track.txt").write_text((tmp_path / "table.txt").read_text())
    for name in ("ctc", "ctc/res_track.txt", "tracked.tif", "tracked.geff", "table.tif", "table.txt"):
        found, lineages = read_tracks(tmp_path / name)
        np.testing.assert_array_equal(found, labels, err_msg=name)
        assert Lineage.from_families(lineages) == links, name
    # A graph with other numbers than the labels, as other programs write it
    names = {t: t + 100 for t in np.unique(labels).tolist() if t}
    renamed = np.zeros_like(labels)
    for old, new in names.items():
        renamed[labels == old] = new
    renamed_families = [{names[m]: [names[d] for d in some] for m, some in family.items()} for family in families]
    write_geff(tmp_path / "foreign.geff", renamed, renamed_families)
    write_labels(tmp_path / "foreign.tif", labels, is_timeseries=True)
    found, lineages = read_tracks(tmp_path / "foreign.geff")
    np.testing.assert_array_equal(found, renamed)
    assert Lineage.from_families(lineages) == links.renamed(names)
    (tmp_path / "table.txt").write_text("1 0 3 0\n")
    with pytest.raises(InputError, match=r"not in '.*table.txt'"):
        read_tracks(tmp_path / "table.tif")


_WORK = """
import sys, time
sys.path[:0] = {path!r}
from movie_toys import DAUGHTERS, MOTHER, movie
from micro_sam.sam_annotator.session import COMMITTED, AnnotatedImage, Point, Prompts
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.track_edits import cut, set_mother
from micro_sam.sam_annotator.session.tracking import TrackingSession
images, labels, families = movie()
session = TrackingSession()
session.open(AnnotatedImage.from_array(images, 3))
session.put_tracks(COMMITTED, labels, Lineage.from_families(families), "Loaded tracks")
cut(session, MOTHER, 1)
set_mother(session, DAUGHTERS[1], None)
session.set_prompts(Prompts((Point(80.0, 90.0, i=1, state="division"),)))
print("done", flush=True)
time.sleep(60)
"""


def test_a_killed_process_loses_no_lineage(movie, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    script = _WORK.format(path=[entry for entry in sys.path if entry])
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "done\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    image = AnnotatedImage.from_array(movie[0], 3)
    found = find_unfinished(image, "annotator_tracking")
    assert found is not None and found.crashed and find_unfinished(image, "annotator_3d") is None
    session = TrackingSession()
    session.open(image)
    session.resume(found.folder)
    new = int(movie[1].max()) + 1
    assert session.lineage == Lineage.of({DAUGHTERS[0]: new})
    assert session.draft.tracks == (new + 1, new + 2, new + 3) and len(session.prompts) == 1
    assert [step.do for step in read_journal(found.folder)][1:5] == ["load", "cut", "relink", "prompts"]
    for _ in range(3):
        session.undo()
    np.testing.assert_array_equal(session.labels[COMMITTED], movie[1])
    assert session.lineage == Lineage.from_families(movie[2])
    session.close_journal()
