"""A series of images without a window: names, what is recorded, what is read again, and what is never overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from micro_sam.errors import InputError, MissingInputError, OutputError, ParameterError
from micro_sam.progress import drain
from micro_sam.sam_annotator.session.series import Series
from micro_sam.sam_annotator.session.series_items import find_images, match_initial
from micro_sam.sam_annotator.session.series_record import content_signature


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images, two of them with the same stem."""
    made = tmp_path / "images"
    made.mkdir()
    rng = np.random.default_rng(0)
    for name in ("cell_10.tif", "cell_2.tif", "cell_2.png", "cell_1.tif"):
        pixels = rng.integers(0, 255, (20, 30), np.uint8)
        tifffile.imwrite(made / name, pixels) if name.endswith("tif") else iio.imwrite(made / name, pixels)
    return made


def open_series(folder: Path, pattern: str = "*", **options) -> Series:
    out = folder.parent / "out"
    return Series(find_images(folder, pattern, out), out, **options)


def save(series: Series, index: int, value: int = 1, state: str | None = "done") -> np.ndarray:
    labels = np.zeros((20, 30), np.uint32)
    labels[2:8, 3:9] = value
    for _ in series.iter_save(index, labels, {}, (1.0, 1.0), state=state):
        pass
    return labels


def opened(series: Series, index: int):
    return drain(series.iter_open(index))


def test_images_come_in_natural_order_and_equal_stems_get_files_of_their_own(folder):
    series = open_series(folder)
    assert [series.file_name(k) for k in range(4)] == ["cell_1.tif", "cell_2.png", "cell_2.tif", "cell_10.tif"]
    assert [item.name for item in series.items] == ["cell_1", "cell_2_png", "cell_2_tif", "cell_10"]
    first, second = save(series, 1, 3), save(series, 2, 5)
    np.testing.assert_array_equal(tifffile.imread(series.labels_path(1)), first)
    np.testing.assert_array_equal(tifffile.imread(series.labels_path(2)), second)


def test_what_is_done_is_recorded_and_not_guessed_from_files(folder):
    series = open_series(folder)
    tifffile.imwrite(series.folder / "cell_1.tif", np.full((20, 30), 7, np.uint16))  # from another program
    save(series, 2)
    series.mark(3, "skipped")
    series.close()

    again = open_series(folder)
    assert [again.state(k) for k in range(4)] == ["open", "open", "done", "skipped"]
    assert again.first(only_open=True) == 0 and again.after(0, True) == 1 and again.after(1, True) is None
    assert again.after(1, False) == 2 and again.after(1, False, -1) == 0 and again.after(0, False, -1) is None
    described = json.loads((again.folder / "image_series.json").read_text())["images"]
    entry = next(e for e in described if e["name"] == "cell_2_tif")
    assert entry["path"] == str(folder / "cell_2.tif") and entry["n_objects"] == 1 and entry["changed"]
    found = opened(again, 0)
    assert (found.labels == 7).all() and "held labels of this name already" in found.notes[0]
    (again.folder / "cell_2_tif.tif").unlink()
    again.close()
    assert open_series(folder).state(2) == "done"


def test_labels_of_another_image_are_neither_shown_nor_overwritten(folder):
    series = open_series(folder)
    foreign = np.full((9, 9), 7, np.uint16)
    tifffile.imwrite(series.folder / "cell_1.tif", foreign)
    found = opened(series, 0)
    assert found.labels is None and "'cell_1_2.tif'" in found.notes[0] and "(9, 9)" in found.notes[0]
    save(series, 0)
    np.testing.assert_array_equal(tifffile.imread(series.folder / "cell_1.tif"), foreign)
    assert (series.folder / "cell_1_2.tif").exists()
    series.close()
    again = open_series(folder)
    assert again.labels_path(0).name == "cell_1_2.tif" and opened(again, 0).labels.any()


def test_a_new_image_of_the_same_stem_takes_nothing_from_the_old_one(folder):
    (folder / "cell_2.png").unlink()
    series = open_series(folder)
    labels = save(series, 1)
    assert series.labels_path(1).name == "cell_2.tif"
    series.close()
    iio.imwrite(folder / "cell_2.png", np.zeros((20, 30), np.uint8))
    again = open_series(folder)
    assert again.file_name(2) == "cell_2.tif" and again.labels_path(2).name == "cell_2.tif"
    assert again.state(2) == "done" and again.state(1) == "open" and opened(again, 1).labels is None
    save(again, 1, 9)
    np.testing.assert_array_equal(tifffile.imread(again.folder / "cell_2.tif"), labels)


def test_a_moved_folder_is_known_and_a_changed_image_is_open_again(folder):
    series = open_series(folder)
    labels = save(series, 0)
    save(series, 3)
    series.close()
    moved = folder.rename(folder.parent / "elsewhere")
    shutil.copy(moved / "cell_1.tif", moved / "copy_of_1.tif")
    again = open_series(moved)
    states = {again.file_name(k): again.state(k) for k in range(len(again))}
    assert states["cell_1.tif"] == states["cell_10.tif"] == "done" and states["copy_of_1.tif"] == "open"
    again.mark(0, "done")
    again.close()
    tifffile.imwrite(moved / "cell_1.tif", np.full((20, 30), 9, np.uint8))
    changed = open_series(moved)
    assert changed.state(0) == "open"
    np.testing.assert_array_equal(opened(changed, 0).labels, labels)  # nothing is lost, one is to look again


