"""The tracking annotator in a real napari window: keys, clicks on the canvas, and the tracks that come of it."""

from __future__ import annotations

import numpy as np
from annotator_toys import iou
from movie_toys import ALONE, DAUGHTERS, MOTHER, centre
from tracking_windows import click, done, go_to
from window_driver import Window

from micro_sam.cli import annotator_tracking as command
from micro_sam.io import read_ctc, read_tracks, write_tracks
from micro_sam.sam_annotator import AnnotatorTracking, annotator_tracking, create_tracking_menu
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel


def test_click_divide_track_commit_undo(open_tracking, movie):
    truth = movie[1]
    window = open_tracking(ready=False, scale=(2.0, 0.5, 0.5))
    window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 90)
    assert window.widget.width() <= 320
    click(window, MOTHER, 0)
    assert iou(window.labels("current")[0] == 1, truth[0] == MOTHER) > 0.8 and "Shift+S" in window.status
    go_to(window, 1)
    window.key("Shift+V")
    assert "before it divides" in window.status
    window.click(*centre(MOTHER, 1))
    window.answered()
    window.settle(5)
    assert window.controller.layers.current_slice() == 2  # where the daughters are seen first
    assert "track 2 first" in window.status and window.widget.follow.menu.track.currentText() == "2"
    window.click(*centre(DAUGHTERS[0], 2))
    window.answered()
    window.settle(3)
    assert "other daughter, track 3" in window.status
    window.press(window.widget.segment.tools["rectangle"])
    rows, columns = np.nonzero(truth[2] == DAUGHTERS[1])
    window.drag([(rows.min(), columns.min()), centre(DAUGHTERS[1], 2), (rows.max(), columns.max())])
    window.answered()
    window.settle(3)
    prompts = window.session.prompts
    assert [(p.track_id, p.state, p.i) for p in (*prompts.points, *prompts.shapes)] == [
        (1, "track", 0), (1, "division", 1), (2, "track", 2), (3, "track", 2),
    ]  # fmt: skip

    window.key("Shift+S")
    assert window.controller.jobs.is_running("following")
    window.key("C")  # while it is being tracked
    assert "Still tracking" in window.status
    window.wait(lambda: window.labels("committed").any())
    window.settle(5)
    for track, label in zip((1, 2, 3), (MOTHER, *DAUGHTERS)):
        for frame in np.flatnonzero((truth == label).any(axis=(1, 2))):
            assert iou(window.labels("committed")[frame] == track, truth[frame] == label) > 0.8
    tracks = window.viewer.layers["tracks"]
    assert tracks.graph == {2: [1], 3: [1]} and len(tracks.data) == 6
    np.testing.assert_allclose(tracks.scale[-3:], (2.0, 0.5, 0.5))
    assert window.session.lineages() == [{1: [2, 3], 2: [], 3: []}]

    window.key("Ctrl+Z")
    window.settle(5)
    assert "tracks" not in window.viewer.layers and not window.labels("committed").any()
    assert set(np.unique(window.labels("current"))) == {0, 1, 2, 3} and len(window.session.prompts) == 4
    assert list(window.viewer.layers["point_prompts"].features["state"]) == ["track", "division", "track"]
    window.key("Ctrl+Z")  # the tracking, as one step
    assert not window.labels("current")[3].any() and window.labels("current")[2].any()
    window.key("Ctrl+Shift+Z")
    window.key("Ctrl+Shift+Z")
    window.settle(5)
    assert window.viewer.layers["tracks"].graph == {2: [1], 3: [1]}


