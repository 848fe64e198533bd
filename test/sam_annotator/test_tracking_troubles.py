"""The tracking annotator when things are not as they should be: layers go, images change, jobs run, processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from annotator_toys import iou
from movie_toys import ALONE, DAUGHTERS, MOTHER, centre
from tracking_windows import click, done, go_to

from micro_sam.sam_annotator.session import AnnotatedImage, find_unfinished, replay
from micro_sam.sam_annotator.session.lineage import Lineage


def test_layers_deleted_and_renamed_and_the_movie_replaced(open_tracking, movie):
    window = open_tracking(tracks=True)
    layers, committed = window.viewer.layers, window.labels("committed").copy()
    layers["committed_objects"].name, layers["point_prompts"].name = "my tracks", "my points"
    click(window, ALONE, 1)
    prompts = window.session.prompts
    assert len(prompts) == 1 and window.labels("current")[1].any()
    for name in ("my tracks", "my points", "prompts", "current_object", "tracks"):
        layers.remove(name)
    window.wait(lambda: all(name in layers for name in ("committed_objects", "point_prompts", "prompts", "tracks")))
    np.testing.assert_array_equal(layers["committed_objects"].data, committed)
    assert window.session.prompts == prompts and list(layers["point_prompts"].features["track_id"])
    assert layers["tracks"].graph == {d: [MOTHER] for d in DAUGHTERS}
    window.key("C")
    new = int(committed.max()) + 1
    assert (window.labels("committed")[1] == new).any() or window.widget.status.kind == "error"

    window.controller.layers.image.data = movie[0][:, ::-1].copy()  # of the same shape: tracks stay, embeddings do not
    assert window.session.embeddings is None and window.labels("committed").any() and "embeddings" in window.status
    window.key("Shift+S")
    assert window.widget.status.kind == "error" and "Compute embeddings" in window.status
    window.viewer.add_image(movie[0][:2, :100].copy(), name="second")
    window.widget.embedding.image.setCurrentText("second")
    window.settle(5)
    assert window.labels("committed").shape == (2, 100, 192) and not window.labels("committed").any()
    assert "tracks" not in layers and window.session.lineage == Lineage()
    assert any(layer.name.startswith("committed_objects of") for layer in layers)
    layers.remove("second")
    window.settle(5)
    assert window.controller.layers.image is None


def test_a_folder_that_cannot_be_written_and_closing_while_it_computes(open_tracking):
    window = open_tracking(ready=False)
    embedding = window.widget.embedding
    embedding.store.line.setText("/sys/movie.zarr")  # read-only for everybody, also for root
    window.press(embedding.compute)
    window.wait(lambda: window.widget.status.kind == "error" and "/sys" in window.status)
    assert "writable" in window.status and not window.widget.status.bar.isVisible()
    embedding.store.line.setText("")
    window.press(embedding.compute)
    window.wait(lambda: window.controller.jobs.is_running("embeddings"))
    window.controller.compute()  # a second click changes nothing
    assert window.controller.jobs.is_running("embeddings") and embedding.compute.text() == "Cancel"
    window.press(embedding.compute)
    window.settle()
    assert "Cancelled" in window.status and not window.controller.jobs.is_running()
    window.press(embedding.compute)
    window.wait(lambda: window.controller.jobs.is_running("embeddings"))
    window.viewer.close()
    assert not window.controller.jobs.is_running()


def test_closing_the_window_while_it_tracks(open_tracking):
    window = open_tracking()
    click(window, ALONE, 0)
    window.key("Shift+S")
    assert window.controller.jobs.is_running("following")
    window.viewer.close()
    assert not window.controller.jobs.is_running()


def test_doubtful_frames_are_listed_until_somebody_looked_after_them(open_tracking, movie):
    window = open_tracking()
    doubtful = window.widget.follow.doubtful
    window.key("J")
    assert window.widget.status.kind == "error" and "no doubtful frame" in window.status
    click(window, ALONE, 0)
    window.key("Shift+S")
    done(window)
    assert not doubtful.isVisible() and window.session.doubtful(1.1)
    window.widget.follow.form._inputs["doubtful_below"].setValue(1.0)
    listed = [doubtful.rows.item(k).text() for k in range(doubtful.rows.count())]
    assert len(listed) == 3 and all(text.startswith("Frame ") for text in listed)
    certainties = [float(text.split()[-1]) for text in listed]
    assert certainties == sorted(certainties) and all(0.3 < c < 1 for c in certainties)
    go_to(window, 1)
    window.key("J")
    assert window.controller.layers.current_slice() == 2
    window.press(doubtful.next)
    assert window.controller.layers.current_slice() == 3
    window.press(doubtful.next)
    assert window.controller.layers.current_slice() == 1
    window.click(*centre(ALONE, 1))  # a prompt: nothing is doubtful there any more
    window.answered()
    assert [i for i, _ in window.session.doubtful(1.0)] != [] and doubtful.rows.count() == 2
    window.key("Ctrl+Z")
    assert doubtful.rows.count() == 3
    window.key("Ctrl+Z")  # the tracking
    assert doubtful.rows.count() == 0 and not doubtful.isVisible()
    window.key("Ctrl+Shift+Z")
    assert doubtful.rows.count() == 3
    window.key("C")
    assert doubtful.rows.count() == 0 and window.session.doubtful(1.1) == []
    window.key("Ctrl+Z")
    assert doubtful.rows.count() == 3


KILLED = """
import sys
import napari, numpy as np
from movie_toys import ALONE, DAUGHTERS, MOTHER, centre
from window_driver import open_window
from micro_sam.sam_annotator import AnnotatorTracking
movie = np.load(sys.argv[1])
window = open_window(napari.Viewer(), AnnotatorTracking, movie)
window.press(window.widget.embedding.compute)
window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 90)
def click(track, frame):
    window.viewer.dims.set_point(0, frame)
    window.settle(3)
    window.click(*centre(track, frame))
    window.answered()
    window.settle(5)