def test_arrays_are_known_by_their_content(tmp_path):
    arrays = [np.full((20, 30), k, np.uint8) for k in (3, 7)]
    series = Series(arrays, tmp_path)
    save(series, 1)
    series.close()
    again = Series([arrays[1], np.full((20, 30), 9, np.uint8)], tmp_path)
    assert [again.state(k) for k in (0, 1)] == ["done", "open"]
    assert opened(again, 0).labels.any() and opened(again, 1).labels is None
    assert len({again.labels_path(k) for k in (0, 1)}) == 2


def test_labels_of_another_tool_find_their_image(folder, tmp_path):
    images = [Path(f"{name}.png") for name in ("img_1", "img_10", "img_1_2")]
    masks = [Path(f"{name}.tif") for name in ("img_10_masks", "img_1_2_cp_masks", "img_1")]
    assert [found.stem for found in match_initial(images, masks)] == ["img_1", "img_10_masks", "img_1_2_cp_masks"]
    assert match_initial(images, masks[:1]) == [None, masks[0], None]
    by_place = [Path(f"{k}.tif") for k in range(3)]
    assert match_initial(images, by_place) == by_place
    with pytest.raises(InputError, match="'img_7.tif' belongs to no image"):
        match_initial(images, [*masks[:1], Path("img_7.tif")])
    with pytest.raises(InputError, match="both belong to 'img_10'"):
        match_initial(images, [masks[0], Path("img_10.tif")])

    tifffile.imwrite(tmp_path / "fits.tif", np.full((20, 30), 4, np.uint16))
    tifffile.imwrite(tmp_path / "small.tif", np.full((10, 30), 4, np.uint16))
    grey = np.full((20, 30), 0.5, np.float32)
    series = open_series(folder, initial_segmentations=[tmp_path / "fits.tif", tmp_path / "small.tif", grey, None])
    assert (opened(series, 0).labels == 4).all() and "Loaded fits.tif" in opened(series, 0).labels_text
    wrong = opened(series, 1)
    assert wrong.labels is None and "small.tif" in wrong.notes[0] and "(10, 30)" in wrong.notes[0]
    assert "float32" in opened(series, 2).notes[0] and not opened(series, 3).notes
    save(series, 0, 8)
    assert (opened(series, 0).labels == 8).any()  # saved labels come before those of the tool
    with pytest.raises(InputError, match="4 images but 1 initial"):
        Series(find_images(folder, "*"), tmp_path / "other", [None])


def test_what_cannot_work_is_said_in_a_sentence(folder, tmp_path):
    with pytest.raises(MissingInputError, match=r"matches '\*\.czi'"):
        find_images(folder, "*.czi")
    with pytest.raises(ParameterError, match="output folder is the input folder"):
        find_images(folder, "*", folder)
    with pytest.raises(InputError, match="no image"):
        Series([], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        Series([np.zeros((5, 5))], tmp_path / "file")
    series = open_series(folder)
    with pytest.raises(InputError, match="open in another window"):
        open_series(folder)
    (folder / "cell_1.tif").write_bytes(b"II*\x00")
    tifffile.imwrite(folder / "cell_10.tif", np.zeros((4, 20, 30), np.uint8))
    for index, name in ((0, "cell_1.tif"), (3, "cell_10.tif")):
        with pytest.raises(ValueError if index else OSError, match=name):
            opened(series, index)
    series.close()
    (series.folder / "image_series.json").write_text('{"format": "something else"')
    with pytest.raises(InputError, match="image_series.json"):
        open_series(folder)
    assert "something else" in (series.folder / "image_series.json").read_text()


def test_results_inside_the_input_folder_are_no_images(folder):
    out = folder / "out"
    series = Series(find_images(folder, "**/*.tif", out), out)
    save(series, 0)
    series.close()
    assert len(find_images(folder, "**/*.tif", out)) == 3
    flat = Series([folder / "cell_1.tif"], folder)  # a list: the image itself must not be written over
    assert flat.labels_path(0).name == "cell_1_2.tif"


def test_the_signature_of_a_file_follows_its_content(tmp_path):
    large = np.random.default_rng(0).integers(0, 255, 9 * 2**20, np.uint8)
    for name in ("a.bin", "b.bin"):
        large.tofile(tmp_path / name)
    assert content_signature(tmp_path / "a.bin") == content_signature(tmp_path / "b.bin")
    large[-1] += 1
    large.tofile(tmp_path / "b.bin")
    assert content_signature(tmp_path / "a.bin") != content_signature(tmp_path / "b.bin")
    for name, value in (("x.zarr", b"1"), ("y.zarr", b"1"), ("z.zarr", b"2")):
        (tmp_path / name / "c").mkdir(parents=True)
        (tmp_path / name / "c" / "0").write_bytes(value)
    signatures = [content_signature(tmp_path / f"{name}.zarr") for name in "xyz"]
    assert signatures[0] == signatures[1] != signatures[2]