def test_tracks_are_corrected_and_relinked_by_clicks(open_tracking, movie):
    window = open_tracking(tracks=True)
    before = window.labels("committed").copy()
    assert window.viewer.layers["tracks"].graph == {d: [MOTHER] for d in DAUGHTERS}

    go_to(window, 1)
    window.press(window.widget.tracks.tools["cut"])
    window.click(*centre(MOTHER, 1))
    new = int(before.max()) + 1
    assert (window.labels("committed")[1] == new).any() and f"goes on as track {new}" in window.status
    window.settle(5)
    assert window.viewer.layers["tracks"].graph == {d: [new] for d in DAUGHTERS}
    window.key("Escape")
    window.hover(*centre(MOTHER, 1))
    window.key("Shift+J")
    go_to(window, 0)
    window.hover(*centre(MOTHER, 0))
    window.key("Shift+J")
    np.testing.assert_array_equal(window.labels("committed"), before)

    go_to(window, 2)
    window.press(window.widget.tracks.tools["relink"])
    window.click(*centre(DAUGHTERS[0], 2))
    assert "mother" in window.status
    window.click(5, 5)  # background
    assert window.session.lineage == Lineage.of({DAUGHTERS[1]: MOTHER})
    window.click(*centre(DAUGHTERS[0], 2))
    go_to(window, 1)
    window.click(*centre(MOTHER, 1))
    assert window.session.lineage == Lineage.of(dict.fromkeys(DAUGHTERS, MOTHER))
    window.click(*centre(MOTHER, 1))
    go_to(window, 2)
    window.click(*centre(DAUGHTERS[0], 2))
    assert window.widget.status.kind == "error" and "begins after" in window.status
    window.key("Escape")

    go_to(window, 3)
    window.hover(*centre(DAUGHTERS[0], 3))
    window.key("Shift+R")
    assert not (window.labels("committed")[3] == DAUGHTERS[0]).any()
    go_to(window, 2)
    window.hover(*centre(DAUGHTERS[0], 2))
    window.key("Shift+E")
    assert window.session.correcting.label == DAUGHTERS[0]
    assert window.widget.follow.menu.track.currentText() == str(DAUGHTERS[0])
    click(window, DAUGHTERS[0], 3)
    window.key("C")
    assert iou(window.labels("committed")[3] == DAUGHTERS[0], movie[1][3] == DAUGHTERS[0]) > 0.8
    assert window.session.lineage.mother(DAUGHTERS[0]) == MOTHER

    go_to(window, 0)
    window.hover(*centre(MOTHER, 0))
    window.key("Shift+D")
    window.settle(5)
    assert not (window.labels("committed") == MOTHER).any() and not window.viewer.layers["tracks"].graph
    window.viewer.layers.remove("tracks")
    window.key("Ctrl+Z")
    window.settle(5)
    assert window.viewer.layers["tracks"].graph == {d: [MOTHER] for d in DAUGHTERS}


def test_tracking_everything_saving_and_loading(open_tracking, movie, tmp_path):
    truth = movie[1]
    window = open_tracking()
    window.press(window.widget.automatic.run)
    window.wait(lambda: window.labels("auto").any(), 60)
    found = window.session.auto_lineage.mothers
    assert len(found) == 2 and "divisions found" in window.status
    window.press(window.widget.automatic.commit)
    window.settle(5)
    committed = window.labels("committed").copy()
    whole = [t for t in np.unique(truth) if t and all((plane == t).any() for plane in truth)]
    kept = [t for t in whole if len({*np.unique(committed[truth == t])} - {0}) >= 1]
    scores = [max(iou(committed == k, truth == t) for k in np.unique(committed[truth == t]) if k) for t in kept]
    assert len(kept) == len(whole) and np.median(scores) > 0.8
    assert len(window.viewer.layers["tracks"].graph) == 2

    for name in ("saved", "saved.geff"):
        window.controller.save(str(tmp_path / name))
        done(window)
        assert "Saved to" in window.status, window.status
    labels, families = read_ctc(tmp_path / "saved")
    links = window.session.lineage
    np.testing.assert_array_equal(labels, committed)
    assert Lineage.from_families(families) == links
    np.testing.assert_array_equal(read_tracks(tmp_path / "saved.tif")[0], committed)

    window.controller.session.empty("committed", "Removed everything")
    window.controller.load(str(tmp_path / "saved.geff"))
    done(window)
    np.testing.assert_array_equal(window.labels("committed"), committed)
    assert window.session.lineage == links and "Loaded" in window.status
    window.controller.load(str(tmp_path / "nowhere"))
    done(window)
    assert window.widget.status.kind == "error" and "nowhere" in window.status


def test_work_on_tracks_comes_back_in_a_new_window(open_tracking, movie):
    window = open_tracking(tracks=True)
    go_to(window, 1)
    window.hover(*centre(MOTHER, 1))
    window.key("Shift+K")
    window.key("Shift+V")
    click(window, ALONE, 1)
    committed, draft, lineage = window.labels("committed").copy(), window.session.draft, window.session.lineage
    assert len(draft.tracks) == 3
    window.viewer.close()

    window = open_tracking()
    window.wait(lambda: window.widget.banner.isVisible())
    window.press(window.widget.banner.restore)
    window.settle(5)
    np.testing.assert_array_equal(window.labels("committed"), committed)
    assert (window.session.draft, window.session.lineage) == (draft, lineage)
    assert window.viewer.layers["tracks"].graph == {d: [m] for d, m in lineage.links}
    menu = window.widget.follow.menu.track
    assert [menu.itemData(k) for k in range(menu.count())] == list(draft.tracks)
    window.key("Shift+N")
    assert window.controller.layers.active_track == draft.tracks[1]


