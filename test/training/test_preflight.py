"""What is wrong with training data is found before the first step, and said in a table."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from micro_sam.errors import ParameterError
from micro_sam.sample_data import synthetic_data
from micro_sam.training import check_training_data


@pytest.fixture
def good():
    raw, labels = synthetic_data((96, 96), seed=0, kind="nuclei", diameter=16)
    return raw, labels.astype(np.int32)


def _look(raw, labels, **kwargs):
    return check_training_data([raw], [labels], patch_shape=(64, 64), **kwargs).findings[0]


def test_good_data_is_fine(good):
    finding = _look(*good)
    assert finding.status == "fine"
    assert finding.remark == ""
    assert finding.n_objects == len(np.unique(good[1])) - 1


def test_images_without_objects_are_skipped(good):
    raw, labels = good
    assert _look(raw, np.zeros_like(labels)).status == "skipped"
    small = _look(raw, labels, min_size=10_000)
    assert small.status == "skipped"
    assert "fewer than 10000 pixels" in small.remark
    assert small.n_small == small.n_objects > 0


def test_what_is_wrong_is_said(good):
    raw, labels = good
    assert "belong together" in _look(raw[:-4], labels).remark
    assert "expected integer" in _look(raw, labels / 2).remark
    assert _look(np.zeros_like(raw), labels).status == "wrong"


def test_what_may_be_wrong_is_said(good):
    raw, labels = good
    assert "a single label" in _look(raw, (labels > 0).astype(np.uint8)).remark
    assert "padded" in check_training_data([raw], [labels], patch_shape=(512, 512)).findings[0].remark
    finding = _look(np.stack([raw] * 5), labels)
    assert finding.channels == 5
    assert "first 3 of 5 channels" in finding.remark
    assert "channels come first" in finding.remark
    sparse = labels.copy()
    sparse[48:] = -1
    assert _look(raw, sparse).unknown == pytest.approx(0.5)


def test_labels_of_another_image_are_noticed():
    rng = np.random.default_rng(0)
    raw = rng.normal(100, 5, (128, 128))
    labels = np.zeros((128, 128), np.int32)
    for i, (y, x) in enumerate(((10, 10), (10, 70), (70, 10), (70, 70), (40, 40)), start=1):
        raw[y : y + 20, x : x + 20] += 100
        labels[y : y + 20, x : x + 20] = i
    assert "belong together" not in _look(raw, labels).remark
    assert "belong together" in _look(raw, np.roll(labels, (9, 9), (0, 1))).remark


def test_the_table_and_the_sum(good, tmp_path):
    raw, labels = good
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, array in zip(paths, (raw, raw[:50])):
        tifffile.imwrite(path, array)
    report = check_training_data(paths, [labels, labels], patch_shape=(64, 64))
    lines = report.table().splitlines()
    assert lines[0].split()[:3] == ["image", "status", "shape"]
    assert lines[1].split()[:2] == ["a.tif", "fine"]
    assert lines[-1] == "1 fine, 0 skipped, 1 wrong"
    assert not report.is_usable
    with pytest.raises(ParameterError, match=r"b\.tif cannot be trained on"):
        report.raise_if_wrong()
    with pytest.raises(ParameterError, match=r"the image b\.tif and those after it have no partner"):
        check_training_data(paths, [labels])
