"""Tracks on disk: tables, Cell Tracking Challenge folders and GEFF files, written at once, read back and checked."""

from __future__ import annotations

import geff
import networkx as nx
import numpy as np
import pytest
import tifffile

from micro_sam.errors import InputError, MissingInputError, OutputError, TrackError
from micro_sam.io import read_ctc, read_geff, write_ctc, write_geff, write_labels, write_tracks
from micro_sam.io import tracks_ctc as ctc_module
from micro_sam.io.resolution import Resolution
from micro_sam.io.track_tables import check_table, check_table_fits, lineages_from_table, table_from_lineages
from micro_sam.io.tracks import check_track_paths, track_paths
from micro_sam.sample_data import synthetic_timeseries

SERIES = synthetic_timeseries((8, 96, 96), seed=3)
LABELS, LINEAGES = SERIES.labels, SERIES.lineages


def _labels(*rows: list[int]) -> np.ndarray:
    """One row of objects per frame, each two pixels wide."""
    return np.array(rows, np.uint16).repeat(2, axis=1)[:, None, :].repeat(2, axis=1)


FAMILY = _labels([1, 0, 4], [1, 0, 4], [2, 3, 4], [2, 3, 0])
FAMILY_LINEAGES = [{1: [2, 3], 2: [], 3: []}, {4: []}]
FAMILY_TABLE = [[1, 0, 1, 0], [2, 2, 3, 1], [3, 2, 3, 1], [4, 0, 2, 0]]


def test_lineages_become_a_table_and_again_lineages():
    table = table_from_lineages(FAMILY, FAMILY_LINEAGES)
    np.testing.assert_array_equal(table, FAMILY_TABLE)
    assert lineages_from_table(table) == FAMILY_LINEAGES
    check_table_fits(table, FAMILY)


def test_leaves_and_single_tracks_need_no_entry_in_lineages():
    np.testing.assert_array_equal(table_from_lineages(FAMILY, [{1: [2, 3]}]), FAMILY_TABLE)


@pytest.mark.parametrize(
    ("lineages", "told"),
    [
        ([{9: []}], "track 9, which is not in the labels"),
        ([{4: [2, 3]}], "Track 2 begins in frame 2, but its mother 4 is there until frame 2"),
        ([{2: [1]}], "Track 1 begins in frame 0, but its mother 2"),
        ([{1: [2, 3]}, {4: [3]}], "track 3 comes from 1 and 4"),
        ([{1: [1]}], "track 1 comes from itself"),
    ],
)
def test_lineages_that_do_not_fit_the_labels_are_refused(lineages, told):
    with pytest.raises(TrackError, match=told):
        table_from_lineages(FAMILY, lineages)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[1, 3, 2, 0]], "begins in frame 3 and ends in frame 2; time must run forwards"),
        ([[1, -1, 2, 0]], "begins in frame -1"),
        ([[1, 0, 9, 0]], "ends in frame 9, but there are 4 frames"),
        ([[1, 0, 1, 0], [1, 2, 3, 0]], "Track 1 is in the table twice"),
        ([[0, 0, 1, 0]], "positive, got 0"),
        ([[1, 0, 1, 7]], "comes from track 7, which is not in the table"),
        ([[1, 0, 2, 0], [2, 2, 3, 1]], "Track 2 begins in frame 2, but its mother 1 is there until frame 2"),
        ([[1, 0, 1]], r"four whole numbers per track"),
        ([[1.5, 0, 1, 0]], r"four whole numbers per track"),
    ],
)
def test_tables_that_make_no_sense_are_refused(rows, told):
    with pytest.raises(TrackError, match=told):
        check_table(np.array(rows), n_frames=4)


@pytest.mark.parametrize(
    ("row", "new", "told"),
    [
        (3, [5, 0, 2, 0], "holds label 4, which is not in the table"),
        (3, [4, 0, 3, 0], "Track 4 lasts from frame 0 to 3, but frame 3 does not hold it"),
        (3, [4, 0, 1, 0], "Track 4 lasts from frame 0 to 1, but it is also in frame 2"),
    ],
)
def test_tables_that_do_not_fit_the_labels_are_refused(row, new, told):
    table = np.array(FAMILY_TABLE)
    table[row] = new
    with pytest.raises(TrackError, match=told):
        check_table_fits(table, FAMILY)


@pytest.mark.parametrize(("reference", "first", "table"), [(False, "mask000.tif", "res_track.txt"),
                                                           (True, "man_track000.tif", "man_track.txt")])  # fmt: skip
