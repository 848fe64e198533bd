import numpy as np
import pytest
import tifffile

from micro_sam.errors import ParameterError
from micro_sam.evaluation.evaluation import run_evaluation, segmentation_scores
from micro_sam.sample_data import synthetic_data


def _accuracy(prediction, truth, threshold):
    """Segmentation accuracy written down from its definition."""
    matches = 0
    for i in np.unique(truth[truth > 0]):
        for j in np.unique(prediction[prediction > 0]):
            a, b = truth == i, prediction == j
            matches += (a & b).sum() / (a | b).sum() > threshold
    n_true, n_predicted = len(np.unique(truth[truth > 0])), len(np.unique(prediction[prediction > 0]))
    return matches / (n_true + n_predicted - matches)


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_their_definition_on_random_labels(seed):
    truth = synthetic_data((60, 60), seed=seed, diameter=14)[1]
    prediction = np.roll(truth, seed, axis=0)
    prediction[prediction == 2] = 0
    scores = segmentation_scores(prediction, truth)
    thresholds = np.arange(0.5, 1, 0.05)
    assert scores["mSA"] == pytest.approx(np.mean([_accuracy(prediction, truth, t) for t in thresholds]))
    assert scores["SA50"] == pytest.approx(_accuracy(prediction, truth, 0.5))
    assert scores["SA75"] == pytest.approx(_accuracy(prediction, truth, 0.75))


def test_perfect_and_empty_segmentations():
    labels = synthetic_data((50, 50), seed=1)[1]
    empty = np.zeros_like(labels)
    assert segmentation_scores(labels, labels)["mSA"] == 1
    assert segmentation_scores(empty, labels)["mSA"] == segmentation_scores(labels, empty)["mSA"] == 0
    assert segmentation_scores(empty, empty)["mSA"] == 1


def test_files_and_arrays_are_evaluated_and_written_as_csv(tmp_path):
    labels = synthetic_data((50, 50), seed=1)[1]
    tifffile.imwrite(tmp_path / "gt.tif", labels.astype("uint16"))
    worse = np.where(labels == 1, 0, labels)
    table = run_evaluation([tmp_path / "gt.tif", labels], [worse, labels], tmp_path / "scores.csv", verbose=False)
    expected = (1 + segmentation_scores(worse, labels)["mSA"]) / 2
    assert table["mSA"].item() == pytest.approx(expected)
    assert (tmp_path / "scores.csv").read_text().startswith("mSA,SA50,SA75\n")


@pytest.mark.parametrize(
    "gt, prediction, told",
    [
        (np.zeros((3, 3), int), np.zeros((3, 4), int), "same shape"),
        (np.zeros((3, 3), int), np.zeros((3, 3)), "integer"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(gt, prediction, told):
    with pytest.raises(ParameterError, match=told):
        run_evaluation([gt], [prediction], verbose=False)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ParameterError, match="as many"):
        run_evaluation([], [np.zeros((3, 3), int)])
