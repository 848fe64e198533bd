"""From time series to tracks in one call and one command, with the model that is part of the package."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from tracking_toys import ctc_scores

from micro_sam.automatic_segmentation import automatic_tracking, get_predictor_and_segmenter
from micro_sam.cli import automatic_segmentation as command
from micro_sam.embeddings import EmbeddingStore
from micro_sam.errors import ImageError, OutputError, ParameterError
from micro_sam.io import load_image_data, read_ctc, read_geff
from micro_sam.multi_dimensional_segmentation import (
    automatic_tracking_implementation,
    get_napari_track_data,
    iter_automatic_tracking,
)
from micro_sam.sample_data import synthetic_timeseries

SERIES = synthetic_timeseries((4, 128, 128), seed=4, diameter=22)
SHORT = SERIES.images[:2]


@pytest.fixture(scope="module")
def model():
    return get_predictor_and_segmenter("vit_t_builtin", device="cpu")


@pytest.fixture(scope="module")
def result(model):
    return automatic_tracking(*model, SERIES.images, verbose=False)


def test_an_easy_series_is_tracked(result, tmp_path):
    labels, lineages = result
    assert labels.shape == SERIES.labels.shape and labels.dtype == np.uint32
    scores = ctc_scores(tmp_path, result, (SERIES.labels, SERIES.lineages))
    assert scores["Valid"] == 1
    assert scores["TRA"] >= 0.95
    data, graph = get_napari_track_data(labels, lineages)
    assert set(data[:, 0]) == set(np.unique(labels)) - {0} and set(graph) <= set(data[:, 0])


def test_frames_may_be_encoded_together(model, result):
    labels, _ = automatic_tracking(*model, SERIES.images, batch_size=4, verbose=False)
    assert ((labels > 0) != (result[0] > 0)).mean() < 0.01  # batches are added up in another order


def test_an_interrupted_run_goes_on_with_the_frames_that_are_left(model, result, tmp_path):
    path = tmp_path / "series.zarr"
    work = iter_automatic_tracking(SERIES.images, *model, path)
    for progress in work:
        if progress.text.startswith("Compute") and progress.done == 3:
            break
    work.close()
    encoded = []
    handle = model[0].model.image_encoder.register_forward_hook(lambda m, inputs, o: encoded.append(len(inputs[0])))
    labels, lineages, embeddings = automatic_tracking(
        *model, SERIES.images, embedding_path=path, return_embeddings=True, verbose=False
    )
    handle.remove()
    assert sum(encoded) == 1
    np.testing.assert_array_equal(labels, result[0])
    assert lineages == result[1]
    assert embeddings["features"].shape[0] == len(SERIES.images) and EmbeddingStore.open(path).is_complete


def test_frames_are_read_one_at_a_time(model):
    class Lazy:
        shape, dtype, ndim = SERIES.images.shape, SERIES.images.dtype, 3

        def __getitem__(self, index):
            read.append(index[0])
            return SERIES.images[index]

    read: list[int] = []
    work = iter_automatic_tracking(Lazy(), *model)
    while next(work).done < 1:
        pass
    work.close()
    assert set(read) == {0}


def test_parameters_reach_the_segmenter_and_the_linker(model, result):
    options = {"min_size": 300, "min_time_extent": 2, "mode": "greedy_nodiv"}
    labels, lineages = automatic_tracking(*model, SHORT, verbose=False, **options)
    sizes = [size for plane in labels for size in np.bincount(plane.ravel())[1:] if size]
    assert min(sizes) >= 300 > np.bincount(result[0][0].ravel())[1:].min()
    assert all(daughters == [] for family in lineages for daughters in family.values())
    assert all((labels == track).any(axis=(1, 2)).all() for track in range(1, int(labels.max()) + 1))


def test_tiles_give_the_same_kind_of_result(tmp_path):
    predictor, segmenter = get_predictor_and_segmenter("vit_t_builtin", device="cpu", is_tiled=True)
    tiles = {"tile_shape": (96, 96), "halo": (24, 24)}
    result = automatic_tracking(predictor, segmenter, SHORT, verbose=False, **tiles)
    lineages = [{label: []} for label in np.unique(SERIES.labels[:2]) if label]
    assert ctc_scores(tmp_path, result, (SERIES.labels[:2], lineages))["DET"] > 0.9
    with pytest.raises(ParameterError, match="tile_shape"):
        automatic_tracking(predictor, segmenter, SHORT, automatic_tiling=False, verbose=False)


def test_large_frames_are_cut_into_tiles_unasked(model, monkeypatch):
    from micro_sam import automatic_segmentation as library

    monkeypatch.setattr(library, "choose_tiling", lambda plane, path, always: ((96, 96), (24, 24)))
    labels, _, embeddings = automatic_tracking(*model, SHORT[:1], return_embeddings=True, verbose=False)
    assert embeddings.is_tiled and labels.any(axis=(1, 2)).all()


def test_files_become_labels_and_a_graph(model, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", SHORT, imagej=True, metadata={"axes": "TYX"})
    labels, lineages = automatic_tracking(*model, tmp_path / "in.tif", tmp_path / "out.tif", verbose=False)
    np.testing.assert_array_equal(load_image_data(tmp_path / "out.tif"), labels)
    assert read_geff(tmp_path / "out.geff").lineages == lineages


def test_the_implementation_writes_a_folder_in_the_format_of_the_challenge(model, tmp_path):
    labels, lineages = automatic_tracking_implementation(
        SHORT, *model, verbose=False, output_folder=tmp_path / "out", center_distance_threshold=0.4
    )
    stored, stored_lineages = read_ctc(tmp_path / "out")
    np.testing.assert_array_equal(stored, labels)
    assert stored_lineages == lineages


def test_outputs_that_cannot_be_written_are_found_before_anything_is_computed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model[0].model, "image_encoder", None)
    with pytest.raises(OutputError, match="does not exist"):
        automatic_tracking(*model, SERIES.images, tmp_path / "missing" / "out.tif", verbose=False)


def test_what_is_no_time_series_is_said(model):
    for shape in [(32, 32), (2, 2, 32, 32, 3)]:
        with pytest.raises(ImageError, match=r"TYX"):
            automatic_tracking(*model, np.zeros(shape, np.uint8), verbose=False)


@pytest.fixture
def movie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite(
        "movie.tif", SERIES.images[:3], imagej=True, metadata={"axes": "TYX", "unit": "um"}, resolution=(2, 2)
    )
    return "-i movie.tif -m vit_t_builtin -d cpu"


def test_the_command_writes_labels_and_tracks(movie, capsys, tmp_path):
    assert command.main([*movie.split(), "--tracking", "-o", "tracked.tif", "--tracks", "geff", "ctc"]) == 0
    labels = load_image_data("tracked.tif")
    tracks = read_geff("tracked.geff")
    assert tracks.labels_path == tmp_path / "tracked.tif"
    assert set(tracks.points[:, 0]) == set(np.unique(labels)) - {0}
    np.testing.assert_array_equal(read_ctc("tracked_ctc")[0] > 0, labels > 0)
    n_divisions = sum(bool(daughters) for family in tracks.lineages for daughters in family.values())
    told = (
        f"{labels.max()} tracks, {n_divisions} division{'' if n_divisions == 1 else 's'} -> tracked.tif, tracked.geff"
    )
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-o out.tif --linker laptrack", "--linker belongs to --tracking"),
        ("-o out.tif --tracks ctc", "--tracks belongs to --tracking"),
        ("-o out.tif --tracking --tracking_model ctc", "--linker trackastra"),
        ("-o out.tif --tracking --min_z_extent 3", "--min_z_extent belongs to volumes"),
        ("-o out.png --tracking", "out.png"),
        ("-o movie.tif --tracking", "overwrite its own input"),
        ("-o missing/out.tif --tracking", "does not exist"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(movie, capsys, monkeypatch, flags, told):
    monkeypatch.setattr(command, "_load", None)  # found before the model is loaded
    assert command.main([*movie.split(), *flags.split()]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_the_optional_linker_that_is_not_installed_is_said_at_once(movie, capsys, monkeypatch):
    from micro_sam.cli import tracking_flags

    monkeypatch.setattr(tracking_flags, "find_spec", lambda name: None)
    assert command.main([*movie.split(), "--tracking", "-o", "out.tif", "--linker", "trackastra"]) == 2
    assert "--linker laptrack" in capsys.readouterr().err
