"""Every script in finetuning/ builds its loaders and its model, and trains, on a handful of synthetic images."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from micro_sam.errors import InputError
from micro_sam.models.predictor import get_sam_model
from micro_sam.sample_data import synthetic_data

FOLDER = Path(__file__).parents[2] / "finetuning"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("recipe", "data_sets"))
SMALL = [
    "-m", "vit_t_builtin", "-d", "cpu", "--patches", "6", "--patch_shape", "64", "64", "--batch_size", "1",
    "--n_objects", "2", "--num_workers", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """The scripts, which are no part of the package, and what they share."""
    names = ("recipe", "data_sets", *SCRIPTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(scripts, tmp_path_factory):
    """A folder with every data set: one image to train on, one to validate."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(scripts["data_sets"].DATA_SETS):
        for split, seed in (("train", number), ("val", number + 100)):
            image, labels = synthetic_data((80, 80), seed=seed, diameter=16)
            for kind, array in (("images", image), ("labels", labels.astype(np.uint16))):
                folder = root / name / split / kind
                folder.mkdir(parents=True)
                tifffile.imwrite(folder / "0.tif", array)
    return root


def test_the_scripts_are_those_of_the_published_models():
    assert {"light_microscopy", "em_organelles"} <= set(SCRIPTS)
    assert {"livecell", "tissuenet", "neurips_cellseg", "deepbacs", "plantseg_root", "cremi", "asem_er"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_builds_its_loaders_and_model_and_makes_a_step(name, scripts, data, capsys):
    script = scripts[name]
    flags = ["--data", str(data), "--check", *SMALL]
    assert scripts["recipe"].main(script.RECIPE, script.__doc__, flags, image_size=64) == 0
    said = capsys.readouterr().out
    n = 6 // len(script.RECIPE.data_sets) * len(script.RECIPE.data_sets)
    assert said.startswith(f"{n} patches to train on, {n} to validate; batch (1, 3, 64, 64), losses: ")
    assert "mask" in said and "instance" in said
    with pytest.raises(SystemExit) as stop:
        scripts["recipe"].main(script.RECIPE, script.__doc__, ["--help"])
    assert stop.value.code == 0 and "Data: " in capsys.readouterr().out


def test_a_script_trains_and_writes_a_model_that_opens(scripts, data, tmp_path):
    flags = ["--data", str(data), *SMALL, "--n_iterations", "2", "--save_root", str(tmp_path), "--name", "cells"]
    recipe = scripts["deepbacs"].RECIPE
    assert scripts["recipe"].main(recipe, None, flags, image_size=64) == 0
    predictor = get_sam_model(checkpoint_path=tmp_path / "checkpoints/cells/cells.pt", device="cpu")
    assert predictor.model_name == "cells" and predictor.decoder_state is not None


def test_missing_data_is_one_sentence(scripts, tmp_path, capsys):
    script = scripts["livecell"]
    assert scripts["recipe"].main(script.RECIPE, None, ["--data", str(tmp_path), "--check", *SMALL]) == 2
    assert "--download" in capsys.readouterr().err
    with pytest.raises(InputError, match="livecell"):
        scripts["data_sets"].find("livecell", tmp_path, "val")
