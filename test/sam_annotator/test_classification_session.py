"""Strokes and classes without a window: undone, restored from the journal, and what they say about objects."""

from __future__ import annotations

import numpy as np
import pytest
from annotator_toys import discs

from micro_sam.errors import ParameterError, PromptError
from micro_sam.object_classification import Samples
from micro_sam.progress import drain
from micro_sam.sam_annotator.session import AnnotatedImage
from micro_sam.sam_annotator.session.classification import (
    KIND,
    STROKES,
    ClassificationSession,
    Task,
    annotated_objects,
    iter_train_and_predict,
)
from micro_sam.sam_annotator.session.recovery import find_unfinished


@pytest.fixture
def strokes_session(image, predictor, embeddings, tmp_path, monkeypatch) -> ClassificationSession:
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    made = ClassificationSession()
    made.open(AnnotatedImage.from_array(image))
    made.predictor, made.embeddings = predictor, embeddings
    yield made
    made.close_journal()


def _paint(session: ClassificationSession, window: tuple[slice, slice], class_id: int) -> None:
    before = session.labels[STROKES][window].copy()
    session.labels[STROKES][window] = class_id
    session.painted(STROKES, window, before)


def _names(session: ClassificationSession) -> list[str]:
    return [found.name for found in session.classes]


def test_classes_are_added_renamed_recoloured_removed_and_undone(strokes_session):
    session = strokes_session
    added = session.add_class("mitotic")
    assert (added.id, _names(session)) == (3, ["class 1", "class 2", "mitotic"])
    session.rename_class(1, "  dead ")
    session.recolor_class(1, "#123456")
    _paint(session, (slice(0, 4), slice(0, 4)), 3)
    session.remove_class(3)
    assert _names(session) == ["dead", "class 2"] and session.classes[0].color == "#123456"
    assert not session.labels[STROKES].any()
    session.undo()
    assert _names(session) == ["dead", "class 2", "mitotic"] and (session.labels[STROKES] == 3).sum() == 16
    for name in ("dead", "", "  "):
        with pytest.raises(ParameterError, match="a name of its own"):
            session.rename_class(2, name)
    with pytest.raises(ParameterError, match="no class 9"):
        session.remove_class(9)
    while session.undo():
        pass
    assert _names(session) == ["class 1", "class 2"] and not session.labels[STROKES].any()


def test_strokes_and_classes_come_back_after_a_crash(strokes_session, image):
    session = strokes_session
    session.rename_class(2, "dividing")
    _paint(session, (slice(40, 60), slice(40, 60)), 1)
    _paint(session, (slice(130, 150), slice(50, 70)), 2)
    session.undo()
    session._journal.close()  # what is on disk when the process dies
    found = find_unfinished(AnnotatedImage.from_array(image), KIND)
    assert found is not None and found.crashed
    again = ClassificationSession()
    again.open(AnnotatedImage.from_array(image))
    again.resume(found.folder)
    assert _names(again) == ["class 1", "dividing"]
    assert (again.labels[STROKES] == 1).sum() == 400 and not (again.labels[STROKES] == 2).any()
    again.redo()
    assert (again.labels[STROKES] == 2).sum() == 400
    again.close_journal()


def test_classes_that_come_from_an_earlier_image_are_in_the_journal_of_this_one(strokes_session, image):
    session = strokes_session
    session.add_class("mitotic")
    second = AnnotatedImage.from_array(255 - image)
    session.open(second)
    _paint(session, (slice(0, 4), slice(0, 4)), 3)
    session.close_journal()
    again = ClassificationSession()
    again.open(second)
    again.resume(find_unfinished(second, KIND).folder)
    assert _names(again) == ["class 1", "class 2", "mitotic"]
    again.close_journal()


def test_an_object_has_the_class_of_most_of_its_painted_pixels(strokes_session):
    labels = discs()[1]
    strokes = np.zeros(labels.shape, np.uint8)
    strokes[45:50, 50] = 1
    strokes[50:58, 50] = 2
    strokes[140, 55:60] = 1
    strokes[0:3, 0:3] = 2  # background
    strokes[140, 145] = 9  # a class that was removed
    rows, classes = annotated_objects(strokes, labels, np.unique(labels)[1:], strokes_session.classes)
    assert rows.tolist() == [0, 2] and classes.tolist() == [2, 1]


def _task(session: ClassificationSession, **changes) -> Task:
    content = {
        "name": "discs",
        "image": session.image.source.array,
        "embeddings": session.embeddings,
        "predictor": session.predictor,
        "segmentation": discs()[1],
        "strokes": session.labels[STROKES],
        "classes": session.classes,
    }
    return Task(**(content | changes))


def _outcome(task: Task):
    features = []

    def only_progress():
        work = iter_train_and_predict(task)
        while True:
            try:
                item = next(work)
            except StopIteration as stop:
                return stop.value
            if hasattr(item, "done"):
                yield item
            else:
                features.append(item)

    return drain(only_progress()), features


def test_painted_objects_keep_their_class_and_the_others_are_listed_by_doubt(strokes_session):
    session = strokes_session
    _paint(session, (slice(48, 52), slice(48, 52)), 1)  # the discs 1 and 2 are painted
    _paint(session, (slice(48, 52), slice(138, 142)), 2)
    outcome, features = _outcome(_task(session))
    assert outcome.annotated.tolist() == [True, True, False, False]
    assert outcome.classes[:2].tolist() == [1, 2] and features == [outcome.features]
    assert sorted(outcome.doubtful()) == [2, 3]
    assert set(np.unique(outcome.image[discs()[1] == 1])) == {1}
    again, computed = _outcome(_task(session, features=outcome.features, kept={}))
    assert not computed
    np.testing.assert_array_equal(again.probabilities, outcome.probabilities)


def test_what_is_missing_is_said_in_a_sentence(strokes_session):
    session = strokes_session
    with pytest.raises(ParameterError, match="no samples yet"):
        _outcome(_task(session))
    _paint(session, (slice(0, 5), slice(0, 5)), 1)
    with pytest.raises(PromptError, match="touch no objects"):
        _outcome(_task(session))
    _paint(session, (slice(48, 52), slice(48, 52)), 1)
    with pytest.raises(ParameterError, match="class 'class 1' only"):
        _outcome(_task(session))
    _paint(session, (slice(48, 52), slice(138, 142)), 2)
    outcome, _ = _outcome(_task(session))

    class Other:
        model_name, _hash = "vit_b_lm", "xxh128:0"

    samples = {"other": Samples(outcome.features.values[:2], np.array([1, 2]))}
    changes = {"predictor": Other(), "features": outcome.features, "classifier": outcome.classifier, "kept": samples}
    with pytest.raises(ParameterError, match="trained with the model 'vit_t_builtin'"):
        _outcome(_task(session, **changes))
    _outcome(_task(session, **(changes | {"kept": {}})))  # only strokes on this image: learned anew with this model
