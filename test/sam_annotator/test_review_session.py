"""Which objects are doubtful, and going through them, without a window."""

from __future__ import annotations

import numpy as np
import pytest
from annotator_toys import nuclei
from review_toys import nuclei_with_errors, small_with_errors
from scipy import ndimage

from micro_sam.embeddings import precompute_image_embeddings
from micro_sam.errors import PromptError
from micro_sam.progress import Progress, drain
from micro_sam.sam_annotator.session import AUTO, COMMITTED, AnnotatedImage, AnnotationSession, Point, Prompts, replay
from micro_sam.sam_annotator.session.doubt import iter_doubts
from micro_sam.sam_annotator.session.review import CORRECTED, KEPT, Doubt, Review
from micro_sam.sam_annotator.session.segmentation import own_predictor
from micro_sam.sam_annotator.session.volume import VolumeSession


def doubts_of(labels, predictor, embeddings, **options) -> tuple[Doubt, ...]:
    return drain(iter_doubts(labels, own_predictor(predictor), embeddings, **options), verbose=False)


@pytest.mark.parametrize("seed", (0, 2))
def test_objects_with_known_errors_come_first(predictor, seed):
    image, _, wrong, errors = nuclei_with_errors(seed)
    found = doubts_of(wrong, predictor, precompute_image_embeddings(predictor, image, verbose=False))
    order = [doubt.label for doubt in found]
    assert sorted(order) == [int(label) for label in np.unique(wrong)[1:]] and len(order) >= 45
    places = {name: order.index(label) for name, label in errors.items()}
    assert places["invented"] == 0 and max(places["merged"], places["cut"]) < 5 and places["widened"] < 10, places
    values = [doubt.doubt for doubt in found]
    assert values == sorted(values, reverse=True) and values[0] > 0.8 and np.median(values) < 0.3
    reasons = {name: found[place].reasons for name, place in places.items()}
    assert "there may be nothing" in reasons["invented"]
    assert "may be several objects, or too wide" in reasons["merged"]
    assert "may be part of something larger" in reasons["cut"]
    assert "the model outlines it differently" in reasons["widened"]


def test_each_object_is_asked_about_and_it_can_be_cancelled(predictor):
    image, _, wrong, _ = small_with_errors()
    embeddings = precompute_image_embeddings(predictor, image, verbose=False)
    n_objects = len(np.unique(wrong)) - 1
    work = iter_doubts(wrong, own_predictor(predictor), embeddings)
    seen = [next(work) for _ in range(5)]
    work.close()
    assert all(isinstance(progress, Progress) for progress in seen) and seen[-1].total == n_objects
    told = []
    work = iter_doubts(wrong, own_predictor(predictor), embeddings)
    assert len(drain(_spied(work, told), verbose=False)) == n_objects
    assert (told[-1].done, told[-1].total) == (n_objects, n_objects)


def _spied(work, told):
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            return stop.value
        told.append(progress)
        yield progress


def test_tiles_give_the_same_errors(predictor):
    image, _, wrong, errors = small_with_errors()
    tiled = precompute_image_embeddings(predictor, image, tile_shape=(128, 128), halo=(48, 48), verbose=False)
    order = [doubt.label for doubt in doubts_of(wrong, predictor, tiled)]
    assert order.index(errors["invented"]) < 3 and order.index(errors["merged"]) < 6
    nothing = np.zeros_like(wrong)
    assert doubts_of(nothing, predictor, tiled) == ()


def test_volumes_name_the_slice_to_look_at(predictor):
    volume, labels = nuclei()
    wrong = labels.copy()
    wide = ndimage.binary_dilation(labels[2] == 2, iterations=7)
    wrong[2][wide & (labels[2] == 0)] = 2
    embeddings = precompute_image_embeddings(predictor, volume, ndim=3, verbose=False)
    first = doubts_of(wrong, predictor, embeddings)[0]
    assert (first.label, first.i) == (2, 2) and len(first.box) == 6
    assert first.area == int((wrong == 2).sum()) and (wrong[first.window] == 2).sum() == first.area
    found = {doubt.label for doubt in doubts_of(wrong, predictor, embeddings, is_series=True)}
    assert found == {1, 2, 3, 4}


@pytest.fixture
def reviewing(session, truth) -> AnnotationSession:
    """A session that reviews the discs 1 to 4 of the committed objects, the most doubtful first: 3, 1, 4, 2."""
    session.put(COMMITTED, truth, "Loaded labels")
    session.list_doubts(COMMITTED, made_up(truth, 3, 1, 4, 2))
    return session


