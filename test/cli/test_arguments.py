"""Everything that can be wrong with a command line is found before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from micro_sam.cli import automatic_segmentation, info, precompute_embeddings

COMMANDS = {
    "automatic_segmentation": automatic_segmentation,
    "precompute_embeddings": precompute_embeddings,
    "info": info,
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with an image, a volume, a damaged image and an hdf5 file."""
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (32, 48), dtype=np.uint8)
    tifffile.imwrite("image.tif", image)
    tifffile.imwrite("volume.tif", np.stack([image] * 5))
    tifffile.imwrite("five_axes.tif", np.zeros((2, 3, 4, 32, 48), np.uint8), photometric="minisblack")
    tifffile.imwrite("complex.tif", image.astype(np.complex64))
    np.save("empty.npy", np.zeros((0, 48), np.uint8))
    Path("damaged.tif").write_bytes(Path("image.tif").read_bytes()[:300])
    Path("text.txt").write_text("no image")
    Path("results").mkdir()
    Path("series").mkdir()
    for name in ("a.tif", "a.png", "b.tif"):
        tifffile.imwrite(Path("series", name).with_suffix(".tif"), image)
    Path("series/a.png").write_bytes(b"")
    with h5py.File("data.h5", "w") as file:
        file["raw"], file["other"] = image, image
    return tmp_path


def _run(module, arguments: str, capsys) -> tuple[int, str]:
    """Exit code and standard error; nothing may be printed to the standard output."""
    try:
        code = module.main(arguments.split())
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


@pytest.fixture
def _no_model(monkeypatch):
    """Loading a model is the first heavy thing: by then the arguments must have been found wrong."""

    def too_late(*args, **kwargs):
        raise AssertionError("a model was loaded although the arguments are wrong")

    monkeypatch.setattr("micro_sam.cli.automatic_segmentation._load", too_late)
    monkeypatch.setattr("micro_sam.cli.precompute_embeddings._load", too_late)


SEGMENTATION_ERRORS = [
    ("", "required"),
    ("-i image.tif", "-o/--output_path"),
    ("-i image.tif -o out.tif --min_siz 3", "--min_siz"),
    ("-i image.tif -o out.tif --nonsense", "--nonsense"),
    ("-i image.tif -o out.tif -m vit_b_ml", "vit_b_lm"),
    ("-i image.tif -o out.tif -m nothing_like_it", "no model named"),
    ("-i missing.tif -o out.tif", "missing.tif"),
    ("-i series -o results", "is a folder"),
    ("-i series --pattern *.jpg -o results", "matches '*.jpg'"),
    ("-i series --pattern *.png -o results", "empty file"),
    ("-i image.tif --pattern *.tif -o out.tif", "leave it out"),
    ("-i text.txt -o out.tif", "text.txt"),
    ("-i damaged.tif -o out.tif", "damaged.tif"),
    ("-i five_axes.tif -o out.tif", "five_axes.tif"),
    ("-i complex.tif -o out.tif", "'complex.tif' cannot be used"),
    ("-i empty.npy -o out.tif", "'empty.npy' cannot be used"),
    ("-i data.h5 -o out.tif", "'other'"),
    ("-i data.h5 -k nope -o out.tif", "'raw'"),
    ("-i image.tif -k raw -o out.tif", "leave the key out"),
    ("-i image.tif -o out.jpg", ".tif"),
    ("-i image.tif -o missing/out.tif", "does not exist"),
    ("-i image.tif -o missing", "does not exist"),
    ("-i image.tif series/a.tif -o out.tif", "folder"),
    ("-i image.tif image.tif -o results", "twice"),
    ("-i image.tif -o image.tif", "overwrite its own input"),
    ("-i image.tif -o out.tif --overlay picture.jpg", ".png"),
    ("-i image.tif -o out.tif --overlay missing/picture.png", "does not exist"),
    ("-i image.tif -o out.tif -e missing/emb.zarr", "does not exist"),
    ("-i image.tif -o out.tif -e text.txt", "text.txt"),
    ("-i series --pattern *.tif -o results -e embeddings", "create it first"),
    ("-i image.tif -o out.tif --tile_shape 512 512", "--halo"),
    ("-i image.tif -o out.tif --halo 64 64", "--tile_shape"),
    ("-i image.tif -o out.tif --tile_shape 0 512 --halo 8 8", "at least 1"),
    ("-i image.tif -o out.tif --tile_shape a 512 --halo 8 8", "whole number"),
    ("-i image.tif -o out.tif --batch_size 0", "at least 1"),
    ("-i image.tif -o out.tif -c missing.pt", "missing.pt"),
    ("-i image.tif -o out.tif -c results", "is a folder"),
    ("-i image.tif -o out.tif -d gpu", "cuda"),
    ("-i image.tif -o out.tif --precision float64", "bfloat16"),
    ("-i image.tif -o out.tif -n 4", "choose from"),
    ("-i image.tif -o out.tif --mode sam", "choose from"),
    ("-i image.tif -o out.tif -m vit_b --mode ais", "decoder"),
    ("-i image.tif -o out.tif -m vit_b_lm --mode amg --center_distance_threshold 0.4", "belongs to --mode ais"),
    ("-i image.tif -o out.tif -m vit_b_lm --mode ais --points_per_side 16", "belongs to --mode amg"),
    ("-i image.tif -o out.tif -m vit_b --foreground_threshold 0.4", "belongs to --mode ais and apg"),
    ("-i image.tif -o out.tif --foreground_threshold 1.5", "from 0 to 1"),
    ("-i image.tif -o out.tif --foreground_threshold nan", "from 0 to 1"),
    ("-i image.tif -o out.tif --min_size x", "whole number"),
    ("-i image.tif -o out.tif --min_size -3", "at least 0"),
    ("-i image.tif -o out.tif -n 3", "image.tif"),
    ("--sample -i image.tif -o out.tif", "not allowed"),
    ("--sample cat -o out.tif", "choose from"),
]