def test_a_folder_is_read_back(tmp_path, reference, first, table):
    write_ctc(tmp_path / "tracks", LABELS, LINEAGES, reference)
    assert (tmp_path / "tracks" / first).is_file()
    assert tifffile.imread(tmp_path / "tracks" / first).dtype == np.uint16
    rows = np.loadtxt(tmp_path / "tracks" / table, dtype=int)
    np.testing.assert_array_equal(rows, table_from_lineages(LABELS, LINEAGES))
    labels, lineages = read_ctc(tmp_path / "tracks")
    np.testing.assert_array_equal(labels, LABELS)
    assert lineages == LINEAGES


def test_the_package_of_the_challenge_accepts_a_folder(tmp_path, capsys):
    from ctc_metrics import validate_sequence

    write_ctc(tmp_path / "tracks", LABELS, LINEAGES)
    assert validate_sequence(str(tmp_path / "tracks"), threads=1)["Valid"] == 1


def test_more_than_a_thousand_frames_have_four_digits(tmp_path):
    labels = np.ones((1001, 2, 2), np.uint8)
    write_ctc(tmp_path / "long", labels, [])
    names = sorted(path.name for path in (tmp_path / "long").glob("mask*"))
    assert names[:2] == ["mask0000.tif", "mask0001.tif"] and names[-1] == "mask1000.tif"
    np.testing.assert_array_equal(read_ctc(tmp_path / "long")[0], labels)


def test_volumes_over_time_and_many_tracks(tmp_path):
    labels = np.zeros((3, 2, 6, 6), np.int64)
    labels[:, :, 2:4, 2:4] = 70_000
    write_ctc(tmp_path / "tracks", labels, [{70_000: []}])
    found, lineages = read_ctc(tmp_path / "tracks")
    np.testing.assert_array_equal(found, labels)
    assert lineages == [{70_000: []}]


def test_a_track_with_a_gap_goes_on_as_its_own_daughter(tmp_path):
    labels = _labels([1, 5], [0, 5], [1, 5], [2, 3])
    write_ctc(tmp_path / "tracks", labels, [{1: [2, 3]}])
    found, lineages = read_ctc(tmp_path / "tracks")
    np.testing.assert_array_equal(found, _labels([1, 5], [0, 5], [6, 5], [2, 3]))
    assert lineages == [{1: [6], 6: [2, 3], 2: [], 3: []}, {5: []}]


def test_nothing_is_a_result_too(tmp_path):
    write_ctc(tmp_path / "tracks", np.zeros((3, 4, 4), int), [])
    labels, lineages = read_ctc(tmp_path / "tracks")
    assert labels.shape == (3, 4, 4) and not labels.any() and lineages == []
    write_geff(tmp_path / "tracks.geff", np.zeros((3, 4, 4), int), [])
    assert read_geff(tmp_path / "tracks.geff").points.shape == (0, 4)


def test_a_folder_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    write_ctc(tmp_path / "tracks", LABELS, LINEAGES)
    before = read_ctc(tmp_path / "tracks")

    def full(path, plane):
        if "mask002" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
        patch.setattr(ctc_module, "_write_mask", full)
        write_ctc(tmp_path / "tracks", FAMILY, FAMILY_LINEAGES)
    np.testing.assert_array_equal(read_ctc(tmp_path / "tracks")[0], before[0])
    assert [path.name for path in tmp_path.iterdir()] == ["tracks"]
    write_ctc(tmp_path / "tracks", FAMILY, FAMILY_LINEAGES)
    assert len(list((tmp_path / "tracks").glob("mask*"))) == len(FAMILY)