click(ALONE, 0)
window.key("C")
click(MOTHER, 0)
window.viewer.dims.set_point(0, 1)
window.key("Shift+V")
click(MOTHER, 1)
for track in DAUGHTERS:
    click(track, 2)
window.key("Shift+S")
window.wait(lambda: window.session.labels["current"][3].any())
np.savez(sys.argv[2], **window.session.labels)
print("working", flush=True)
while True:
    pass
"""


def test_a_window_that_is_killed_while_it_tracks_comes_back_with_its_lineage(open_tracking, movie, tmp_path):
    np.save(tmp_path / "movie.npy", movie[0])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment["MICROSAM_CACHEDIR"] = str(tmp_path / "cache")
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "movie.npy"), str(tmp_path / "labels.npz")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().strip() == "working"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    expected = np.load(tmp_path / "labels.npz")

    window = open_tracking()
    work = find_unfinished(AnnotatedImage.from_array(movie[0], ndim=3), "annotator_tracking")
    assert work.crashed and work.n_objects == 1
    np.testing.assert_array_equal(replay(work.folder).current, expected["current"])
    window.wait(lambda: window.widget.banner.isVisible())
    assert "was interrupted: 1 object" in window.widget.banner.text.text()
    window.press(window.widget.banner.restore)
    window.settle(5)
    for key in expected:
        np.testing.assert_array_equal(window.labels(key), expected[key])
    draft = window.session.draft
    assert len(draft.tracks) == 3 and draft.lineage.mothers == dict.fromkeys(draft.tracks[1:], draft.tracks[0])
    points = window.viewer.layers["point_prompts"]
    assert list(points.features["state"]) == ["track", "division", "track", "track"]
    window.key("Shift+S")  # and goes on
    done(window)
    window.key("C")
    committed, truth = window.labels("committed"), movie[1]
    for track, label in zip(draft.tracks, (MOTHER, *DAUGHTERS)):
        for frame in np.flatnonzero((truth == label).any(axis=(1, 2))):
            assert iou(committed[frame] == track, truth[frame] == label) > 0.75
    assert window.session.lineage.mothers == dict.fromkeys(draft.tracks[1:], draft.tracks[0])
