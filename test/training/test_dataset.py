"""Patches and prompts: any image goes in, what the model sees in use comes out."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from micro_sam.errors import ImageError, MissingInputError, ParameterError
from micro_sam.training import (
    ConvertToSamInputs,
    ResizeLabelTrafo,
    ResizeRawTrafo,
    default_sam_dataset,
    default_sam_loader,
    get_raw_transform,
    require_8bit,
)
from micro_sam.training.label_transform import InstanceTargets
from micro_sam.training.reproducible import random_state, seed_everything, set_random_state
from micro_sam.training.sampling import open_pair


@pytest.fixture
def pair():
    """A 16 bit image and labels with three squares."""
    labels = np.zeros((70, 90), np.int32)
    labels[5:20, 5:20], labels[30:45, 40:60], labels[50:65, 70:85] = 7, 8, 300
    raw = np.where(labels > 0, 4000, 500).astype(np.uint16)
    return raw, labels


def _dataset(raw, labels, **kwargs):
    arguments = {"patch_shape": (64, 64), "with_segmentation_decoder": True, "n_samples": 2, **kwargs}
    return default_sam_dataset(raw, None, labels, None, **arguments)


def test_16_bit_becomes_8_bit_as_in_use(pair):
    raw, labels = pair
    x, y = _dataset([raw], [labels])[0]
    assert x.shape == (3, 64, 64)
    assert y.shape == (4, 64, 64)
    assert set(x.unique().tolist()) == {0.0, 255.0}
    inside = y[0] > 0
    assert (x[0][inside] == 255).all()
    assert ((y[1] == 1) == inside).all()
    assert (y[2:, ~inside] == 1).all()
    assert y[2:, inside].min() < 0.2


@pytest.mark.parametrize("layout", ["YXC", "CYX"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_may_come_first_or_last(pair, layout, channels):
    raw, labels = pair
    stack = np.stack([raw + 1000 * c for c in range(channels)], axis=0 if layout == "CYX" else -1)
    x, _ = _dataset([stack], [labels])[0]
    assert x.shape == (3, 64, 64)
    assert (x[2] == 0).all() == (channels == 2)


def test_volumes_give_planes_and_files_are_read_where_the_patch_is(pair, tmp_path):
    raw, labels = (np.stack([a] * 3) for a in pair)
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["raw"], file["labels"] = raw, labels
    path = tmp_path / "volume.h5"
    dataset = default_sam_dataset(
        path, "raw", path, "labels", (1, 64, 64), with_segmentation_decoder=False, n_samples=2, rois=(slice(1, 3),)
    )
    x, y = dataset[0]
    assert (x.shape, y.shape) == ((3, 64, 64), (1, 64, 64))
    assert dataset.pairs[0].shape == (2, 70, 90)


def test_folders_are_paired_by_pattern(pair, tmp_path):
    for kind, array in zip(("images", "labels"), pair):
        (tmp_path / kind).mkdir()
        for i in range(2):
            tifffile.imwrite(tmp_path / kind / f"{i}.tif", array)
    dataset = default_sam_dataset(
        tmp_path / "images", "*.tif", tmp_path / "labels", "*.tif", (64, 64), True, n_samples=1
    )
    assert len(dataset.pairs) == 2
    with pytest.raises(MissingInputError, match=r"\*\.png"):
        default_sam_dataset(tmp_path / "images", "*.png", tmp_path / "labels", "*.tif", (64, 64), True)


def test_nearly_empty_images_never_end_a_training():
    labels = np.zeros((600, 600), np.int32)
    labels[300:310, 300:310] = 1  # one object: fewer than the sampler wants
    raw = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.uint8)
    dataset = _dataset([raw], [labels], n_samples=6)
    found = [bool((dataset[i][1][0] > 0).any()) for i in range(6)]
    assert sum(found) >= 5
    with pytest.raises(ParameterError, match="No label image holds an object"):
        _dataset([raw], [np.zeros_like(labels)])
    assert len(_dataset([raw, raw], [labels, np.zeros_like(labels)]).pairs) == 1


def test_images_smaller_than_the_patch_are_padded_with_unknown(pair):
    raw, labels = pair
    x, y = _dataset([raw[:40]], [labels[:40]], is_train=False)[0]
    assert (x[:, 40:] == 0).all()
    assert (y[0, 40:] == -1).all()
    assert (y[0, :40] >= 0).all()


def test_validation_patches_are_always_the_same(pair):
    raw, labels = pair
    dataset = _dataset([raw], [labels], is_train=False)
    assert all(torch.equal(a, b) for a, b in zip(dataset[1], dataset[1]))


def test_unknown_and_small_objects_are_marked():
    labels = np.zeros((40, 40), np.int64)
    labels[:10, :10], labels[20:22, 20:22], labels[30:, :] = 1, 2, -1
    targets = InstanceTargets(with_maps=True, min_size=25)(labels)
    assert (targets[0, :10, :10] == 1).all()
    assert (targets[:2, 20:22, 20:22] == -1).all()
    assert (targets[:2, 30:] == -1).all()
    assert (targets[0] == 0).sum() == 40 * 30 - 104


def test_a_label_can_stand_for_unlabelled_area(pair):
    raw, labels = pair
    _, y = _dataset(
        [raw], [np.where(labels == 300, 300, labels)], unknown_label=300, is_train=False, patch_shape=(70, 90)
    )[0]
    assert (y[0, 50:65, 70:85] == -1).all()


def test_of_partly_annotated_images_only_the_surroundings_of_objects_are_background():
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 20:30] = 3
    raw = np.random.default_rng(0).random((60, 60)).astype(np.float32)
    known = open_pair(raw, labels, known_margin=5).read_labels(0, slice(None), slice(None))
    assert (known[20:30, 20:30] == 3).all()
    assert known[25, 33] == 0 and known[17, 25] == 0
    assert known[25, 36] == -1 and known[50, 50] == -1
    assert (known == 0).sum() < 400
    nothing = open_pair(raw, np.zeros_like(labels), known_margin=5).read_labels(0, slice(None), slice(None))
    assert (nothing == -1).all()


def test_parts_of_one_label_are_objects_of_their_own():
    labels = np.zeros((40, 40), np.int64)
    labels[:10, :10] = labels[20:30, 20:30] = 1
    assert InstanceTargets(with_maps=False)(labels).max() == 2


def test_images_that_do_not_match_are_refused(pair):
    raw, labels = pair
    with pytest.raises(ImageError, match="belong together"):
        _dataset([raw], [labels[:-1]])
    with pytest.raises(ImageError, match="float32, expected integer"):
        _dataset([raw], [labels.astype(np.float32)])
    with pytest.raises(ParameterError, match="as many images as labels, got 2 and 1"):
        _dataset([raw, raw], [labels])
    with pytest.raises(ParameterError, match="patch_shape"):
        _dataset([raw], [labels], patch_shape=(4, 64, 64))
    with pytest.raises(ParameterError, match="'colour' is no argument"):
        default_sam_loader(
            raw_paths=[raw], raw_key=None, label_paths=[labels], label_key=None, patch_shape=(64, 64),
            with_segmentation_decoder=True, colour=True,
        )  # fmt: skip


def test_raw_transforms_end_in_8_bit():
    wide = np.array([[100, 30000], [2, 60000]], np.uint16)
    assert (require_8bit(np.full((2, 2), 200, np.uint8)) == 200).all()
    assert require_8bit(np.array([0.0, 0.5, 1.0])).tolist() == [0, 127.5, 255]
    assert (require_8bit(wide).min(), require_8bit(wide).max()) == (0, 255)
    for name in ("normalize_minmax", "normalize_percentile"):
        assert get_raw_transform(name)(wide).max() == 255
    with pytest.raises(ParameterError, match="normalize_minmax"):
        get_raw_transform("zscore")


def test_resizing_keeps_the_aspect_and_pads():
    raw = np.arange(20 * 40, dtype=np.float32).reshape(20, 40)
    assert ResizeRawTrafo((64, 64))(raw).shape == (3, 64, 64)
    assert (ResizeRawTrafo((64, 64))(raw)[:, 32:] == 0).all()
    labels = np.zeros((20, 40), np.int32)
    labels[2:12, 3:13], labels[15, 30] = 5, 6
    assert set(np.unique(ResizeLabelTrafo((64, 64), min_size=30)(labels))) == {0, 5}


def test_prompts_lie_in_their_objects_and_in_the_frame():
    labels = torch.zeros(1, 1, 50, 100)
    labels[0, 0, 10:20, 30:50], labels[0, 0, 30:45, 60:90], labels[0, 0, :, :5] = 3, 9, -1
    convert = ConvertToSamInputs(ResizeLongestSide(200), dilation_strength=3, box_distortion_factor=None)
    [item], [ids] = convert(torch.zeros(1, 1, 50, 100), labels, 2, 1, get_boxes=True)
    assert sorted(ids.tolist()) == [3, 9]
    boxes = dict(zip(ids.tolist(), item["boxes"].tolist()))
    assert boxes[3] == [60, 20, 100, 40]  # twice the pixels, x before y
    for points, kinds, i in zip(item["point_coords"], item["point_labels"], ids):
        values = labels[0, 0][(points[:, 1] / 2).long(), (points[:, 0] / 2).long()]
        assert ((values == i) == (kinds == 1)).all()
    [item], [ids] = convert(torch.zeros(1, 3, 50, 100), torch.zeros(1, 1, 50, 100), 1, 0, get_boxes=True)
    assert len(ids) == len(item["boxes"]) == 0


def test_random_numbers_can_be_stored_and_taken_up_again():
    seed_everything(1, 2)
    state = random_state()
    first = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    set_random_state(state)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == first
