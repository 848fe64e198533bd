"""The optional linker: what it is given and gives back, and what is said when it is not there."""

from __future__ import annotations

import importlib
import types

import networkx as nx
import numpy as np
import pytest
from tracking_toys import draw_discs

from micro_sam.errors import DownloadError, MissingDependencyError
from micro_sam.multi_dimensional_segmentation import track_across_frames

SEGMENTATION = draw_discs([[(30, 30, 9), (80, 80, 9)], [(34, 30, 9), (80, 80, 9)], [(38, 30, 9), (80, 80, 9)]])


class _Tracker:
    """Stands in for the package: links objects of equal rank, in a graph like that of trackastra."""

    def track(self, images, masks, mode):
        self.given = images, masks, mode
        graph = nx.DiGraph()
        for time, plane in enumerate(masks):
            for rank, label in enumerate(
                sorted(np.unique(plane[plane > 0]), key=lambda i: np.argwhere(plane == i).min())
            ):
                graph.add_node(10 * time + rank, time=time, label=int(label))
                if time:
                    graph.add_edge(10 * (time - 1) + rank, 10 * time + rank)
        return graph, masks


@pytest.fixture
def tracker(monkeypatch):
    tracker = _Tracker()
    package = types.SimpleNamespace(Trackastra=tracker)
    tracker.from_pretrained = lambda name, device=None: setattr(tracker, "name", name) or tracker
    monkeypatch.setattr(importlib, "import_module", lambda name: package)
    return tracker


def _track(**kwargs):
    images = np.zeros((*SEGMENTATION.shape, 3), np.uint8)
    return track_across_frames(images, SEGMENTATION, verbose=False, linker="trackastra", **kwargs)


def test_its_graph_becomes_tracks(tracker):
    labels, lineages = _track(mode="greedy_nodiv", tracking_model="ctc")
    assert lineages == [{1: []}, {2: []}]
    assert len({labels[0, 30, 30], labels[1, 34, 30], labels[2, 38, 30]}) == 1
    images, masks, mode = tracker.given
    assert images.shape == masks.shape == SEGMENTATION.shape
    assert (mode, tracker.name) == ("greedy_nodiv", "ctc")


def test_a_missing_package_names_the_default(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="not installed.*'laptrack'") as raised:
        _track()
    assert "\n" not in str(raised.value)


def test_missing_weights_name_the_default(tracker):
    def unreachable(name, device=None):
        raise ConnectionError("no network\nat all")

    tracker.from_pretrained = unreachable
    with pytest.raises(DownloadError, match="'general_2d'.*ConnectionError.*'laptrack'") as raised:
        _track()
    assert "\n" not in str(raised.value)