def test_tracking_is_cancelled_and_undone_while_it_runs(open_tracking, movie):
    window = open_tracking()
    click(window, ALONE, 0)
    window.key("Shift+S")
    window.wait(lambda: window.labels("current")[1:].any())
    window.key("Ctrl+Z")  # the tracking so far; the rest does not come any more
    window.settle(20)
    assert not window.controller.jobs.is_running() and not window.labels("current")[1:].any()
    assert window.labels("current")[0].any()
    window.key("Shift+S")
    window.key("C")  # would commit what was tracked, but it is cancelled
    window.controller.cancel()
    window.settle(20)
    assert "Cancelled" in window.status and not window.controller.jobs.is_running()
    assert not window.labels("committed").any()
    window.key("Shift+S")
    window.controller.follow()  # once more while it runs
    assert window.widget.status.kind == "error" and "already" in window.status
    done(window)
    assert all(iou(mine, true == ALONE) > 0.8 for mine, true in zip(window.labels("current"), movie[1]))
    window.key("Shift+C")
    assert not window.labels("current").any()
    window.key("Shift+S")
    assert window.widget.status.kind == "error" and "Nothing is annotated" in window.status


def test_the_function_and_the_command_open_tracks(make_napari_viewer, movie, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "cache"))
    import tifffile

    write_tracks(tmp_path / "tracked.tif", movie[1], movie[2])
    tifffile.imwrite(tmp_path / "movie.tif", movie[0], photometric="minisblack", metadata={"axes": "TYX"})
    opened = []
    monkeypatch.setattr(
        "micro_sam.sam_annotator.annotator_tracking",
        lambda image, **options: opened.append((image, options)),
        raising=False,
    )
    flags = ["-i", str(tmp_path / "movie.tif"), "-m", "vit_t_builtin", "-d", "cpu"]
    assert command.main([*flags, "--tracking_result", str(tmp_path / "tracked.geff"), "--no-live"]) == 0
    [(image, options)] = opened
    labels, families = options.pop("tracking_result")
    np.testing.assert_array_equal(labels, movie[1])
    assert options["live"] is False and options["model_type"] == "vit_t_builtin"
    assert command.main([*flags, "--tracking_result", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err

    viewer = make_napari_viewer(show=True)
    names = {"model_type": "vit_t_builtin", "device": "cpu", "viewer": viewer, "return_viewer": True}
    annotator_tracking(np.asarray(image), tracking_result=(labels, families), scale=(1.0, 0.5, 0.5), **names)
    window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    window.settle(5)
    assert viewer.layers["tracks"].graph == {d: [MOTHER] for d in DAUGHTERS}
    second = AnnotatorTracking(viewer, reset_state=False)  # takes over labels and lineage of the one before
    window.wait(lambda: second.controller.session.lineage.links)
    assert window.controller._closed
    np.testing.assert_array_equal(second.controller.session.labels["committed"], labels)
    assert second.controller.session.lineage == Lineage.of(dict.fromkeys(DAUGHTERS, MOTHER))
    second.controller.close()


def test_the_menu_sets_what_the_next_prompts_say(make_napari_viewer):
    viewer = make_napari_viewer()
    features = {"track_id": np.array(["1"], object), "state": np.array(["track"], object)}
    points = viewer.add_points([[0, 5, 5]], features={**features, "label": np.array(["negative"], object)})
    shapes = viewer.add_shapes([np.zeros((4, 3))], features=features)
    menu = create_tracking_menu(points, shapes, ["track", "division"], ["1", "2"])
    menu.track.setCurrentIndex(1)
    menu.state.setCurrentIndex(1)
    for layer in (points, shapes):
        assert layer.feature_defaults["track_id"].iloc[0] == "2"
        assert layer.feature_defaults["state"].iloc[0] == "division"
    assert points.feature_defaults["label"].iloc[0] == "negative"
    assert create_tracking_menu(points, shapes, ["track"], ["1", "2", "3"], menu) is menu and menu.track.count() == 3
