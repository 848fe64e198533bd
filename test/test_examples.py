"""Every script in examples/ runs, and does what it says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from annotator_toys import iou
from window_driver import Window

from micro_sam.io import load_image_data, read_ctc
from micro_sam.labels import interior_point
from micro_sam.sample_data import synthetic_data, synthetic_timeseries

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path) -> Callable[[str], ModuleType]:
    """Loads a script as if it were started, in an empty folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def window(make_napari_viewer) -> Iterator[Callable[..., Window]]:
    """Runs an example that opens a window, and waits until its model is there."""
    opened: list[Window] = []

    def open_(main: Callable, *args) -> Window:
        from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel

        viewer = main(*args, viewer=make_napari_viewer(show=True), return_viewer=True, device="cpu")
        [panel] = viewer.window._qt_window.findChildren(AnnotatorPanel)
        opened.append(Window(viewer, panel))
        opened[0].ready()
        return opened[0]

    yield open_
    for found in opened:
        found.controller.close()


def test_all_examples_have_a_test():
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in sorted(FOLDER.glob("*.py")) if f'example("{path.stem}")' not in tested] == []


def test_annotator_2d(example, window, tmp_path):
    opened = window(example("annotator_2d").main, tmp_path)
    _, truth = synthetic_data((256, 256), seed=1, diameter=40)
    assert np.array_equal(np.unique(opened.labels("committed")), [0, *(i for i in range(1, truth.max() + 1) if i % 3)])
    inner = next(i for i in range(3, truth.max(), 3) if not _touches_edge(truth == i))
    opened.click(*interior_point(truth == inner))
    opened.answered()
    opened.key("C")
    added = (
        opened.labels("committed") == truth.max() + 1 if truth.max() % 3 else opened.labels("committed") == truth.max()
    )
    assert iou(added, truth == inner) > 0.6
    opened.wait(lambda: (tmp_path / "annotator_2d.tif").exists() and not opened.controller.jobs.is_running())
    assert (tmp_path / "annotator_2d.zarr").is_dir()


def test_annotator_3d(example, window, tmp_path):
    opened = window(example("annotator_3d").main, tmp_path)
    _, truth = synthetic_data((6, 192, 192), seed=2, diameter=40, density=0.4)
    nucleus = max(_inner(truth[3]), key=lambda label: (truth == label).any(axis=(1, 2)).sum())
    opened.viewer.dims.set_current_step(0, 3)
    opened.settle()
    opened.click(*interior_point(truth[3] == nucleus))
    opened.answered()
    opened.key("Shift+S")
    opened.wait(lambda: not opened.controller.jobs.is_running())
    opened.key("C")
    assert iou(opened.labels("committed"), truth == nucleus) > 0.5


def test_annotator_tracking(example, window, tmp_path):
    opened = window(example("annotator_tracking").main, tmp_path)
    _, labels, lineages = synthetic_timeseries((4, 192, 192), seed=5, diameter=30)
    there = set(np.unique(opened.labels("committed")).tolist()) - {0}
    assert there == set(np.unique(labels).tolist()) - {0} - set(lineages[0])
    assert opened.session.lineages() and "tracks" in opened.viewer.layers


def test_image_series(example, window, tmp_path):
    module = example("image_series")
    opened = window(module.main, module.make_images(tmp_path / "images"))
    _, truth = synthetic_data((256, 256), seed=0, diameter=44)
    opened.click(*interior_point(truth == _inner(truth)[0]))
    opened.answered()
    opened.key("C")
    opened.key("N")
    opened.wait(lambda: (tmp_path / "labels" / "nuclei_0.tif").exists() and opened.widget.series.index == 1)
    opened.ready()
    assert load_image_data(tmp_path / "labels" / "nuclei_0.tif").max() == 1
    done = json.loads((tmp_path / "labels" / "image_series.json").read_text())
    assert "done" in json.dumps(done)


def test_object_classifier(example, window, tmp_path):
    opened = window(example("object_classifier").main, tmp_path)
    names = [layer.name for layer in opened.viewer.layers]
    assert opened.labels("committed").max() > 10 or any("segment" in name or "object" in name for name in names)


def test_classify_objects(example, tmp_path, capsys):
    assert example("classify_objects").main(tmp_path) > 0.9
    assert "classified right" in capsys.readouterr().out


def test_automatic_segmentation(example, tmp_path, capsys):
    example("automatic_segmentation").main(tmp_path)
    assert len(list(tmp_path.glob("labels_*.tif"))) == len(list(tmp_path.glob("overlay_*.png"))) == 3
    assert all(load_image_data(path).max() > 20 for path in tmp_path.glob("labels_*.tif"))
    assert "objects" in capsys.readouterr().out


def test_segment_from_prompts(example, tmp_path, capsys):
    example("segment_from_prompts").main(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"cell_from_points.png", "cell_from_box.png"}
    pixels = [int(line.split()[2]) for line in capsys.readouterr().out.splitlines() if line.startswith("from")]
    assert len(pixels) == 2 and all(1000 < n < 30_000 for n in pixels)


def test_tracking(example, tmp_path, capsys):
    example("tracking").main(tmp_path)
    labels, lineages = read_ctc(tmp_path / "tracked_ctc")
    _, truth, _ = synthetic_timeseries((6, 192, 192), seed=5, diameter=30)
    n_true = len(np.unique(truth)) - 1
    assert labels.shape == truth.shape and abs(len(np.unique(labels)) - 1 - n_true) <= 0.5 * n_true and lineages
    assert (tmp_path / "tracked.geff").exists() and "families" in capsys.readouterr().out


def test_replay_journal(example, tmp_path, capsys):
    labels = example("replay_journal").main(tmp_path)
    _, truth = synthetic_data((256, 256), seed=1, diameter=40)
    assert [iou(labels == i, truth == label) > 0.5 for i, label in enumerate((5, 10, 15), start=1)] == [True] * 3
    assert np.array_equal(load_image_data(tmp_path / "replayed.tif"), labels)
    assert "leads to 3 objects" in capsys.readouterr().out


def test_export_objects(example, tmp_path):
    written = example("export_objects").main(tmp_path)
    n_objects = load_image_data(tmp_path / "cells.ome.tif").max()
    assert n_objects > 15 and all(path.exists() for path in written)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == n_objects
    assert len(json.loads((tmp_path / "cells.geojson").read_text())["features"]) >= n_objects


def test_finetuning(example, tmp_path, capsys):
    verdict = example("finetuning").main(tmp_path, n_iterations=2)
    assert verdict and (tmp_path / "finetuned.pt").exists()
    assert "objects found with granules" in capsys.readouterr().out


def _touches_edge(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _inner(labels: np.ndarray) -> list[int]:
    """Objects of a plane that are whole, the largest first."""
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    return [int(i) for i in ids[np.argsort(-sizes)] if not _touches_edge(labels == i)]