@pytest.mark.usefixtures("_no_model")
@pytest.mark.parametrize(
    ("arguments", "message"), SEGMENTATION_ERRORS, ids=[a or "nothing" for a, _ in SEGMENTATION_ERRORS]
)
def test_wrong_segmentation_commands_are_one_line_and_exit_code_2(folder, arguments, message, capsys):
    before = sorted(folder.rglob("*"))
    code, err = _run(automatic_segmentation, arguments, capsys)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(folder.rglob("*")) == before


EMBEDDING_ERRORS = [
    ("-i image.tif", "-e/--embedding_path"),
    ("-i image.tif -e out.zarr --bogus", "--bogus"),
    ("-i missing.tif -e out.zarr", "missing.tif"),
    ("-i series -e out.zarr", "is a folder"),
    ("-i damaged.tif -e out.zarr", "damaged.tif"),
    ("-i image.tif -e missing/out.zarr", "does not exist"),
    ("-i series --pattern *.tif -e missing", "create it first"),
    ("-i image.tif -e out.zarr -m vit_x", "no model named"),
    ("-i image.tif -e out.zarr --halo 8 8", "--tile_shape"),
    ("-i image.tif -e out.zarr -n 3", "image.tif"),
]


@pytest.mark.usefixtures("_no_model")
@pytest.mark.parametrize(("arguments", "message"), EMBEDDING_ERRORS, ids=[a for a, _ in EMBEDDING_ERRORS])
def test_wrong_embedding_commands_are_one_line_and_exit_code_2(folder, arguments, message, capsys):
    before = sorted(folder.rglob("*"))
    code, err = _run(precompute_embeddings, arguments, capsys)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_public_flags(name, capsys):
    flags = {
        "automatic_segmentation": "-i -o -e --pattern -k -m -c --tile_shape --halo -n --ndim --mode --annotate -d "
        "--batch_size --tracking -v --overlay --precision --points_per_side --pred_iou_thresh "
        "--center_distance_threshold --nms_threshold",
        "precompute_embeddings": "-i -e --embedding_path --pattern -k -m -c --tile_shape --halo -n --ndim -p "
        "--precompute_amg_state",
        "info": "-h",
    }[name]
    for help_flag in ("-h", "--help"):
        with pytest.raises(SystemExit) as exit_:
            COMMANDS[name].main([help_flag])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert not [
            flag
            for flag in flags.split()
            if f"{flag} " not in text and f"{flag}," not in text and f"{flag}\n" not in text
        ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version_can_be_asked_for(name, capsys):
    from micro_sam import __version__

    with pytest.raises(SystemExit):
        COMMANDS[name].main(["--version"])
    assert capsys.readouterr().out == f"micro_sam {__version__}\n"


def test_every_setting_has_a_flag():
    from dataclasses import fields

    from micro_sam.cli.settings_flags import given_settings
    from micro_sam.instance_segmentation.settings import SETTINGS

    parser = automatic_segmentation.build_parser()
    assert given_settings(parser.parse_args(["-i", "a", "-o", "b"])) == {}
    for mode, cls in SETTINGS.items():
        for item in fields(cls):
            flag = "prompt_batch_size" if item.name == "batch_size" else item.name
            value = [] if isinstance(item.default, bool) else [str(item.default)]
            args = parser.parse_args(["-i", "a", "-o", "b", f"--{flag}", *value])
            given = given_settings(args)
            assert given == {item.name: True if isinstance(item.default, bool) else item.default}, mode


def test_an_error_in_debug_mode_shows_where_it_came_from(folder):
    with pytest.raises(FileNotFoundError):
        automatic_segmentation.main(["-i", "missing.tif", "-o", "out.tif", "--debug"])


def test_errors_of_a_real_process_leave_torch_alone(folder):
    code = "import sys; from micro_sam.cli.automatic_segmentation import main; c = main(sys.argv[1:]); "
    code += "assert 'torch' not in sys.modules; sys.exit(c)"
    result = subprocess.run(
        [sys.executable, "-c", code, "-i", "missing.tif", "-o", "out.tif"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("micro_sam.automatic_segmentation: error: ") and "missing.tif" in result.stderr
    assert len(result.stderr.splitlines()) == 1