def test_what_is_no_tracking_result_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    (tmp_path / "file").write_text("x")
    for path, told in [("photos", "holiday.jpg"), ("file", "is a file"), ("missing/tracks", "does not exist")]:
        with pytest.raises(OutputError, match=told):
            write_ctc(tmp_path / path, FAMILY, FAMILY_LINEAGES)
    for path in ("photos", "file"):
        with pytest.raises(OutputError, match="no GEFF file"):
            write_geff(tmp_path / path, FAMILY, FAMILY_LINEAGES)
    assert (tmp_path / "photos" / "holiday.jpg").is_file() and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("damage", "error", "told"),
    [
        (lambda f: (f / "res_track.txt").unlink(), MissingInputError, "neither res_track.txt nor man_track.txt"),
        (lambda f: (f / "mask001.tif").unlink(), MissingInputError, "lacks the label image of frame 1"),
        (lambda f: (f / "mask001.tif").write_bytes(b"II*"), InputError, "mask001.tif.*TIFF"),
        (lambda f: tifffile.imwrite(f / "mask001.tif", np.zeros((3, 3), int)), InputError, r"shape \(3, 3\)"),
        (lambda f: tifffile.imwrite(f / "mask001.tif", np.zeros((2, 6))), InputError, "float64"),
        (lambda f: tifffile.imwrite(f / "mask1.tif", np.zeros((2, 6), int)), InputError, "the same frame"),
        (lambda f: (f / "res_track.txt").write_text("1 0 1\n"), InputError, "Line 1 .*'1 0 1'.*L B E P"),
        (lambda f: (f / "res_track.txt").write_text("1 0 1 zero\n"), InputError, "Line 1"),
        (lambda f: (f / "res_track.txt").write_text("1 1 0 0\n"), InputError, "time must run forwards"),
        (lambda f: (f / "res_track.txt").write_text("1 0 1 0\n"), InputError, "not in the table"),
    ],
)
def test_damaged_folders_are_said_in_one_sentence(tmp_path, damage, error, told):
    folder = tmp_path / "tracks"
    write_ctc(folder, FAMILY, FAMILY_LINEAGES)
    damage(folder)
    with pytest.raises(error, match=told) as raised:
        read_ctc(folder)
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(MissingInputError, match="no folder"):
        read_ctc(tmp_path / "tracks")


def test_a_graph_is_read_back(tmp_path):
    path = tmp_path / "tracks.geff"
    write_geff(path, FAMILY, FAMILY_LINEAGES, Resolution({"y": 0.5, "x": 0.25}, "micrometer"), tmp_path / "labels.tif")
    tracks = read_geff(path)
    assert tracks.lineages == FAMILY_LINEAGES and tracks.graph == {2: [1], 3: [1]} and tracks.axes == ("y", "x")
    assert tracks.labels_path == tmp_path / "labels.tif"
    expected = [
        (1, 0, 0.5, 0.5),
        (1, 1, 0.5, 0.5),
        (2, 2, 0.5, 0.5),
        (2, 3, 0.5, 0.5),
        (3, 2, 0.5, 2.5),
        (3, 3, 0.5, 2.5),
    ]
    np.testing.assert_array_equal(tracks.points, [*expected, *((4, t, 0.5, 4.5) for t in range(3))])


def test_a_graph_says_what_it_holds(tmp_path):
    path = tmp_path / "tracks.geff"
    write_geff(path, FAMILY, FAMILY_LINEAGES, Resolution({"y": 0.5, "x": 0.25}, "micrometer"))
    geff.validate_structure(path)
    graph, metadata = geff.read(path)
    axes = [(axis.name, axis.type, axis.scale, axis.scaled_unit) for axis in metadata.axes]
    assert axes == [("t", "time", None, None), ("y", "space", 0.5, "micrometer"), ("x", "space", 0.25, "micrometer")]
    assert metadata.track_node_props == {"lineage": "lineage_id", "tracklet": "track_id"}
    assert nx.number_weakly_connected_components(graph) == 2
    assert sorted(data["lineage_id"] for _, data in graph.nodes(data=True)) == [1] * 6 + [4] * 3
    assert {data["area"] for _, data in graph.nodes(data=True)} == {4}


def test_graphs_agree_with_tracks_of_a_simulated_series(tmp_path):
    from micro_sam.multi_dimensional_segmentation import get_napari_track_data

    write_geff(tmp_path / "tracks.geff", LABELS, LINEAGES)
    tracks = read_geff(tmp_path / "tracks.geff")
    data, graph = get_napari_track_data(LABELS, LINEAGES)
    np.testing.assert_allclose(tracks.points, data)
    assert tracks.graph == dict(sorted(graph.items())) and tracks.lineages == LINEAGES


def test_gaps_and_volumes_in_graphs(tmp_path):
    labels = np.zeros((4, 3, 8, 8), np.uint8)
    labels[[0, 1, 3], 1:, 2:4, 2:6] = 1
    write_geff(tmp_path / "tracks.geff", labels, [])
    tracks = read_geff(tmp_path / "tracks.geff")
    np.testing.assert_array_equal(tracks.points, [(1, t, 1.5, 2.5, 3.5) for t in (0, 1, 3)])
    assert tracks.axes == ("z", "y", "x")


