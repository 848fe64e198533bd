from __future__ import annotations

from pathlib import Path

import pytest

from micro_sam.errors import InputError, MissingInputError, OutputError
from micro_sam.io.paths import check_overwrites_no_input, expand_inputs, replacing, stem, unique_names


def _touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return paths


def test_stems():
    assert [stem(n) for n in ("a.tif", "a.ome.tif", "a.b.png", "x/a.OME.ZARR", "a")] == ["a", "a", "a.b", "a", "a"]


def test_a_folder_with_pattern_gives_its_files_in_natural_order(tmp_path):
    _touch(tmp_path, "a10.tif", "a9.tif", "b.png", "sub/c.tif", ".hidden.tif")
    assert expand_inputs([tmp_path], "*.tif") == [tmp_path / "a9.tif", tmp_path / "a10.tif"]
    assert tmp_path / "sub/c.tif" in expand_inputs([tmp_path], "**/*.tif")


def test_zarr_folders_are_files_to_a_pattern(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "plain").mkdir()
    assert expand_inputs([tmp_path], "*") == [tmp_path / "a.zarr"]


def test_inputs_that_cannot_be_expanded(tmp_path):
    [path] = _touch(tmp_path, "a.tif")
    for inputs, pattern, error in [
        ([tmp_path / "b.tif"], None, MissingInputError),
        ([tmp_path], "*.png", MissingInputError),
        ([path], "*.tif", InputError),
        ([path, path], None, InputError),
        ([path, tmp_path], "*.tif", InputError),
        ([tmp_path], "/*.tif", InputError),
    ]:
        with pytest.raises(error):
            expand_inputs(inputs, pattern)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["d/a.tif", "d/b.tif"], ["a", "b"]),
        (["d/a.png", "d/a.tif", "d/b.tif"], ["a_png", "a_tif", "b"]),
        (["x/a.tif", "y/a.tif"], ["x_a", "y_a"]),
        (["x/a.tif", "y/a.tif", "y/a.png"], ["x_a_tif", "y_a_tif", "y_a_png"]),
        (["d/A.tif", "d/a.png"], ["A_tif", "a_png"]),
    ],
)
def test_equal_stems_get_names_of_their_own(paths, names):
    assert unique_names([Path(path) for path in paths]) == names


def test_names_are_unique_whatever_comes():
    paths = [Path(p) for p in ("p/x/a.tif", "q/x/a.tif", "x_a_tif.png", "a_tif.tif", "a.png", "r/x/a.png")]
    names = [name.casefold() for name in unique_names(paths)]
    assert len(set(names)) == len(paths)


def test_an_input_is_never_overwritten(tmp_path):
    [path] = _touch(tmp_path, "a.tif")
    with pytest.raises(OutputError, match="overwrite its own input"):
        check_overwrites_no_input([tmp_path / "sub" / ".." / "a.tif"], [path])


def test_replacing_leaves_the_old_file_when_the_work_fails(tmp_path):
    [path] = _touch(tmp_path, "a.txt")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "x"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert path.read_text() == "x"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