def made_up(labels: np.ndarray, *order: int) -> list[Doubt]:
    made = []
    for k, label in enumerate(order):
        rows, columns = np.nonzero(labels == label)
        box = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
        made.append(Doubt(label, 0.9 - k / 10, ("unclear edge",), tuple(map(int, box)), len(rows)))
    return made


def still_open(session) -> list[int]:
    return [doubt.label for doubt in session.open_doubts()]


def test_decisions_are_remembered_and_undone(reviewing):
    session = reviewing
    assert still_open(session) == [3, 1, 4, 2]
    session.keep(3)
    session.delete(COMMITTED, 1)
    session.correct(COMMITTED, 4)
    decided = [session.decided(doubt) for doubt in session.review.doubts]
    assert decided == [KEPT, "deleted", "being corrected", None] and still_open(session) == [2]
    session.set_prompts(Prompts((Point(140, 145),)))
    session.segment()
    session.commit()
    assert session.verdicts == {3: KEPT, 4: CORRECTED} and still_open(session) == [2]
    for expected in ([2], [2], [4, 2], [1, 4, 2], [3, 1, 4, 2]):  # mask, prompt, correct, delete, keep
        while still_open(session) != expected:
            assert session.undo() is not None, (expected, still_open(session))
    session.redo()
    assert still_open(session) == [1, 4, 2]
    with pytest.raises(PromptError, match="not in the list"):
        session.keep(17)


def test_clearing_a_correction_leaves_the_object_open(reviewing):
    reviewing.correct(COMMITTED, 3)
    reviewing.clear()
    assert still_open(reviewing) == [3, 1, 4, 2] and (reviewing.labels[COMMITTED] == 3).any()


def test_a_new_list_keeps_what_was_decided_and_leaves_out_what_was_changed_meanwhile(reviewing, truth):
    reviewing.keep(1)
    reviewing.delete(COMMITTED, 2)
    reviewing.list_doubts(COMMITTED, made_up(truth, 2, 1, 4, 3))
    assert [doubt.label for doubt in reviewing.review.doubts] == [1, 4, 3] and still_open(reviewing) == [4, 3]
    for label in (1, 3, 4):
        reviewing.delete(COMMITTED, label)
    with pytest.raises(PromptError, match="no objects to review"):
        reviewing.list_doubts(COMMITTED, made_up(truth, 1, 3, 4))


def test_the_list_goes_with_committed_objects_and_ends_with_other_labels(session, truth):
    session.put(COMMITTED, np.where(truth == 1, 5, 0), "Loaded labels")
    session.put(AUTO, truth, "Segmented", kind="automatic")
    session.list_doubts(AUTO, made_up(truth, 3, 1, 4, 2))
    session.keep(3)
    session.commit(AUTO)  # disc 1 is there already
    assert session.review.key == COMMITTED and session.verdicts == {7: KEPT}
    assert [doubt.label for doubt in session.review.doubts] == [7, 8, 6] and still_open(session) == [8, 6]
    for doubt in session.review.doubts:
        assert (session.labels[COMMITTED][doubt.window] == doubt.label).sum() == doubt.area
    session.undo()
    assert session.review.key == AUTO and still_open(session) == [1, 4, 2]
    session.put(AUTO, np.flipud(truth), "Segmented anew", kind="automatic")
    assert session.review == Review() and session.verdicts == {} and still_open(session) == []
    session.undo()
    assert still_open(session) == [1, 4, 2]


def test_the_journal_brings_the_review_back(reviewing, image):
    reviewing.keep(3)
    reviewing.delete(COMMITTED, 1)
    review, folder = reviewing.review, reviewing.journal_folder
    labels = reviewing.labels[COMMITTED].copy()
    reviewing.close_journal()
    np.testing.assert_array_equal(replay(folder).committed, labels)
    other = AnnotationSession()
    other.open(AnnotatedImage.from_array(image))
    other.resume(folder)
    assert other.review == review and other.verdicts == {3: KEPT} and still_open(other) == [4, 2]
    other.undo()
    assert still_open(other) == [1, 4, 2]
    other.close_journal()


def test_labels_of_another_layer_and_of_a_volume_are_reviewed(session, truth):
    key = session.adopt("cellpose", truth.astype(np.uint16))
    session.list_doubts(key, made_up(truth, 2, 4))
    session.delete(key, 2)
    assert still_open(session) == [4]

    volume, labels = nuclei()
    other = VolumeSession()
    other.open(AnnotatedImage.from_array(volume, ndim=3), journal=False)
    other.put(COMMITTED, labels, "Loaded labels")
    box = (0, 4, 0, 256, 0, 256)
    other.list_doubts(COMMITTED, [Doubt(k, 0.5, (), box, int((labels == k).sum()), 2) for k in (1, 2)])
    other.keep(1)
    assert still_open(other) == [2]
