"""Experiments on public data sets, of which a small imitation lies on disk as torch-em's loader leaves it."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from micro_sam.errors import InputError, ParameterError
from micro_sam.evaluation import benchmark_datasets, livecell
from micro_sam.sample_data import synthetic_data

BUILTIN = "vit_t_builtin"


@pytest.fixture(scope="module")
def livecell_root(tmp_path_factory):
    """The folder of data sets, with a LIVECell of two test and two validation images."""
    root = tmp_path_factory.mktemp("data")
    for split, part in (("test", "livecell_test_images"), ("train", "livecell_train_val_images")):
        names = []
        for k, cell_type in enumerate(("A172", "SKOV3")):
            image, labels = synthetic_data((520, 704), seed=k, kind="nuclei", diameter=110, density=0.3)
            name = f"{cell_type}_Phase_{split}_{k}.tif"
            for kind, array in (("images", image), ("annotations", labels.astype(np.uint16))):
                path = root / "livecell" / kind / part / ("" if kind == "images" else cell_type) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, array)
            names.append(f"{cell_type}/{name}")
        (root / "livecell" / f"{split}.json").write_text("{}")
        cached = {"seg_paths": names, "image_paths": [f"../../images/{part}/{n.partition('/')[2]}" for n in names]}
        (root / "livecell" / "annotations" / part / f"seg_paths_{split}_all.json").write_text(json.dumps(cached))
    return root


@pytest.mark.parametrize("name", benchmark_datasets.benchmark_datasets())
def test_every_data_set_has_a_loader_that_takes_its_arguments(name):
    from torch_em.data import datasets

    entry = dict(benchmark_datasets.benchmark_datasets()[name])
    loader, shape = getattr(datasets, entry.pop("loader")), entry.pop("shape")
    signature = inspect.signature(loader)
    signature.bind("folder", patch_shape=tuple(shape), download=True, **entry)
    assert set(entry) | {"download"} <= set(signature.parameters)


def test_a_model_is_scored_on_a_data_set(livecell_root, tmp_path):
    arguments = {"output_folder": tmp_path, "n_samples": 1, "n_iterations": 2}
    table = benchmark_datasets.run_benchmark_evaluations(livecell_root, "livecell", BUILTIN, **arguments)
    assert table.index.tolist() == ["ais", "box", "box, 1 corrections", "point", "point, 1 corrections"]
    assert table.loc["ais", "SA50"] > 0.5 and table.loc["box", "SA50"] > 0.5
    [path] = (tmp_path / "livecell").iterdir()  # only the scores are retained
    pd.testing.assert_frame_equal(pd.read_csv(path, index_col="method"), table)


def test_more_images_are_added_to_those_that_were_taken(livecell_root, tmp_path):
    first, _ = benchmark_datasets.prepare_dataset("livecell", livecell_root, tmp_path, n_samples=1)
    content = first[0].read_bytes()
    images, labels = benchmark_datasets.prepare_dataset("livecell", livecell_root, tmp_path, n_samples=2)
    assert len(images) == len(labels) == 2 and images[0].read_bytes() == content
    assert tifffile.imread(images[1]).shape == tifffile.imread(labels[1]).shape == (512, 512)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dataset_choice": "nonsense"}, "choose one of"),
        ({"evaluation_methods": "some"}, "evaluation_methods"),
        ({"retain": ["everything"]}, "retain may name"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_loaded(arguments, sentence, tmp_path):
    with pytest.raises(ParameterError, match=sentence):
        benchmark_datasets.run_benchmark_evaluations(tmp_path, **{"dataset_choice": "livecell", **arguments})


def test_a_data_set_that_cannot_be_had_says_so(tmp_path):
    with pytest.raises(InputError, match="'dsb' cannot be downloaded"):
        benchmark_datasets.prepare_dataset("dsb", tmp_path, tmp_path / "out")


def test_livecell_is_scored_for_each_cell_type(livecell_root, tmp_path):
    folder = livecell_root / "livecell"
    livecell.run_livecell_inference(["-i", str(folder), "-e", str(tmp_path), "-m", BUILTIN, "--boxes"])
    predictions = tmp_path / "box" / "p0-n0"
    livecell.run_livecell_evaluation(["-i", str(folder), "-e", str(tmp_path), "-p", str(predictions)])
    table = pd.read_csv(tmp_path / "results" / "p0-n0.csv", index_col="cell_type")
    assert table.index.tolist() == ["all", "A172", "SKOV3"]
    assert table.loc["all", "SA50"] > 0.5
    assert table.loc["all", "mSA"] == pytest.approx(table.loc[["A172", "SKOV3"], "mSA"].mean())


def test_livecell_validation_images_are_limited_per_cell_type(livecell_root):
    images, labels = livecell.livecell_paths(livecell_root / "livecell", "train_val", n_val_per_cell_type=1)
    assert [path.name.split("_")[0] for path in images] == ["A172", "SKOV3"]
    assert [path.name for path in labels] == [path.name for path in images]


def test_missing_livecell_files_are_named(livecell_root, tmp_path):
    with pytest.raises(InputError, match="no annotations"):
        livecell.livecell_paths(tmp_path)
    with pytest.raises(InputError, match="2 of 2 segmentations are missing"):
        livecell.evaluate_livecell(livecell_root / "livecell", tmp_path)