def _write_graph(path, edges, times, names=None, graph=None, axes=("t", "y", "x")) -> None:
    graph = nx.DiGraph() if graph is None else graph
    for node, time in enumerate(times):
        extra = {} if names is None else {"track_id": names[node]}
        graph.add_node(node, t=time, y=float(node), x=0.0, **extra)
    graph.add_edges_from(edges)
    geff.write(graph, path, axis_names=list(axes), axis_types=["time" if a == "t" else "space" for a in axes])


def test_graphs_of_other_programs_need_not_name_their_tracks(tmp_path):
    _write_graph(tmp_path / "other.geff", [(0, 1), (1, 2), (1, 3)], [0, 1, 2, 2])
    tracks = read_geff(tmp_path / "other.geff")
    assert tracks.lineages == [{1: [2, 3], 2: [], 3: []}]
    np.testing.assert_array_equal(tracks.points[:, :2], [(1, 0), (1, 1), (2, 2), (3, 2)])
    assert tracks.labels_path is None


def test_a_name_that_daughters_share_with_their_mother_is_given_once(tmp_path):
    _write_graph(tmp_path / "other.geff", [(0, 1), (0, 2)], [0, 1, 1], names=[7, 7, 7])
    assert read_geff(tmp_path / "other.geff").lineages == [{7: [8, 9], 8: [], 9: []}]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"edges": [(0, 1)], "times": [1, 0]}, "forwards in time, but one goes from 1 to 0"),
        ({"edges": [(0, 1)], "times": [1, 1]}, "forwards in time"),
        ({"edges": [(0, 2), (1, 2)], "times": [0, 0, 1]}, "comes from 1 and 2"),
        ({"edges": [(0, 1)], "times": [0, 1], "graph": nx.Graph()}, "not directed"),
        ({"edges": [], "times": [0], "axes": ("y", "x")}, "one axis of time"),
        ({"edges": [], "times": [0], "axes": ("t", "x")}, "its axes are: t, x"),
    ],
)
def test_graphs_that_are_no_tracks_are_refused(tmp_path, arguments, told):
    _write_graph(tmp_path / "other.geff", **arguments)
    with pytest.raises(InputError, match=told) as raised:
        read_geff(tmp_path / "other.geff")
    assert "\n" not in str(raised.value)


def test_what_is_no_graph_is_said_in_one_sentence(tmp_path):
    with pytest.raises(MissingInputError, match="no file"):
        read_geff(tmp_path / "missing.geff")
    write_labels(tmp_path / "labels.zarr", FAMILY)
    with pytest.raises(InputError, match="cannot be read as a GEFF file") as raised:
        read_geff(tmp_path / "labels.zarr")
    assert "\n" not in str(raised.value)


def test_a_graph_is_replaced_and_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "tracks.geff"
    write_geff(path, LABELS, LINEAGES)
    write_geff(path, FAMILY, FAMILY_LINEAGES)
    with pytest.raises(TrackError):
        write_geff(path, FAMILY, [{9: []}])
    assert read_geff(path).lineages == FAMILY_LINEAGES
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.geff"]


@pytest.mark.parametrize(
    ("output", "formats", "expected"),
    [
        ("a.tif", ("geff",), {"labels": "a.tif", "geff": "a.geff"}),
        ("a.ome.tif", ("geff", "ctc"), {"labels": "a.ome.tif", "geff": "a.geff", "ctc": "a_ctc"}),
        ("a.zarr", (), {"labels": "a.zarr"}),
        ("a.geff", ("ctc",), {"geff": "a.geff"}),
        ("a", ("geff",), {"ctc": "a"}),
    ],
)
def test_the_path_says_what_is_written(tmp_path, output, formats, expected):
    paths = write_tracks(tmp_path / output, FAMILY, FAMILY_LINEAGES, formats=formats)
    assert {kind: path.name for kind, path in paths.items()} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected.values())
    check_track_paths(track_paths(tmp_path / output, formats))  # each may be replaced


def test_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"\.tif, \.zarr, \.geff or a folder"):
        write_tracks(tmp_path / "tracks.csv", FAMILY, FAMILY_LINEAGES)


def test_labels_say_that_their_first_axis_is_time(tmp_path):
    write_tracks(tmp_path / "tracks.tif", FAMILY, FAMILY_LINEAGES, Resolution({"y": 0.5, "x": 0.5}, "micrometer"))
    with tifffile.TiffFile(tmp_path / "tracks.tif") as tif:
        assert tif.series[0].axes == "TYX"
    assert read_geff(tmp_path / "tracks.geff").labels_path == tmp_path / "tracks.tif"
